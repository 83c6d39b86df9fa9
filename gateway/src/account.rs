//! The account of a request that has ended: one record in the log, one count in the metrics, whatever became of it.
//! It holds no path, no header and no body.

use jiff::{Timestamp, Unit};

use crate::{
    exchange::{Exchange, Flow, Stage},
    log::record::{Outcome, RequestRecord},
    metrics::{RequestLabels, RouteLabel, RouteLabels, ShadowLabels},
};

/// What the connection knows of the end of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct End {
    /// The status of the answer; 0 without one.
    pub status: u16,
    /// Bytes of the body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
}

/// Takes a request that has ended into the account.
pub fn settle(exchange: &mut Exchange, end: End) {
    let record = record(exchange, end);
    count(exchange, &record);
    exchange.edge.log.request(Box::new(record));
}

fn record(exchange: &mut Exchange, end: End) -> RequestRecord {
    let (route, actor, outcome) = match &exchange.stage {
        // Only a panic unwinds past a request.
        _ if std::thread::panicking() => (None, None, Outcome::Panicked),
        Stage::Admitted { admitted, .. } => (
            Some(admitted.route().id.clone()),
            Some(admitted.actor().clone()),
            exchange
                .cut
                .map_or(Outcome::Forwarded, |reason| Outcome::Cut { reason }),
        ),
        Stage::Spooled { admitted } => (
            Some(admitted.route().id.clone()),
            Some(admitted.actor().clone()),
            Outcome::Spooled,
        ),
        Stage::Health => (None, None, Outcome::Health),
        Stage::Duplicate { route } => (Some(route.clone()), None, Outcome::Duplicate),
        Stage::Refused {
            reason,
            route,
            limit,
            key,
        } => (
            route.clone(),
            None,
            Outcome::Refused {
                reason: *reason,
                limit: limit.clone(),
                key: key.clone(),
            },
        ),
        Stage::Judging => (None, None, Outcome::Abandoned),
    };
    let connection = exchange.connection.as_ref();
    RequestRecord {
        at: to_the_microsecond(Timestamp::now()),
        request_id: std::mem::take(&mut exchange.request_id),
        trace_id: exchange.trace.id(),
        client: exchange.client,
        listener: connection.map_or("http", |c| c.scheme.as_str()),
        turn: connection.map_or(0, |c| c.turns()),
        method: exchange.method,
        snapshot: exchange.snapshot.clone(),
        route,
        actor,
        outcome,
        status: end.status,
        took: exchange.started.elapsed(),
        bytes_in: end.bytes_in,
        bytes_out: end.bytes_out,
        upstream: exchange.upstream.as_ref().map(|leg| leg.seen),
        shadowed: std::mem::take(&mut exchange.shadowed),
    }
}

fn count(exchange: &Exchange, record: &RequestRecord) {
    let metrics = &exchange.edge.metrics;
    let route = RouteLabel::of(record.route.as_ref());
    let by_route = RouteLabels {
        route: route.clone(),
    };
    // How long a stream was open says nothing of how fast the gateway is.
    if exchange.flow == Flow::Answer {
        metrics.request_duration.observe(&by_route, record.took);
    }
    if let Some(first_byte) = record.upstream.and_then(|leg| leg.first_byte) {
        metrics.upstream_first_byte.observe(&by_route, first_byte);
    }
    metrics.request_body.observe(&by_route, record.bytes_in);
    metrics.response_body.observe(&by_route, record.bytes_out);
    for shadow in &record.shadowed {
        metrics.shadow_denials.inc(&ShadowLabels {
            route: RouteLabel::of(Some(&shadow.route)),
            reason: shadow.reason.facts().word,
            limit: RouteLabel::of(shadow.limit.as_ref()),
        });
    }
    metrics.requests.inc(&RequestLabels {
        route,
        outcome: record.outcome.word(),
        actor: record.actor.as_ref().map_or("none", |actor| actor.kind()),
        status: record.status.into(),
    });
}

fn to_the_microsecond(at: Timestamp) -> Timestamp {
    at.round(Unit::Microsecond).unwrap_or(at)
}
