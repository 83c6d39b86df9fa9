//! Crate.

pub mod executor;
pub mod supervisor;
