//! One request on its way through the gateway: what its phases hand to each other.

use std::{net::IpAddr, sync::Arc, time::Instant};

use orket_shared::id::new_ulid;

use crate::{
    connection::Connection,
    denial::{NamedKey, Reason},
    hearing::ShadowDenial,
    pipeline::{Admitted, Snapshot},
    streams::Stream,
};

/// One request. Holds one policy snapshot from beginning to end: a reload never changes it.
#[derive(Debug)]
pub struct Exchange {
    /// Its id, in every answer and every log record.
    pub request_id: String,
    /// When its head was complete.
    pub started: Instant,
    /// What it is judged by.
    pub snapshot: Arc<Snapshot>,
    /// The connection it came on; `None` only if pingora lost it, and then nothing is admitted.
    pub connection: Option<Arc<Connection>>,
    /// The judged client address.
    pub client: Option<IpAddr>,
    /// How far it has come.
    pub stage: Stage,
    /// What rules in shadow mode would have refused.
    pub shadowed: Vec<ShadowDenial>,
    /// Its place among the answers that can be closed while they run.
    pub stream: Option<Stream>,
}

/// How far a request has come.
#[derive(Debug)]
pub enum Stage {
    /// Not decided.
    Judging,
    /// On its way to the upstream, with the permit.
    Admitted {
        /// The permit.
        admitted: Box<Admitted>,
        /// How much of the body was handed on.
        passed: usize,
        /// Whether the connection may become a WebSocket.
        websocket: bool,
    },
    /// Refused, and answered by us.
    Refused {
        /// The true reason.
        reason: Reason,
        /// The route, where one was found.
        route: Option<Arc<str>>,
        /// The key it is about.
        key: Option<Box<NamedKey>>,
    },
    /// Answered by us in good order: health, a duplicate.
    Answered {
        /// What was answered.
        what: &'static str,
    },
}

impl Exchange {
    /// A new request, judged by this snapshot.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            request_id: new_ulid(),
            started: Instant::now(),
            snapshot,
            connection: None,
            client: None,
            stage: Stage::Judging,
            shadowed: Vec::new(),
            stream: None,
        }
    }
}
