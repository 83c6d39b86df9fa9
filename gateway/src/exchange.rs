//! One request on its way through the gateway: what its phases hand to each other.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use orket_shared::id::new_ulid;

use crate::{
    account::{self, End},
    connection::Connection,
    denial::{NamedKey, Reason},
    edge::Edge,
    hearing::ShadowDenial,
    log::record::UpstreamLeg,
    pipeline::{Admitted, Snapshot},
    streams::Stream,
    trace::Trace,
};

/// One request. Holds one policy snapshot from beginning to end: a reload never changes it. However it ends, also by
/// a panic, it is accounted for once.
#[derive(Debug)]
pub struct Exchange {
    /// What all requests share.
    pub edge: Arc<Edge>,
    /// Its id, in every answer and every log record.
    pub request_id: String,
    /// The trace it belongs to.
    pub trace: Trace,
    /// When its head was complete.
    pub started: Instant,
    /// What it is judged by.
    pub snapshot: Arc<Snapshot>,
    /// The connection it came on; `None` only if pingora lost it, and then nothing is admitted.
    pub connection: Option<Arc<Connection>>,
    /// The judged client address.
    pub client: Option<IpAddr>,
    /// Its method, once its head is known to be its own.
    pub method: Option<&'static str>,
    /// How far it has come.
    pub stage: Stage,
    /// Why its answer broke off after its head.
    pub cut: Option<Reason>,
    /// What rules in shadow mode would have refused.
    pub shadowed: Vec<ShadowDenial>,
    /// The upstream it was given to.
    pub upstream: Option<Leg>,
    /// Its place among the answers that can be closed while they run.
    pub stream: Option<Stream>,
    /// How its answer flows.
    pub flow: Flow,
    account: Account,
}

/// Whether a request has been accounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Account {
    Open,
    Settled,
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
        /// The limit that refused, by its id.
        limit: Option<Arc<str>>,
    },
    /// Answered by us: the gateway is alive.
    Health,
    /// Answered by us: the delivery was done before.
    Duplicate {
        /// The route.
        route: Arc<str>,
    },
    /// Answered by us: the delivery is kept, and is handed over later.
    Spooled {
        /// The permit.
        admitted: Box<Admitted>,
    },
}

/// What the upstream has to do with a request.
#[derive(Debug)]
pub struct Leg {
    /// When it was tried first.
    pub begun: Instant,
    /// What is written down of it.
    pub seen: UpstreamLeg,
}

/// How an answer flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// To its end, which is near.
    Answer,
    /// For as long as someone listens: a tunnel, an event stream.
    Stream,
}

impl Exchange {
    /// A new request, judged by the policy in force.
    pub fn new(edge: Arc<Edge>) -> Self {
        Self {
            request_id: new_ulid(),
            trace: Trace::new(),
            started: Instant::now(),
            snapshot: edge.snapshot(),
            edge,
            connection: None,
            client: None,
            method: None,
            stage: Stage::Judging,
            cut: None,
            shadowed: Vec::new(),
            upstream: None,
            stream: None,
            flow: Flow::Answer,
            account: Account::Open,
        }
    }

    /// The request has ended like this.
    pub fn end(&mut self, end: End) {
        if self.account == Account::Open {
            self.account = Account::Settled;
            account::settle(self, end);
        }
    }

    /// The upstream of this index is tried now.
    pub fn try_upstream(&mut self, index: usize) {
        let leg = self.upstream.get_or_insert_with(|| Leg {
            begun: Instant::now(),
            seen: UpstreamLeg {
                index,
                attempts: 0,
                reused: None,
                first_byte: None,
            },
        });
        leg.seen.attempts += 1;
        leg.seen.reused = None;
    }

    /// The upstream of this index was asked outside of the proxy's phases, and answered after this time.
    pub fn upstream_relayed(&mut self, index: usize, first_byte: Duration) {
        self.try_upstream(index);
        if let Some(leg) = &mut self.upstream {
            leg.seen.reused = Some(false);
            leg.seen.first_byte = Some(first_byte);
        }
    }

    /// The head of the upstream's answer is here.
    pub fn upstream_answered(&mut self) {
        if let Some(leg) = &mut self.upstream {
            leg.seen.first_byte.get_or_insert(leg.begun.elapsed());
        }
    }
}

impl Drop for Exchange {
    /// Whatever ended it without telling: a fault of ours, or the end of the program.
    fn drop(&mut self) {
        self.end(End::default());
    }
}

/// A method as it stands in records. The gate lets no other through.
pub fn method_name(method: &Method) -> Option<&'static str> {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|name| *name == method.as_str())
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test may fail, and a request here has to")]
mod tests {
    use super::*;
    use crate::{
        log::Queue,
        metrics::{RequestLabels, RouteLabel},
        policy::{Origin, load},
        rehearsal,
    };

    #[test]
    fn a_request_that_a_panic_ends_is_counted_once() {
        let text = r#"
version = 1
[posture]
environment = "local"
[upstreams.b]
address = "127.0.0.1:1"
[[routes]]
id = "open"
path = "/open"
methods = ["GET"]
auth = { kind = "none" }
upstream = "b"
"#;
        let loaded = load::load(text, "t", Origin::BuiltIn, &|_| None);
        let ready = loaded.and_then(|loaded| rehearsal::ready(loaded, None));
        let ready = ready.unwrap_or_else(|problems| panic!("{problems}"));
        let edge = Arc::new(Edge::new(ready.snapshot, Queue::nowhere()));
        let shared = edge.clone();
        let ended = std::thread::spawn(move || {
            let _exchange = Exchange::new(shared);
            panic!("a fault while a request is judged");
        });
        assert!(ended.join().is_err());
        let count = |outcome| {
            edge.metrics.requests.count(&RequestLabels {
                route: RouteLabel::default(),
                outcome,
                actor: "none",
                status: 0.into(),
            })
        };
        assert_eq!(count("panicked"), 1);
        // One that is merely let go is another thing.
        drop(Exchange::new(edge.clone()));
        assert_eq!((count("panicked"), count("abandoned")), (1, 1));
    }
}
