//! What the gateway and the backend both speak, and nothing else: the names of the headers that
//! cross between them, ids, the error body, and how both write to their standard output.
//!
//! Beyond that this crate does no I/O, and it knows no secret. What only one side uses lives on that side.

pub mod header;
pub mod id;
pub mod metrics;
pub mod problem;
pub mod say;
