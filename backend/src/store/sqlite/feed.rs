//! The engine's side of [`crate::store::feed`].

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, Row};

use super::{Database, StoreError};
pub(super) use crate::store::feed::*;
use crate::{metrics::Metrics, store::feed::RING};

#[async_trait]
impl EventStore for Database {
    fn feed(&self) -> &Feed {
        self.published()
    }

    async fn events_of(&self, subject: String) -> Result<Vec<Event>, StoreError> {
        self.read(move |conn| of_subject(conn, &subject)).await
    }

    async fn events_after(&self, cursor: i64, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
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

/// The feed of a store just opened.
pub(super) fn load(conn: &Connection) -> Result<Feed, StoreError> {
    // Not the newest that is there: old ones are removed, and numbers are never given out again.
    let newest = conn.query_row(
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)",
        [],
        |row| row.get(0),
    )?;
    Ok(Feed::new(newest))
}

/// Publishes what was committed since the last call. Called by the writer thread only.
pub(super) fn publish(feed: &Feed, conn: &Connection, metrics: &Metrics) -> Result<(), StoreError> {
    loop {
        let events = after(conn, feed.newest(), RING)?;
        let full = events.len() == RING;
        for event in &events {
            metrics.observe(event);
        }
        feed.publish(events);
        if !full {
            return Ok(());
        }
    }
}

/// By how much the time of an event is raised at most, in microseconds: a day.
pub(super) const RAISED: i64 = 86_400_000_000;

/// Adds an event to the transaction at hand; it is published when that commits. Its time is not
/// before that of the event before it: who asked first may be served later, and clocks are set back.
/// Where that one was told by a clock more than a day ahead, it is: times follow the clock again.
pub(super) fn append(
    tx: &Connection,
    now: Timestamp,
    kind: &str,
    subject: &str,
    data: &serde_json::Value,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO events (time, kind, subject, data) VALUES (coalesce((SELECT time FROM \
         (SELECT time FROM events ORDER BY seq DESC LIMIT 1) \
         WHERE time BETWEEN ?1 AND ?1 + ?5), ?1), ?2, ?3, ?4)",
    )?
    .execute((
        now.as_microsecond(),
        kind,
        subject,
        data.to_string(),
        RAISED,
    ))?;
    Ok(())
}

/// Reads up to `limit` events after number `after`, oldest first.
pub(super) fn after(conn: &Connection, after: i64, limit: usize) -> Result<Vec<Event>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "SELECT seq, time, kind, subject, data FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?
    .query_map((after, limit), |row| Ok(event(row)))?
    .map(|row| row?)
    .collect()
}

/// All events of one subject, oldest first.
pub(super) fn of_subject(conn: &Connection, subject: &str) -> Result<Vec<Event>, StoreError> {
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
