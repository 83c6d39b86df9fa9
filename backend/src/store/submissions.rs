//! How runs come to be: whole submissions, with what they do to cards, once per idempotency key.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _};
use sha2::{Digest as _, Sha256};

use super::{
    Database, StoreError, cards,
    runs::{Cause, Run, announce, find, unfinished_of_card},
};
use crate::{
    card,
    plan::{
        DEFAULT_QUEUE, Rules, deadline,
        dependency::{Effect, Need},
    },
    run::State,
    work::Work,
};

/// A run to be queued.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id.
    pub id: String,
    /// The build it belongs to, if not its card's.
    pub build_id: Option<String>,
    /// Why it exists.
    pub cause: Cause,
    /// Who asked for it.
    pub actor: String,
    /// The request that asked for it.
    pub request_id: String,
    /// What it is to do.
    pub subject: Subject,
    /// The queue it waits in.
    pub queue: String,
    /// The runs it waits for.
    pub needs: Vec<(String, Need)>,
    /// The run it repeats.
    pub replay_of: Option<String>,
    /// The schedule it belongs to.
    pub schedule_id: Option<String>,
}

impl NewRun {
    /// A run that waits in the default queue, for nothing.
    pub fn new(id: &str, cause: Cause, actor: &str, request_id: &str, subject: Subject) -> Self {
        Self {
            id: id.to_owned(),
            build_id: None,
            cause,
            actor: actor.to_owned(),
            request_id: request_id.to_owned(),
            subject,
            queue: DEFAULT_QUEUE.to_owned(),
            needs: Vec::new(),
            replay_of: None,
            schedule_id: None,
        }
    }
}

/// What a new run is to do.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A command of its own.
    Command {
        /// The command.
        work: Work,
        /// 0 to 9, larger first.
        priority: i64,
    },
    /// A card's command.
    Card {
        /// The card.
        id: String,
        /// Whether a run of it that has not ended stands in the way.
        exclusive: bool,
    },
    /// What another run of a card did, once more.
    Again {
        /// The card.
        card: String,
        /// The command, as that run had it.
        work: Work,
        /// 0 to 9, larger first.
        priority: i64,
    },
}

/// Why a run is not queued. Nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// A run of that id exists.
    #[error("A run with the id {0} exists already. Nothing was changed.")]
    Exists(String),
    /// The queue is at its limit.
    #[error("The queue is full: {limit} runs wait. Try again later.")]
    QueueFull {
        /// The configured limit.
        limit: i64,
    },
    /// No such queue.
    #[error("There is no queue {0}. Name one that is configured under [queues], or leave it out.")]
    UnknownQueue(String),
    /// It would wait for a run that does not exist.
    #[error("`depends_on` names the run {0}, and there is no such run. Submit it first.")]
    UnknownNeed(String),
    /// It would wait for itself.
    #[error("`depends_on` names the run itself: that would never start.")]
    NeedsItself,
    /// What it would wait for has ended without success.
    #[error("Run {needed} has ended and is {state}: what needs it cannot start.")]
    NeedFailed {
        /// The run it needs.
        needed: String,
        /// What that is.
        state: &'static str,
    },
    /// No such card.
    #[error("There is no card {0}.")]
    UnknownCard(String),
    /// The card may not be started as it is.
    #[error("Card {card} is {status} and cannot be started.")]
    CardNotStartable {
        /// The card.
        card: String,
        /// Its status.
        status: &'static str,
    },
    /// The card has a run that has not ended.
    #[error("Card {card} has a run that has not ended: {run}.")]
    CardBusy {
        /// The card.
        card: String,
        /// That run.
        run: String,
    },
    /// A card it depends on is not done.
    #[error("Card {card} depends on {waits_for}, which is not done.")]
    Dependency {
        /// The card.
        card: String,
        /// The one to finish first.
        waits_for: String,
    },
    /// The same idempotency key came with another body.
    #[error("This Idempotency-Key was used with another body. Use a new key for a new request.")]
    KeyReused,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for SubmitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// An idempotency key and the body it came with.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// Whose key it is.
    pub actor: String,
    /// The key.
    pub key: String,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// How long an idempotency key is remembered.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is kept of a body: enough to tell another one, and nothing of what it says.
