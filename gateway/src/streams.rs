//! The answers that are still running: WebSocket tunnels, event streams, whatever has no end in sight. Each can be closed from
//! outside its request: when its key is revoked or expires, and when a reload brings a policy into force that would not admit it.
//!
//! An ordinary answer never comes here. There is one entry at most for each connection, so the cap on connections bounds the
//! table. It must never outlive its request: [`Stream`] takes the entry out when it is dropped.

mod judge;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use http::{Method, StatusCode, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use pingora_http::ResponseHeader;
use tokio::sync::Notify;

use crate::{
    connection::Connection,
    denial::Reason,
    guard::{Actor, Credential},
    metrics::{Metrics, ReasonLabels},
    policy::Policy,
};

/// An answer of a known length above this is followed, too: it may take its time.
const LONG_ANSWER_BYTES: u64 = 1024 * 1024;

/// The clock of the wall may be set: it is looked at again at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What was admitted, to be judged again.
#[derive(Debug)]
pub struct Claim {
    /// The request's id.
    pub request_id: String,
    /// Its method.
    pub method: Method,
    /// Its path as judged.
    pub path: String,
    /// The judged client address.
    pub client: IpAddr,
    /// The route that took it.
    pub route: Arc<str>,
    /// Who was admitted.
    pub actor: Actor,
    /// By what.
    pub credential: Credential,
    /// What runs.
    pub kind: Kind,
}

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A WebSocket.
    Tunnel,
    /// An answer.
    Answer,
}

impl Kind {
    /// Whether an answer with this head goes on for so long that it has to be followed.
    pub fn of(method: &Method, response: &ResponseHeader) -> Option<Self> {
        let status = response.status;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Some(Self::Tunnel);
        }
        if status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || method == Method::HEAD
        {
            return None;
        }
        let text = |name| response.headers.get(name).and_then(|v| v.to_str().ok());
        let events = text(header::CONTENT_TYPE).is_some_and(|t| t.starts_with("text/event-stream"));
        let length = text(header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok());
        let short = !events && length.is_some_and(|n| n <= LONG_ANSWER_BYTES);
        (!short).then_some(Self::Answer)
    }
}

/// All answers that are still running.
#[derive(Debug, Default)]
pub struct Streams {
    open: Mutex<Open>,
    /// Told when one was added that ends before all others.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    running: HashMap<u64, Running>,
    /// When the credentials of those that have an end expire.
    ends: BTreeSet<(Timestamp, u64)>,
}

#[derive(Debug)]
struct Running {
    claim: Claim,
    connection: Arc<Connection>,
    /// When its credential expires, by the policy in force.
    end: Option<Timestamp>,
}

impl Open {
    fn take(&mut self, id: u64) -> Option<Running> {
        let running = self.running.remove(&id)?;
        if let Some(end) = running.end {
            self.ends.remove(&(end, id));
        }
        Some(running)
    }

    /// Its credential ends at another moment now.
    fn move_end(&mut self, id: u64, end: Option<Timestamp>) {
        let Some(running) = self.running.get_mut(&id) else {
            return;
        };
        if running.end == end {
            return;
        }
        if let Some(old) = std::mem::replace(&mut running.end, end) {
            self.ends.remove(&(old, id));
        }
        if let Some(new) = end {
            self.ends.insert((new, id));
        }
    }
}

/// One running answer; held by its request.
#[derive(Debug)]
pub struct Stream {
    id: u64,
    streams: Arc<Streams>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.open.lock().take(self.id);
    }
}

impl Streams {
    /// From now on the answer on this connection can be closed.
    pub fn enter(this: &Arc<Self>, claim: Claim, connection: Arc<Connection>) -> Stream {
        connection.ending().watch();
        let end = claim.credential.expires();
        let mut open = this.open.lock();
        open.last += 1;
        let id = open.last;
        if let Some(end) = end {
            let first = open.ends.first().is_none_or(|(first, _)| end < *first);
            open.ends.insert((end, id));
            if first {
                this.sooner.notify_one();
            }
        }
        open.running.insert(
            id,
            Running {
                claim,
                connection,
                end,
            },
        );
        Stream {
            id,
            streams: this.clone(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.lock().running.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Judges all of them by this policy and closes those it does not admit. How many were closed.
    pub fn judge(&self, policy: &Policy, now: Timestamp, metrics: &Metrics) -> usize {
        let mut open = self.open.lock();
        let judged: Vec<_> = open
            .running
            .iter()
            .map(|(id, running)| (*id, judge::still_admitted(policy, &running.claim, now)))
            .collect();
        let mut closed = 0;
        for (id, verdict) in judged {
            match verdict {
                Ok(end) => open.move_end(id, end),
                Err(reason) => {
                    close(&mut open, id, reason, metrics);
                    closed += 1;
                }
            }
        }
        drop(open);
        // An end may have come nearer.
        self.sooner.notify_one();
        closed
    }

    /// Judges one of them by this policy.
    pub fn judge_one(&self, stream: &Stream, policy: &Policy, now: Timestamp, metrics: &Metrics) {
        let mut open = self.open.lock();
        let verdict = open
            .running
            .get(&stream.id)
            .map(|running| judge::still_admitted(policy, &running.claim, now));
        match verdict {
            Some(Ok(end)) => open.move_end(stream.id, end),
            Some(Err(reason)) => close(&mut open, stream.id, reason, metrics),
            None => {}
        }
        drop(open);
        self.sooner.notify_one();
    }

    /// Closes each when its credential expires. Never returns.
    pub async fn close_at_their_ends(&self, metrics: &Metrics) {
        loop {
            let next = self.open.lock().ends.first().map(|(end, _)| *end);
            let wait = next.map_or(LONGEST_SLEEP, |end| {
                Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default()
            });
            tokio::select! {
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => {}
                () = self.sooner.notified() => {}
            }
            self.close_expired(Timestamp::now(), metrics);
        }
    }

    fn close_expired(&self, now: Timestamp, metrics: &Metrics) {
        let mut open = self.open.lock();
        while let Some((end, id)) = open.ends.first().copied() {
            if now < end {
                break;
            }
            close(&mut open, id, Reason::ApiKeyExpired, metrics);
        }
    }
}

/// Under the lock, so that it is this request of the connection that ends and not one that follows.
fn close(open: &mut Open, id: u64, reason: Reason, metrics: &Metrics) {
    let Some(Running {
        claim, connection, ..
    }) = open.take(id)
    else {
        return;
    };
    connection.ending().end();
    let reason = reason.facts().word;
    let (request_id, route) = (claim.request_id.as_str(), claim.route.as_ref());
    let (actor, client) = (&claim.actor, claim.client);
    tracing::info!(target: "audit", event = "stream_closed", request_id, %client, route, %actor, reason, "an open stream was closed");
    metrics.streams_closed.inc(&ReasonLabels { reason });
}
