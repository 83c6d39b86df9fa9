//! A delivery on a route with a spool: one short try, and where that does not settle it, onto the disk.
//!
//! pingora has no part in it, for it could not be asked to stop waiting and to answer something else. The sender hears
//! of a delivery only what is so: the upstream's own answer, or that the disk has it.

use std::time::Duration;

use http::request::Parts;
use jiff::Timestamp;
use pingora_core::Result as Proxied;
use pingora_proxy::Session;
use tokio::time::Instant;

use super::{Gateway, answer, facts, no_permit};
use crate::{
    denial::{Denial, Reason},
    edge::Edge,
    exchange::{Exchange, Stage},
    pipeline::{Admitted, Snapshot},
    spool::{
        KeepError, Kept, Spool,
        courier::{self, Answer, Outcome, Setback},
        entry::{Charged, Tries, Why},
        letter::Letter,
    },
    upstream::Facts,
};

/// How long after the proof the upstream is waited for.
const PATIENCE: Duration = Duration::from_millis(1200);

/// How long after the proof the sender is answered, whatever upstream and disk do: within the 2 s it is promised. The disk
/// has at least what is between this and [`PATIENCE`].
const ANSWERED: Duration = Duration::from_millis(1900);

/// When to come back to a spool that is full, or a disk that takes nothing.
const FULL_RETRY: Duration = Duration::from_secs(30);

/// Whether a delivery may be sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// It may.
    Now,
    /// Its source is over its budget: it waits.
    Deferred,
}

/// What its sender is told.
#[derive(Debug)]
enum Told {
    /// What the upstream answered, and after what time.
    Relayed(Answer, Duration),
    /// That it is kept, under this id.
    Spooled(String),
    /// That it is known.
    Duplicate,
}

impl Gateway {
    /// Delivers, and tells the sender what became of it.
    pub(super) async fn deliver(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        admitted: Box<Admitted>,
        pace: Pace,
    ) -> Proxied<()> {
        let told = match facts(session.req_header(), exchange) {
            Some(facts) => {
                let mut request = session.req_header().as_owned_parts();
                let stamped = exchange.trace.stamp(&mut request.headers);
                stamped.map_err(|_| no_permit())?;
                deliver(
                    &self.edge,
                    &exchange.snapshot,
                    &admitted,
                    request,
                    &facts,
                    pace,
                )
                .await
            }
            None => Err(Reason::Internal.into()),
        };
        match told {
            Ok(Told::Relayed(relayed, took)) => {
                exchange.upstream_relayed(admitted.route().upstream, took);
                answer::relay(session, relayed, &exchange.request_id, admitted.standings()).await?;
                exchange.stage = Stage::Admitted {
                    admitted,
                    passed: 0,
                    websocket: false,
                };
                Ok(())
            }
            Ok(Told::Spooled(id)) => {
                let json = format!("{{\"status\":\"spooled\",\"id\":\"{id}\"}}");
                let standings = admitted.standings();
                let told = answer::accepted(session, json, &exchange.request_id, standings).await;
                exchange.stage = Stage::Spooled { admitted };
                told
            }
            Ok(Told::Duplicate) => {
                let route = admitted.route().id.clone();
                exchange.stage = Stage::Duplicate { route };
                answer::ok(session, "{\"status\":\"duplicate\"}", &exchange.request_id).await
            }
            Err(denial) => {
                let denial = denial.on(&admitted.route().id);
                self.refuse(session, exchange, &denial).await
            }
        }
    }
}

/// Delivers, or keeps.
async fn deliver(
    edge: &Edge,
    snapshot: &Snapshot,
    admitted: &Admitted,
    request: Parts,
    facts: &Facts<'_>,
    pace: Pace,
) -> Result<Told, Denial> {
    let proven = Instant::now();
    let spool = edge.spool.as_ref().ok_or_else(unavailable)?;
    let source = &admitted.delivery().ok_or(Reason::Internal)?.source;
    let turn = spool.arrive(source);
    let now = Timestamp::now();
    let letter = Letter::of(admitted, &snapshot.policy, request, facts, now)?;
    let mut tries = Tries {
        charged: Charged::Yes,
        since_ms: letter.head.received_ms,
        ..Tries::default()
    };
    match pace {
        Pace::Deferred => {
            tries.charged = Charged::No;
            tries.why = Why::OverBudget;
        }
        Pace::Now if turn.others_wait() => {}
        Pace::Now => match try_once(edge, spool, snapshot, admitted, &letter, proven).await? {
            Ok((answer, took)) => return Ok(Told::Relayed(answer, took)),
            Err(setback) => {
                tries.attempts = 1;
                tries.status = setback.status;
                tries.why = setback.why;
                tries.last_ms = now.as_millisecond();
            }
        },
    }
    let bounds = snapshot.policy.spool;
    let until = proven + ANSWERED;
    match spool.keep(&turn, letter, tries, bounds, until).await {
        Ok(Kept::Waits(id)) => Ok(Told::Spooled(id)),
        Ok(Kept::Known) => Ok(Told::Duplicate),
        Err(KeepError::Full) => Err(later(Reason::SpoolFull)),
        Err(KeepError::ShareFull) => Err(later(Reason::SpoolShareFull)),
        Err(KeepError::Unavailable) => Err(unavailable()),
    }
}

async fn try_once(
    edge: &Edge,
    spool: &Spool,
    snapshot: &Snapshot,
    admitted: &Admitted,
    letter: &Letter,
    proven: Instant,
) -> Result<Result<(Answer, Duration), Setback>, Denial> {
    let route = admitted.route();
    let upstream = snapshot
        .policy
        .upstreams
        .get(route.upstream)
        .ok_or(Reason::Internal)?;
    let request = letter
        .stamped(route, upstream)
        .map_err(|_| Reason::Internal)?;
    let begun = Instant::now();
    Ok(
        match courier::send(upstream, request, letter.body.clone(), proven + PATIENCE).await {
            Outcome::Done(answer) => {
                // Remembered before the answer goes out, so that a repetition right after it is known.
                if letter.head.remember {
                    edge.replay
                        .done(&letter.head.source, &letter.head.upstream, &letter.head.key);
                }
                spool.heard(&upstream.id);
                Ok((answer, begun.elapsed()))
            }
            Outcome::Refused(answer) => {
                spool.heard(&upstream.id);
                Ok((answer, begun.elapsed()))
            }
            Outcome::Later(setback) => Err(setback),
        },
    )
}

fn unavailable() -> Denial {
    later(Reason::SpoolUnavailable)
}

fn later(reason: Reason) -> Denial {
    Denial {
        retry_after: Some(FULL_RETRY),
        ..reason.into()
    }
}
