//! The one integration binary: every module holds what its name says, over real sockets, with the
//! real programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail"
)]

mod backend_api;
mod backend_events;
mod backend_faults;
mod backend_queues;
mod backend_retention;
mod backend_runs;
mod backend_schedules;
mod backend_start;
mod backend_webhooks;
mod canary;
mod confinement;
mod gateway_explain;
mod gateway_forwarding;
mod gateway_insecure;
mod gateway_keys;
mod gateway_limits;
mod gateway_policy;
mod gateway_posture;
mod gateway_refusals;
mod gateway_seeing;
mod gateway_senders;
mod gateway_spool;
mod gateway_tls;
mod guards;
mod guide_load_balancer;
mod harness;
mod ops_reference;
mod ops_up;
mod sandbox;
mod sandbox_docker;
mod sandbox_stack;
mod stack;
mod supervisor;
