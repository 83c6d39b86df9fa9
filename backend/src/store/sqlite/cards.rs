//! The engine's side of [`crate::store::cards`].

use std::collections::HashSet;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::json;

use super::{
    Database, StoreError, feed,
    idempotency::{Answer, Idempotency, Once, once},
    one, optional_time, runs,
    select::Conditions,
    time,
};
use crate::card::{Status, Step};
use crate::store::Listing;
pub(super) use crate::store::cards::*;

#[async_trait]
impl CardStore for Database {
    async fn create_card(
        &self,
        now: Timestamp,
        new: NewCard,
        idempotency: Option<Idempotency>,
        answer: Answer<Card>,
    ) -> Result<Once<Card>, CardError> {
        self.write(move |tx| once(tx, now, idempotency, answer, || create(tx, now, new)))
            .await
    }

    async fn change_card(
        &self,
        now: Timestamp,
        id: String,
        change: Reshape,
    ) -> Result<Card, CardError> {
        self.write(move |tx| {
            let card = find(tx, &id)?.ok_or(CardError::Unknown)?;
            let change = change(&card)?;
            apply(tx, now, &id, &card, &change)
        })
        .await
    }

    async fn delete_card(&self, now: Timestamp, id: String) -> Result<(), CardError> {
        self.write(move |tx| {
            find(tx, &id)?.ok_or(CardError::Unknown)?;
            if let Some(run) = runs::unfinished_of_card(tx, &id)? {
                return Err(CardError::Busy { id, run });
            }
            let dependent = tx
                .prepare_cached(
                    "SELECT cards.id FROM cards, json_each(cards.depends_on) AS d \
                     WHERE d.value = ?1 AND cards.status <> 'archived' LIMIT 1",
                )?
                .query_row([&id], |row| row.get(0))
                .optional()?;
            if let Some(dependent) = dependent {
                return Err(CardError::Needed { dependent });
            }
            tx.prepare_cached("DELETE FROM cards WHERE id = ?1")?
                .execute([&id])?;
            Ok(feed::append(tx, now, "card.deleted", &id, &json!({}))?)
        })
        .await
    }

    async fn card(&self, id: String) -> Result<Option<Card>, StoreError> {
        self.read(move |conn| find(conn, &id)).await
    }

    async fn cards(&self, filter: Filter) -> Result<Listing<Card>, StoreError> {
        self.read(move |conn| {
            let mut wanted = Conditions::default();
            match filter.status {
                Some(status) => wanted.also("status = ?", Some(status.as_str())),
                None => wanted.also("status <> ?", Some(Status::Archived.as_str())),
            }
            wanted.also("build_id = ?", filter.build_id);
            wanted.also("seq < ?", filter.before);
            let sql = format!("SELECT {COLUMNS} FROM cards");
            wanted.listing(conn, &sql, filter.limit, read)
        })
        .await
    }
}

impl From<rusqlite::Error> for CardError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

const COLUMNS: &str = "seq, id, title, build_id, priority, status, depends_on, work, created_at, \
     updated_at, archived_at, archived_by, archive_reason";

fn read(row: &Row<'_>) -> Result<Card, StoreError> {
    let status: String = row.get(5)?;
    Ok(Card {
        seq: row.get(0)?,
        id: row.get(1)?,
        title: row.get(2)?,
        build_id: row.get(3)?,
        priority: row.get(4)?,
        status: Status::parse(&status)
            .ok_or_else(|| StoreError::Fault(format!("a card has the status {status:?}")))?,
        depends_on: serde_json::from_str(&row.get::<_, String>(6)?)?,
        work: serde_json::from_str(&row.get::<_, String>(7)?)?,
        created_at: time(row.get(8)?)?,
        updated_at: time(row.get(9)?)?,
        archived_at: optional_time(row.get(10)?)?,
        archived_by: row.get(11)?,
        archive_reason: row.get(12)?,
    })
}

/// The card of that id.
pub(super) fn find(conn: &Connection, id: &str) -> Result<Option<Card>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM cards WHERE id = ?1");
    one(conn, &sql, id, read)
}

/// A card it depends on that is not done, if there is one. What was archived no longer stands in
/// the way.
pub(super) fn unfinished_dependency(
    tx: &Connection,
    card: &Card,
) -> Result<Option<String>, StoreError> {
    for id in &card.depends_on {
        let waits = match find(tx, id)?.map(|dependency| dependency.status) {
            Some(Status::Done | Status::Archived) | None => false,
            Some(
                Status::Ready
                | Status::InProgress
                | Status::CodeReview
                | Status::Blocked
                | Status::Canceled,
            ) => true,
        };
        if waits {
            return Ok(Some(id.clone()));
        }
    }
    Ok(None)
}

