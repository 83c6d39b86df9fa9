//! The engine's side of [`crate::store::submissions`].

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;

use super::{
    Database, StoreError, cards, clock,
    idempotency::{Answer, Idempotency, once},
    runs::{Cause, Run, announce, find, unfinished_of_card},
};
pub(super) use crate::store::submissions::*;
use crate::{
    card,
    plan::{
        Rules, deadline,
        dependency::{Effect, Need},
    },
    run::State,
};

#[async_trait]
impl SubmissionStore for Database {
    async fn submit_run(
        &self,
        now: Timestamp,
        new: NewRun,
        rules: Arc<Rules>,
        idempotency: Option<Idempotency>,
        answer: Answer<Run>,
    ) -> Result<Submitted, SubmitError> {
        self.write(move |tx| {
            once(tx, now, idempotency, answer, || {
                submit(tx, now, &new, &rules)
            })
        })
        .await
    }
}

impl From<rusqlite::Error> for SubmitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Queues a run inside a transaction.
pub(super) fn submit(
    tx: &Connection,
    now: Timestamp,
    new: &NewRun,
    rules: &Rules,
) -> Result<Run, SubmitError> {
    let now = clock::certain(now);
    if find(tx, &new.id)?.is_some() {
        return Err(SubmitError::Exists(new.id.clone()));
    }
    check_room(tx, &new.queue, rules)?;
    let holds = open_needs(tx, new)?;
    let (mut work, priority, card) = match &new.subject {
        Subject::Command { work, priority } => (work.clone(), *priority, None),
        Subject::Card { id, exclusive } => {
            let card = startable(tx, now, id, new.cause, *exclusive)?;
            (card.work.clone(), card.priority, Some(card))
        }
        Subject::Again {
            card,
            work,
            priority,
        } => {
            let card = startable(tx, now, card, new.cause, false)?;
            (work.clone(), *priority, Some(card))
        }
    };
    work.bounds = work.bounds.or(rules.bounds);
    let build_id = new
        .build_id
        .clone()
        .or_else(|| card.as_ref().and_then(|c| c.build_id.clone()));
    let turn_key = build_id.clone().unwrap_or_default();
    let state = if holds.is_empty() {
        State::Queued
    } else {
        State::Scheduled
    };
    let given_up = deadline::given_up(state, now, now, &work.bounds);
    tx.prepare_cached(
        "INSERT INTO runs (id, state, card_id, build_id, turn_key, cause, actor, request_id, \
         priority, spec, card_snapshot, retries, created_at, since, queued_at, queue, holds, \
         replay_of, schedule_id, give_up_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13, \
         iif(?2 = 'queued', ?13, NULL), ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(rusqlite::params![
        new.id,
        state.as_str(),
        card.as_ref().map(|card| &card.id),
        build_id,
        turn_key,
        new.cause.as_str(),
        new.actor,
        new.request_id,
        priority,
        serde_json::to_string(&work).map_err(StoreError::from)?,
        card.as_ref().map(|card| card.to_json().to_string()),
        work.retries,
        now.as_microsecond(),
        new.queue,
        i64::try_from(holds.len()).unwrap_or(i64::MAX),
        new.replay_of,
        new.schedule_id,
        given_up.map(|(at, _)| at.as_microsecond()),
    ])?;
    for (needs, need) in holds {
        tx.prepare_cached("INSERT INTO run_needs (run_id, needs, need) VALUES (?1, ?2, ?3)")?
            .execute((&new.id, needs, need.as_str()))?;
    }
    announce(
        tx,
        now,
        &new.id,
        state,
        card.as_ref().map(|c| c.id.as_str()),
        None,
        None,
    )?;
    find(tx, &new.id)?
        .ok_or_else(|| StoreError::Fault("a run just stored is not there".into()).into())
}

/// How many runs wait: a row for each queue, however many there are.
pub(super) const WAITING: &str = "SELECT coalesce(sum(runs), 0) FROM waiting";
/// How many runs wait in a queue.
pub(super) const WAITING_IN: &str = "SELECT coalesce(sum(runs), 0) FROM waiting WHERE queue = ?1";

/// Whether another run may wait, in its queue and in all.
fn check_room(tx: &Connection, queue: &str, rules: &Rules) -> Result<(), SubmitError> {
    let rule = rules
        .queue(queue)
        .ok_or_else(|| SubmitError::UnknownQueue(queue.to_owned()))?;
    let count = |sql: &str, values: &[&str]| -> Result<i64, StoreError> {
        let values = rusqlite::params_from_iter(values);
        Ok(tx
            .prepare_cached(sql)?
            .query_row(values, |row| row.get(0))?)
    };
    let all = count(WAITING, &[])?;
    if all >= rules.queue_limit {
        let limit = rules.queue_limit;
        return Err(SubmitError::QueueFull { limit });
    }
    if let Some(limit) = rule.length {
        let own = count(WAITING_IN, &[queue])?;
        if own >= limit {
            return Err(SubmitError::QueueFull { limit });
        }
    }
    Ok(())
}

/// What a new run has to wait for. All of it exists before it does: there can be no circle.
fn open_needs(tx: &Connection, new: &NewRun) -> Result<Vec<(String, Need)>, SubmitError> {
    let mut open: Vec<(String, Need)> = Vec::new();
    for (needs, need) in &new.needs {
        if *needs == new.id {
            return Err(SubmitError::NeedsItself);
        }
        let run = find(tx, needs)?.ok_or_else(|| SubmitError::UnknownNeed(needs.clone()))?;
        match run.state.ending().map(|ending| need.met_by(ending)) {
            Some(Effect::Released) => {}
            Some(Effect::Forsaken) => {
                return Err(SubmitError::NeedFailed {
                    needed: run.id,
                    state: run.state.as_str(),
                });
            }
            None if open.iter().any(|(other, _)| other == needs) => {}
            None => open.push((run.id, *need)),
        }
    }
    Ok(open)
}

/// The card to be started, put into the status that a start gives it.
fn startable(
    tx: &Connection,
    now: Timestamp,
    id: &str,
    cause: Cause,
    exclusive: bool,
) -> Result<cards::Card, SubmitError> {
    let card = cards::find(tx, id)?.ok_or_else(|| SubmitError::UnknownCard(id.to_owned()))?;
    if exclusive && let Some(run) = unfinished_of_card(tx, id)? {
        return Err(SubmitError::CardBusy { card: card.id, run });
    }
    let step = match cause {
        Cause::Review => card::Step::Review,
        Cause::Api | Cause::Card | Cause::Schedule => card::Step::Start,
    };
    if card.status.after(step).is_err() {
        return Err(SubmitError::CardNotStartable {
            card: card.id,
            status: card.status.as_str(),
        });
    }
    if cause != Cause::Review
        && let Some(waits_for) = cards::unfinished_dependency(tx, &card)?
    {
        return Err(SubmitError::Dependency {
            card: card.id,
            waits_for,
        });
    }
    cards::step(tx, now, &card, step)?;
    Ok(card)
}
