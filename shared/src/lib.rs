//! What the gateway and the backend both speak, and nothing else: the names of the headers that
//! cross between them, ids, and the error body.
//!
//! This crate does no I/O and knows no secret. What only one side uses lives on that side.

pub mod header;
pub mod id;
pub mod problem;
