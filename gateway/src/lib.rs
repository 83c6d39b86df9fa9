//! The door of Orket: decides *may this request come in?*, and knows nothing of runs or sandboxes.
//!
//! # The life of a request
//!
//! [`connection`] hands pingora one complete, unambiguous head, or notes why not. [`proxy`] makes a
//! [`request_head`] of it, a strict view. [`pipeline`] is the whole order of checks on one screen; each
//! check is a [`guard`]. What comes out is a permit, and [`upstream`] strips, stamps and forwards; or a
//! [`denial`], one reason from one list, answered in one shape.
//!
//! [`config`] is the policy as written, [`policy`] the same as meant, [`builtin`] the one that needs no file.

// `orket_shared::say` does not panic when nobody reads any more.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod account;
pub mod bodies;
pub mod budget;
pub mod builtin;
pub mod canary;
pub mod config;
pub mod connection;
pub mod control;
pub mod denial;
pub mod edge;
pub mod exchange;
pub mod explain;
pub mod file_lock;
pub mod guard;
pub mod hearing;
pub mod issued_key;
pub mod key_ledger;
pub mod keys;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod pipeline;
pub mod plain_file;
pub mod policy;
pub mod presence;
pub mod proxy;
pub mod rehearsal;
pub mod reload;
pub mod replay;
pub mod request_head;
pub mod route;
pub mod secret;
pub mod server;
pub mod spool;
pub mod state;
pub mod streams;
pub mod tls;
pub mod trace;
pub mod upstream;
pub mod webhook;
