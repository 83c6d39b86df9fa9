//! The feed of state changes: written in the transaction that makes the change, published after
//! its commit, numbered without gaps, readable from any number on.
//!
//! A reader holds a cursor, not a queue: a slow one costs nothing but its own time.

use std::{collections::VecDeque, sync::Arc};

use jiff::Timestamp;
use parking_lot::RwLock;
use rusqlite::{Connection, Row};
use serde::Serialize;
use tokio::sync::watch;

use super::{Database, StoreError};

/// How many of the newest events are kept at hand; older ones are read from the disk.
const RING: usize = 4096;

/// One state change.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// Its number: larger is later.
    pub seq: i64,
    /// When it happened (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// What changed and into what, e.g. `run.running`, `card.code_review`, `delivery.received`.
    pub kind: String,
    /// The id of what changed.
    pub subject: String,
    /// More about it; depends on the kind.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

/// Adds an event to the transaction at hand; it is published when that commits.
pub fn append(
    tx: &Connection,
    now: Timestamp,
    kind: &str,
    subject: &str,
    data: &serde_json::Value,
) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT INTO events (time, kind, subject, data) VALUES (?1, ?2, ?3, ?4)")?
        .execute((now.as_microsecond(), kind, subject, data.to_string()))?;
    Ok(())
}

/// Reads up to `limit` events after number `after`, oldest first.
pub fn after(conn: &Connection, after: i64, limit: usize) -> Result<Vec<Event>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "SELECT seq, time, kind, subject, data FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?
    .query_map((after, limit), |row| Ok(event(row)))?
    .map(|row| row?)
    .collect()
}

/// All events of one subject, oldest first.
pub fn of_subject(conn: &Connection, subject: &str) -> Result<Vec<Event>, StoreError> {
    conn.prepare_cached(
        "SELECT seq, time, kind, subject, data FROM events WHERE subject = ?1 ORDER BY seq",
    )?
    .query_map([subject], |row| Ok(event(row)))?
    .map(|row| row?)
    .collect()
}

fn event(row: &Row<'_>) -> Result<Event, StoreError> {
    Ok(Event {
        seq: row.get(0)?,
        time: super::time(row.get(1)?)?,
        kind: row.get(2)?,
        subject: row.get(3)?,
        data: serde_json::from_str(&row.get::<_, String>(4)?)?,
    })
}

/// What was published: the newest events and the newest number.
#[derive(Debug)]
pub struct Feed {
    ring: RwLock<VecDeque<Arc<Event>>>,
    newest: watch::Sender<i64>,
}

impl Feed {
    /// The feed of a store just opened.
    pub(super) fn load(conn: &Connection) -> Result<Self, StoreError> {
        let newest: i64 =
            conn.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |r| r.get(0))?;
        Ok(Self {
            ring: RwLock::default(),
            newest: watch::Sender::new(newest),
        })
    }

    /// Publishes what was committed since the last call. Called by the writer thread only.
    pub(super) fn publish(&self, conn: &Connection) -> Result<(), StoreError> {
        loop {
            let from = *self.newest.borrow();
            let events = after(conn, from, RING)?;
            let Some(last) = events.last().map(|event| event.seq) else {
                return Ok(());
            };
            let full = events.len() == RING;
            {
                let mut ring = self.ring.write();
                ring.extend(events.into_iter().map(Arc::new));
                let surplus = ring.len().saturating_sub(RING);
                ring.drain(..surplus);
            }
            self.newest.send_replace(last);
            if !full {
                return Ok(());
            }
        }
    }

    /// A watch on the number of the newest event.
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.newest.subscribe()
    }

    /// The number of the newest event; 0 when there was none yet.
    pub fn newest(&self) -> i64 {
        *self.newest.borrow()
    }

    /// The events after `after` still at hand, oldest first; `None` when they begin earlier.
    fn recent(&self, after: i64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let ring = self.ring.read();
        let first = ring.front()?.seq;
        if after < first - 1 {
            return None;
        }
        let start = ring.partition_point(|event| event.seq <= after);
        Some(ring.iter().skip(start).take(limit).cloned().collect())
    }
}

impl Database {
    /// All events of one subject, oldest first.
    pub async fn events_of(&self, subject: String) -> Result<Vec<Event>, StoreError> {
        self.read(move |conn| of_subject(conn, &subject)).await
    }

    /// Up to `limit` published events after number `cursor`, oldest first.
    pub async fn events_after(
        &self,
        cursor: i64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        if let Some(recent) = self.feed().recent(cursor, limit) {
            return Ok(recent);
        }
        let newest = self.feed().newest();
        if cursor >= newest {
            return Ok(Vec::new());
        }
        let events = self.read(move |conn| after(conn, cursor, limit)).await?;
        Ok(events
            .into_iter()
            .filter(|e| e.seq <= newest)
            .map(Arc::new)
            .collect())
    }
}
