//! The harness: starts the real programs and speaks to them over real sockets.
//!
//! A test starts what it needs ([`Gateway`], [`Backend`], or both as a [`Stack`]), sends exact
//! bytes with [`wire`], and looks at what came back. What reaches the inside is seen by
//! [`Upstream`], a server that writes down the bytes it gets: the one stand-in there is, because a
//! real backend could not be asked what it was sent.
//!
//! Nothing here waits by sleeping for a guessed time: [`eventually`] polls a condition until its
//! deadline. Start reading at [`Gateway`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness speaks by failing the test that uses it"
)]

pub mod backend;
pub mod convergence;
pub mod corpus;
pub mod disk;
pub mod engine;
pub mod gateway;
pub mod gitea;
pub mod policy;
pub mod program;
pub mod refusal;
pub mod repository;
pub mod sender;
pub mod snapshot;
pub mod stack;
pub mod tls;
pub mod upstream;
pub mod wait;
pub mod watch;
pub mod wire;

pub use backend::Backend;
pub use gateway::Gateway;
pub use gitea::Delivery;
pub use policy::Policy;
pub use refusal::{Cases, assert_refused};
pub use stack::Stack;
pub use upstream::{Reaction, Upstream};
pub use wait::{DEADLINE, eventually};
pub use watch::{Told, Watch};
pub use wire::{Address, Answer, Connection, Request};
