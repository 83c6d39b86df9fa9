//! Orket's inside: what work is there, and where does it run?
//!
//! The way of a request: `listen` admits a peer → `api` reads it strictly → one method of
//! [`store::Store`] makes the whole transition durable → the `scheduler` claims what is queued and
//! hands it to the `executor`, whose supervisors outlive this process.
//!
//! Dependencies point one way: `api`, `webhook` and `scheduler` use `sandbox`, `executor` and
//! `store`; those use the pure cores `card`, `run` and `sandbox_state`. This file alone knows all.
//! Nothing here knows a caller's credential: the gateway has judged those before.

pub mod store;
