//! The records that are not written with `tracing`, because there is one for every request: what they hold, and how
//! they look. Ids of the policy, words of closed lists and figures; never a path, a query, a header or a body.

use std::{io::Write as _, net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::bound::{Kind, LeftOut};
use crate::{
    denial::{Loudness, NamedKey, Reason},
    guard::Actor,
    hearing::ShadowDenial,
    pipeline::Snapshot,
};

/// How a record looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// All that is left of a request when it has ended. Owned and small: it is given its form on another thread.
#[derive(Debug)]
pub struct RequestRecord {
    /// When it ended.
    pub at: Timestamp,
    /// Its id.
    pub request_id: String,
    /// The trace it belongs to.
    pub trace_id: u128,
    /// The judged client address.
    pub client: Option<IpAddr>,
    /// The listener it came through.
    pub listener: &'static str,
    /// Which request of its connection it was, from 1.
    pub turn: u32,
    /// Its method; none where its head was refused.
    pub method: Option<&'static str>,
    /// What it was judged by; knows the route's template and the upstream's id.
    pub snapshot: Arc<Snapshot>,
    /// The route's id.
    pub route: Option<Arc<str>>,
    /// Who was proven.
    pub actor: Option<Actor>,
    /// What became of it.
    pub outcome: Outcome,
    /// The status of the answer; 0 without one.
    pub status: u16,
    /// From the end of its head to its end.
    pub took: Duration,
    /// Bytes of its body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
    /// What the upstream had to do with it.
    pub upstream: Option<UpstreamLeg>,
    /// What rules in shadow mode would have refused.
    pub shadowed: Vec<ShadowDenial>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It went to an upstream.
    Forwarded,
    /// It went to an upstream, and its answer broke off after its head.
    Cut {
        /// Why.
        reason: Reason,
    },
    /// Its delivery was done before.
    Duplicate,
    /// Its delivery is kept on the disk, to be handed over later.
    Spooled,
    /// The gateway said that it is alive.
    Health,
    /// It was refused.
    Refused {
        /// The true reason.
        reason: Reason,
        /// The limit that refused, by its id.
        limit: Option<Arc<str>>,
        /// The key it is about.
        key: Option<Box<NamedKey>>,
    },
    /// Whoever asked went away, or the gateway stopped, before anything was decided.
    Abandoned,
    /// A fault of ours ended it.
    Panicked,
}

impl Outcome {
    /// Its word in the log and the metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Cut { .. } => "cut",
            Self::Duplicate => "duplicate",
            Self::Spooled => "spooled",
            Self::Health => "health",
            Self::Refused { reason, .. } => reason.facts().word,
            Self::Abandoned => "abandoned",
            Self::Panicked => "panicked",
        }
    }
}

/// What the upstream had to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLeg {
    /// Which one: an index into the policy's.
    pub index: usize,
    /// How often it was tried.
    pub attempts: u32,
    /// Whether the last try used a connection that was open already; unknown where none stood.
    pub reused: Option<bool>,
    /// From the first try to the head of its answer.
    pub first_byte: Option<Duration>,
}

impl RequestRecord {
    /// What it is counted as where it has no record of its own; none for what proved itself, which always has one.
    pub(super) fn unproven(&self) -> Option<Kind> {
        match &self.outcome {
            Outcome::Forwarded
            | Outcome::Cut { .. }
            | Outcome::Duplicate
            | Outcome::Spooled
            | Outcome::Panicked => None,
            Outcome::Health | Outcome::Abandoned | Outcome::Refused { .. } => Some(Kind {
                route: self.route.clone(),
                reason: self.outcome.word(),
            }),
        }
    }