fn digest(body: &[u8]) -> Vec<u8> {
    Sha256::digest(body).to_vec()
}

/// What became of a submission.
#[derive(Debug, Clone)]
pub enum Submitted {
    /// It was queued just now.
    New(Box<Run>),
    /// The same key and body were here before: the first answer.
    Before(serde_json::Value),
}

/// Queues a run inside a transaction.
pub fn submit(
    tx: &Connection,
    now: Timestamp,
    new: &NewRun,
    rules: &Rules,
) -> Result<Run, SubmitError> {
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
    )?;
    find(tx, &new.id)?
        .ok_or_else(|| StoreError::Fault("a run just stored is not there".into()).into())
}

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
    let all = count(
        "SELECT count(*) FROM runs WHERE state IN ('queued', 'scheduled')",
        &[],
    )?;
    if all >= rules.queue_limit {
        let limit = rules.queue_limit;
        return Err(SubmitError::QueueFull { limit });
    }
    if let Some(limit) = rule.length {
        let own = count(
            "SELECT count(*) FROM runs WHERE state IN ('queued', 'scheduled') AND queue = ?1",
            &[queue],
        )?;
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

impl Database {
    /// Makes a submission durable.
    pub async fn submit_run(
        &self,
        now: Timestamp,
        new: NewRun,
        rules: Arc<Rules>,
        idempotency: Option<Idempotency>,
        answer: impl FnOnce(&Run) -> serde_json::Value + Send + 'static,
    ) -> Result<Submitted, SubmitError> {
        self.write(move |tx| {
            if let Some(idempotency) = &idempotency
                && let Some(answer) = remembered(tx, now, idempotency)?
            {
                return Ok(Submitted::Before(answer));
            }
            let run = submit(tx, now, &new, &rules)?;
            if let Some(idempotency) = &idempotency {
                remember(tx, now, idempotency, &answer(&run))?;
            }
            Ok(Submitted::New(Box::new(run)))
        })
        .await
    }
}

fn remembered(
    tx: &Connection,
    now: Timestamp,
    idempotency: &Idempotency,
) -> Result<Option<serde_json::Value>, SubmitError> {
    let forgotten = now.checked_sub(KEPT).unwrap_or(Timestamp::MIN);
    let found: Option<(Vec<u8>, String)> = tx
        .prepare_cached(
            "SELECT body, answer FROM idempotency WHERE actor = ?1 AND key = ?2 AND created_at >= ?3",
        )?
        .query_row(
            (&idempotency.actor, &idempotency.key, forgotten.as_microsecond()),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match found {
        None => Ok(None),
        // Rows of earlier versions hold the body itself.
        Some((seen, _)) if seen != digest(&idempotency.body) && seen != idempotency.body => {
            Err(SubmitError::KeyReused)
        }
        Some((_, answer)) => Ok(Some(
            serde_json::from_str(&answer).map_err(StoreError::from)?,
        )),
    }
}

fn remember(
    tx: &Connection,
    now: Timestamp,
    idempotency: &Idempotency,
    answer: &serde_json::Value,
) -> Result<(), SubmitError> {
    let forgotten = now.checked_sub(KEPT).unwrap_or(Timestamp::MIN);
    tx.prepare_cached("DELETE FROM idempotency WHERE created_at < ?1")?
        .execute([forgotten.as_microsecond()])?;
    tx.prepare_cached(
        "INSERT INTO idempotency (actor, key, body, answer, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        &idempotency.actor,
        &idempotency.key,
        digest(&idempotency.body),
        answer.to_string(),
        now.as_microsecond(),
    ))?;
    Ok(())
}
