//! Orket's inside: what work is there, and where does it run?
//!
//! The way of a request: `listen` admits a peer → `api` reads it strictly → one method of
//! [`store::Store`] makes the whole transition durable → the `scheduler` claims what is queued and
//! hands it to the `executor`, whose supervisors outlive this process.
//!
//! Dependencies point one way: `api`, `webhook` and `scheduler` use `sandbox`, `executor` and
//! `store`; those use the pure cores `card`, `run` and `sandbox_state`. `start` alone knows all.
//! Nothing here knows a caller's credential: the gateway has judged those before.

// `orket_shared::say` does not panic when nobody reads any more.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod api;
pub mod card;
pub mod cli;
pub mod clock;
pub mod config;
pub mod confine;
pub mod crash_point;
pub mod executor;
pub mod listen;
pub mod metrics;
pub mod plan;
pub mod retention;
pub mod run;
pub mod sandbox;
pub mod sandbox_state;
pub mod schedule;
pub mod scheduler;
pub mod settings;
#[cfg(test)]
mod simulation;
mod start;
pub mod store;
pub mod supervisor;
pub mod webhook;
pub mod work;
pub mod workspace;

pub use start::{Backend, StartError, rehearse};

/// Makes a directory that is closed to everyone else, also where it exists.
pub(crate) fn private_dir(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}