    pub(super) fn access(&self) -> AccessRecord<'_> {
        let policy = &self.snapshot.policy;
        let leg = self.upstream;
        let cut = match self.outcome {
            Outcome::Cut { reason } => Some(reason.facts().word),
            Outcome::Forwarded
            | Outcome::Duplicate
            | Outcome::Spooled
            | Outcome::Health
            | Outcome::Refused { .. }
            | Outcome::Abandoned
            | Outcome::Panicked => None,
        };
        let upstream = leg.and_then(|leg| policy.upstreams.get(leg.index));
        AccessRecord {
            timestamp: self.at,
            level: if cut.is_some() { "WARN" } else { "INFO" },
            target: "access",
            event: "request",
            request_id: &self.request_id,
            trace_id: format!("{:032x}", self.trace_id),
            client: self.client,
            listener: self.listener,
            connection_request: self.turn,
            method: self.method,
            path: self.template(),
            route: self.route.as_deref(),
            actor: self.actor.as_ref().map(ToString::to_string),
            outcome: self.outcome.word(),
            reason: cut,
            status: self.status,
            millis: millis(self.took),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            upstream: upstream.map(|u| u.id.as_str()),
            upstream_millis: leg.and_then(|leg| leg.first_byte).map(millis),
            upstream_attempts: leg.map(|leg| leg.attempts),
            upstream_reused: leg.and_then(|leg| leg.reused),
        }
    }

    /// The record of its refusal.
    pub(super) fn audit(&self) -> Option<RefusalRecord<'_>> {
        let Outcome::Refused { reason, limit, key } = &self.outcome else {
            return None;
        };
        let level = match reason.facts().loudness {
            Loudness::Quiet | Loudness::Notice => "INFO",
            Loudness::Fault => "ERROR",
        };
        Some(RefusalRecord {
            timestamp: self.at,
            level,
            target: super::AUDIT,
            event: "refused",
            request_id: &self.request_id,
            trace_id: format!("{:032x}", self.trace_id),
            client: self.client,
            listener: self.listener,
            method: self.method,
            path: self.template(),
            route: self.route.as_deref(),
            actor: self.actor.as_ref().map(ToString::to_string),
            key: key.as_deref().and_then(|key| self.known(key)),
            reason: reason.facts().word,
            status: self.status,
            limit: limit.as_deref(),
            hint: reason.hint(),
            millis: millis(self.took),
        })
    }

    /// The records of what rules in shadow mode would have refused.
    pub(super) fn shadows(&self) -> impl Iterator<Item = ShadowRecord<'_>> {
        self.shadowed.iter().map(|shadow| {
            let facts = shadow.reason.facts();
            let whole = |d: Duration| d.as_secs() + u64::from(d.subsec_nanos() > 0);
            ShadowRecord {
                timestamp: self.at,
                level: "INFO",
                target: super::AUDIT,
                event: "shadow_denied",
                request_id: &self.request_id,
                client: self.client,
                route: &shadow.route,
                reason: facts.word,
                limit: shadow.limit.as_deref(),
                would_answer: facts.status,
                retry_after: shadow.retry_after.map(whole),
            }
        })
    }

    /// The id of the key a refusal is about. What a client claims is written down only where it is an id of the policy.
    fn known<'a>(&'a self, key: &'a NamedKey) -> Option<&'a str> {
        match key {
            NamedKey::Known(id) => Some(id),
            NamedKey::Claimed(id) => self.snapshot.policy.keys.has(id).then_some(id),
        }
    }

    /// The path of its route as the policy has it. The path that was asked for is the client's, and is not
    /// written down.
    fn template(&self) -> Option<String> {
        let id = self.route.as_ref()?;
        let mut routes = self.snapshot.policy.routes.iter();
        routes.find(|r| r.id == *id).map(|r| r.path.to_string())
    }
}

fn millis(time: Duration) -> f64 {
    // To a microsecond: more says nothing.
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// What can be written.
pub(super) trait Record: Serialize {}

/// One request.
#[derive(Debug, Serialize)]
pub(super) struct AccessRecord<'a> {
    timestamp: Timestamp,
    level: &'static str,
    target: &'static str,
    event: &'static str,
    request_id: &'a str,
    trace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    listener: &'static str,
    connection_request: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    status: u16,
    millis: f64,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_millis: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_reused: Option<bool>,
}

