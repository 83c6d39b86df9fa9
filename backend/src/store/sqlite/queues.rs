//! The engine's side of [`crate::store::queues`].

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::json;

use super::{Database, StoreError, feed, optional_time};
pub(super) use crate::store::queues::*;

#[async_trait]
impl QueueStore for Database {
    async fn queues(&self) -> Result<BTreeMap<String, QueueState>, StoreError> {
        self.read(|conn| {
            let mut queues: BTreeMap<String, QueueState> = BTreeMap::new();
            let mut statement =
                conn.prepare_cached("SELECT name, paused_at, paused_by FROM queues")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let queue = queues.entry(row.get(0)?).or_default();
                queue.paused_at = optional_time(row.get(1)?)?;
                queue.paused_by = row.get(2)?;
            }
            for (name, state, count, oldest) in unfinished(conn)? {
                let queue = queues.entry(name).or_default();
                match state.as_str() {
                    "queued" => {
                        queue.queued = count;
                        queue.oldest_queued_at = optional_time(oldest)?;
                    }
                    "scheduled" => queue.scheduled = count,
                    _ => queue.active += count,
                }
            }
            Ok(queues)
        })
        .await
    }

    async fn pause_queue(
        &self,
        now: Timestamp,
        name: String,
        actor: String,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            if is_paused(tx, &name)? {
                return Ok(());
            }
            tx.prepare_cached(
                "INSERT INTO queues (name, paused_at, paused_by) VALUES (?1, ?2, ?3) ON CONFLICT \
                 (name) DO UPDATE SET paused_at = excluded.paused_at, paused_by = excluded.paused_by",
            )?
            .execute((&name, now.as_microsecond(), &actor))?;
            feed::append(tx, now, "queue.paused", &name, &json!({ "actor": actor }))
        })
        .await
    }

    async fn resume_queue(
        &self,
        now: Timestamp,
        name: String,
        actor: String,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            if !is_paused(tx, &name)? {
                return Ok(());
            }
            tx.prepare_cached(
                "UPDATE queues SET paused_at = NULL, paused_by = NULL WHERE name = ?1",
            )?
            .execute([&name])?;
            feed::append(tx, now, "queue.resumed", &name, &json!({ "actor": actor }))
        })
        .await
    }
}

fn is_paused(tx: &Connection, name: &str) -> Result<bool, StoreError> {
    let paused: Option<Option<i64>> = tx
        .prepare_cached("SELECT paused_at FROM queues WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(paused.flatten().is_some())
}

type Count = (String, String, i64, Option<i64>);

/// How many runs of each queue are in each state that is not final, and since when the one that waits
/// longest does.
fn unfinished(conn: &Connection) -> Result<Vec<Count>, StoreError> {
    Ok(conn
        .prepare_cached(
            "SELECT queue, state, count(*), min(since) FROM runs \
             WHERE state IN ('queued', 'scheduled') GROUP BY queue, state UNION ALL \
             SELECT queue, 'active', count(*), NULL FROM runs \
             WHERE state IN ('running', 'canceling') GROUP BY queue",
        )?
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<Result<_, _>>()?)
}
