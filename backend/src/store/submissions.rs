//! How runs come to be: whole submissions, with what they do to cards, once per idempotency key.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};

use super::{
    Database, StoreError, cards,
    runs::{Cause, Run, announce, find, unfinished_of_card},
};
use crate::{card, run::State, work::Work};

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
    queue_limit: i64,
) -> Result<Run, SubmitError> {
    if find(tx, &new.id)?.is_some() {
        return Err(SubmitError::Exists(new.id.clone()));
    }
    let waiting: i64 = tx
        .prepare_cached("SELECT count(*) FROM runs WHERE state IN ('queued', 'scheduled')")?
        .query_row([], |row| row.get(0))?;
    if waiting >= queue_limit {
        return Err(SubmitError::QueueFull { limit: queue_limit });
    }
    let (work, priority, card) = match &new.subject {
        Subject::Command { work, priority } => (work.clone(), *priority, None),
        Subject::Card { id, exclusive } => {
            let card = startable(tx, now, id, new.cause, *exclusive)?;
            (card.work.clone(), card.priority, Some(card))
        }
    };
    let build_id = new
        .build_id
        .clone()
        .or_else(|| card.as_ref().and_then(|c| c.build_id.clone()));
    let turn_key = build_id.clone().unwrap_or_default();
    tx.prepare_cached(
        "INSERT INTO runs (id, state, card_id, build_id, turn_key, cause, actor, request_id, \
         priority, spec, card_snapshot, retries, created_at, queued_at) \
         VALUES (?1, 'queued', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12)",
    )?
    .execute((
        &new.id,
        card.as_ref().map(|card| &card.id),
        &build_id,
        &turn_key,
        new.cause.as_str(),
        &new.actor,
        &new.request_id,
        priority,
        serde_json::to_string(&work).map_err(StoreError::from)?,
        card.as_ref().map(|card| card.to_json().to_string()),
        work.retries,
        now.as_microsecond(),
    ))?;
    announce(
        tx,
        now,
        &new.id,
        State::Queued,
        card.as_ref().map(|c| c.id.as_str()),
        None,
    )?;
    find(tx, &new.id)?
        .ok_or_else(|| StoreError::Fault("a run just stored is not there".into()).into())
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
        Cause::Api | Cause::Card => card::Step::Start,
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
        queue_limit: i64,
        idempotency: Option<Idempotency>,
        answer: impl FnOnce(&Run) -> serde_json::Value + Send + 'static,
    ) -> Result<Submitted, SubmitError> {
        self.write(move |tx| {
            if let Some(idempotency) = &idempotency
                && let Some(answer) = remembered(tx, idempotency)?
            {
                return Ok(Submitted::Before(answer));
            }
            let run = submit(tx, now, &new, queue_limit)?;
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
    idempotency: &Idempotency,
) -> Result<Option<serde_json::Value>, SubmitError> {
    let found: Option<(Vec<u8>, String)> = tx
        .prepare_cached("SELECT body, answer FROM idempotency WHERE actor = ?1 AND key = ?2")?
        .query_row((&idempotency.actor, &idempotency.key), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    match found {
        None => Ok(None),
        Some((body, _)) if body != idempotency.body => Err(SubmitError::KeyReused),
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
    tx.prepare_cached(
        "INSERT INTO idempotency (actor, key, body, answer, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        &idempotency.actor,
        &idempotency.key,
        &idempotency.body,
        answer.to_string(),
        now.as_microsecond(),
    ))?;
    Ok(())
}