impl Record for AccessRecord<'_> {}

/// One refusal.
#[derive(Debug, Serialize)]
pub(super) struct RefusalRecord<'a> {
    timestamp: Timestamp,
    level: &'static str,
    target: &'static str,
    event: &'static str,
    request_id: &'a str,
    trace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    listener: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    reason: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    millis: f64,
}

impl Record for RefusalRecord<'_> {}

/// What a rule in shadow mode would have refused.
#[derive(Debug, Serialize)]
pub(super) struct ShadowRecord<'a> {
    timestamp: Timestamp,
    level: &'static str,
    target: &'static str,
    event: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    route: &'a str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    would_answer: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Record for ShadowRecord<'_> {}

/// A connection that was closed before a request was read on it.
#[derive(Debug, Serialize)]
pub(super) struct ConnectionRecord {
    timestamp: Timestamp,
    level: &'static str,
    target: &'static str,
    event: &'static str,
    client: IpAddr,
    reason: &'static str,
}

impl Record for ConnectionRecord {}

impl ConnectionRecord {
    pub(super) fn new(
        timestamp: Timestamp,
        event: &'static str,
        client: IpAddr,
        reason: &'static str,
    ) -> Self {
        Self {
            timestamp,
            level: "INFO",
            target: super::AUDIT,
            event,
            client,
            reason,
        }
    }
}

/// So many of one kind have no record of their own.
#[derive(Debug, Serialize)]
pub(super) struct LeftOutRecord<'a> {
    timestamp: Timestamp,
    level: &'static str,
    target: &'static str,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    reason: &'static str,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
}

impl Record for LeftOutRecord<'_> {}

impl<'a> LeftOutRecord<'a> {
    pub(super) fn new(timestamp: Timestamp, left_out: &'a LeftOut) -> Self {
        Self {
            timestamp,
            level: "WARN",
            target: super::AUDIT,
            event: "left_out",
            route: left_out.kind.route.as_deref(),
            reason: left_out.kind.reason,
            count: left_out.count,
            client: left_out.client,
        }
    }
}

/// Records were lost.
#[derive(Debug, Serialize)]
pub(super) struct Dropped {
    timestamp: Timestamp,
    level: &'static str,
    target: &'static str,
    event: &'static str,
    count: u64,
    hint: &'static str,
}

impl Record for Dropped {}

impl Dropped {
    pub(super) fn new(timestamp: Timestamp, count: u64) -> Self {
        Self {
            timestamp,
            level: "WARN",
            target: "orket_gateway::log",
            event: "records_dropped",
            count,
            hint: "whoever takes the log was too slow, or its disk is full",
        }
    }
}

/// Gives a record its form, with the end of its line.
pub(super) fn write(line: &mut Vec<u8>, form: Form, record: &impl Record) {
    // Writing to a vector does not fail, and every field has a form.
    match form {
        Form::Json => {
            let _ = serde_json::to_writer(&mut *line, record);
        }
        Form::Text => text(line, serde_json::to_value(record).unwrap_or_default()),
    }
    line.push(b'\n');
}

/// For people: time, level and event, then the rest as `name=value`.
fn text(line: &mut Vec<u8>, record: serde_json::Value) {
    let serde_json::Value::Object(fields) = record else {
        return;
    };
    let word = |name: &str| fields.get(name).and_then(|v| v.as_str()).unwrap_or("");
    let _ = write!(
        line,
        "{} {:>5} {}: {}",
        word("timestamp"),
        word("level"),
        word("target"),
        word("event")
    );
    for (name, value) in &fields {
        if !matches!(name.as_str(), "timestamp" | "level" | "target" | "event") {
            // An id needs no quotes; a sentence has them.
            let _ = match value.as_str().filter(|v| !v.contains(' ')) {
                Some(plain) => write!(line, " {name}={plain}"),
                None => write!(line, " {name}={value}"),
            };
        }
    }
}