/// Takes one step of a card's life inside a transaction.
pub(super) fn step(
    tx: &Connection,
    now: Timestamp,
    card: &Card,
    step: Step,
) -> Result<Status, StoreError> {
    let to = card
        .status
        .after(step)
        .map_err(|illegal| StoreError::Fault(illegal.to_string()))?;
    if to != card.status {
        tx.prepare_cached("UPDATE cards SET status = ?2, updated_at = ?3 WHERE id = ?1")?
            .execute((&card.id, to.as_str(), now.as_microsecond()))?;
        announce(tx, now, &card.id, to)?;
    }
    Ok(to)
}

fn announce(tx: &Connection, now: Timestamp, id: &str, status: Status) -> Result<(), StoreError> {
    feed::append(
        tx,
        now,
        &format!("card.{}", status.as_str()),
        id,
        &json!({ "status": status }),
    )
}

fn create(tx: &Connection, now: Timestamp, new: NewCard) -> Result<Card, CardError> {
    if find(tx, &new.id)?.is_some() {
        return Err(CardError::Exists(new.id));
    }
    check_dependencies(tx, &new.id, &new.depends_on)?;
    tx.prepare_cached(
        "INSERT INTO cards (id, title, build_id, priority, status, depends_on, work, \
         created_at, updated_at) VALUES (?1, ?2, ?3, ?4, 'ready', ?5, ?6, ?7, ?7)",
    )?
    .execute((
        &new.id,
        &new.title,
        &new.build_id,
        new.priority,
        json!(new.depends_on).to_string(),
        serde_json::to_string(&new.work).map_err(StoreError::from)?,
        now.as_microsecond(),
    ))?;
    announce(tx, now, &new.id, Status::Ready)?;
    find(tx, &new.id)?.ok_or(CardError::Unknown)
}

/// Whether these dependencies exist and lead nowhere back.
fn check_dependencies(tx: &Connection, id: &str, depends_on: &[String]) -> Result<(), CardError> {
    let mut open = depends_on.to_vec();
    let mut seen = HashSet::new();
    while let Some(next) = open.pop() {
        if next == id {
            return Err(CardError::Circle(id.to_owned()));
        }
        if seen.insert(next.clone()) {
            match find(tx, &next)? {
                Some(card) => open.extend(card.depends_on),
                None if depends_on.contains(&next) => {
                    return Err(CardError::UnknownDependency(next));
                }
                None => {}
            }
        }
    }
    Ok(())
}

fn apply(
    tx: &Connection,
    now: Timestamp,
    id: &str,
    card: &Card,
    change: &Change,
) -> Result<Card, CardError> {
    let illegal = |hint| CardError::Illegal {
        id: id.to_owned(),
        status: card.status.as_str(),
        hint,
    };
    if card.status == Status::Archived {
        return Err(illegal("it is not changed any more, make a new one"));
    }
    check_dependencies(tx, id, &change.to.depends_on)?;
    tx.prepare_cached(
        "UPDATE cards SET title = ?2, build_id = ?3, priority = ?4, depends_on = ?5, work = ?6, \
         updated_at = ?7 WHERE id = ?1",
    )?
    .execute((
        id,
        &change.to.title,
        &change.to.build_id,
        change.to.priority,
        json!(change.to.depends_on).to_string(),
        serde_json::to_string(&change.to.work).map_err(StoreError::from)?,
        now.as_microsecond(),
    ))?;
    if let Some(status) = change.status {
        card.status
            .after(Step::Set(status))
            .map_err(|_| illegal(instead(status)))?;
        step(tx, now, card, Step::Set(status))?;
    }
    feed::append(tx, now, "card.updated", id, &json!({}))?;
    find(tx, id)?.ok_or(CardError::Unknown)
}

/// What to do when a card cannot be put into a status by hand.
fn instead(status: Status) -> &'static str {
    match status {
        Status::InProgress => "only a run puts it in_progress, submit one",
        Status::Archived => "it is put away with POST /v1/cards/archive",
        Status::Ready | Status::CodeReview | Status::Done | Status::Blocked | Status::Canceled => {
            "a run of it decides, cancel that or wait for its end"
        }
    }
}
