//! The engine's side of [`crate::store::retention`].

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::json;

use super::{Database, StoreError, feed, idempotency};
use crate::clock::Course;
pub(super) use crate::store::retention::*;

/// Rows removed at a time, of each kind.
const ROWS: i64 = 200;
/// Events removed at a time: they are small.
const EVENTS: i64 = 1000;
/// Bytes of output, and of bodies of deliveries, removed at a time. The one that reaches it is the
/// last.
const BYTES: i64 = 4 << 20;
/// Pages given back at a time: 1 MiB.
const PAGES: u32 = 256;

#[async_trait]
impl RetentionStore for Database {
    async fn remove_old(&self, now: Timestamp, cutoffs: Cutoffs) -> Result<Removed, StoreError> {
        self.write(move |tx| {
            let mut removed = Removed {
                idempotency_keys: idempotency::forget(tx, now, ROWS)?,
                ..Removed::default()
            };
            removed.more = removed.idempotency_keys >= ROWS.unsigned_abs();
            if let Some(before) = cutoffs.logs {
                logs(tx, now, before, &mut removed)?;
            }
            if let Some(before) = cutoffs.finished_runs {
                runs(tx, before, &mut removed)?;
            }
            if let Some(before) = cutoffs.events {
                removed.events = events(tx, now, before)?;
                removed.more |= removed.events > 0;
            }
            if let Some(before) = cutoffs.deliveries {
                removed.deliveries = deliveries(tx, before)?;
                removed.more |= removed.deliveries > 0;
            }
            if let Some(before) = cutoffs.archived_cards {
                removed.cards = cards(tx, now, before)?;
                removed.more |= removed.cards > 0;
            }
            if let Some(before) = cutoffs.deleted_sandboxes {
                removed.sandboxes = sandboxes(tx, before)?;
                removed.more |= removed.sandboxes > 0;
            }
            Ok(removed)
        })
        .await
    }

    async fn shrink(&self) -> Result<bool, StoreError> {
        self.write(|tx| {
            let free = |tx: &Connection| {
                tx.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0))
            };
            let before = free(tx)?;
            // Each step gives one page back.
            let mut statement = tx.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            let after = free(tx)?;
            Ok(after > 0 && after < before)
        })
        .await
    }

    async fn course(&self) -> Result<Option<Course>, StoreError> {
        self.read(|conn| {
            let course = conn.query_row(
                "SELECT course_machine, course_offset, course_since FROM boot \
                 WHERE course_machine IS NOT NULL",
                [],
                |row| {
                    Ok(Course {
                        machine: row.get(0)?,
                        offset: row.get(1)?,
                        since: row.get(2)?,
                    })
                },
            );
            Ok(course.optional()?)
        })
        .await
    }

    async fn keep_course(&self, course: Course) -> Result<(), StoreError> {
        self.write(move |tx| {
            tx.prepare_cached(
                "UPDATE boot SET course_machine = ?1, course_offset = ?2, course_since = ?3",
            )?
            .execute((course.machine, course.offset, course.since))?;
            Ok(())
        })
        .await
    }

    async fn settle_space(&self) -> Result<(), StoreError> {
        let path = self.path().to_owned();
        let settled = tokio::task::spawn_blocking(move || {
            let conn = Connection::open(path)?;
            // Passive: it waits for no reader and no writer.
            conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        });
        let settled = settled
            .await
            .map_err(|error| StoreError::Fault(error.to_string()))?;
        Ok(settled?)
    }
}

/// Runs that ended before, the oldest first; only those whose output is still there, if asked.
fn ended(tx: &Connection, before: Timestamp, and: &str) -> Result<Vec<String>, StoreError> {
    let sql = format!(
        "SELECT id FROM runs WHERE ended_at IS NOT NULL AND ended_at < ?1 {and} \
         ORDER BY ended_at LIMIT ?2"
    );
    Ok(tx
        .prepare_cached(&sql)?
        .query_map((before.as_microsecond(), ROWS), |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

/// Removes pieces of a run's output, the oldest first, within `budget` bytes; how many, and whether
/// all are gone.
fn pieces(tx: &Connection, run: &str, budget: &mut i64) -> Result<(u64, bool), StoreError> {
    let mut sizes =
        tx.prepare_cached("SELECT seq, length(bytes) FROM output WHERE run_id = ?1 ORDER BY seq")?;
    let mut rows = sizes.query([run])?;
    let (mut last, mut all) = (None, true);
    while let Some(row) = rows.next()? {
        if *budget <= 0 {
            all = false;
            break;
        }
        last = Some(row.get::<_, i64>(0)?);
        *budget -= row.get::<_, i64>(1)?.max(1);
    }
    drop(rows);
    let Some(last) = last else {
        return Ok((0, all));
    };
    let removed = tx
        .prepare_cached("DELETE FROM output WHERE run_id = ?1 AND seq <= ?2")?
        .execute((run, last))?;
    Ok((removed as u64, all))
}

fn logs(
    tx: &Connection,
    now: Timestamp,
    before: Timestamp,
    removed: &mut Removed,
) -> Result<(), StoreError> {
    let mut budget = BYTES;
    for run in ended(tx, before, "AND logs_removed_at IS NULL")? {
        let (count, all) = pieces(tx, &run, &mut budget)?;
        removed.logs += count;
        removed.more = true;
        if !all {
            break;
        }
        let at = if count > 0 { now.as_microsecond() } else { 0 };
        tx.prepare_cached("UPDATE runs SET logs_removed_at = ?2 WHERE id = ?1")?
            .execute((&run, at))?;
    }
    Ok(())
}

fn runs(tx: &Connection, before: Timestamp, removed: &mut Removed) -> Result<(), StoreError> {
    let mut budget = BYTES;
    for run in ended(tx, before, "")? {
        let (count, all) = pieces(tx, &run, &mut budget)?;
        removed.logs += count;
        removed.more = true;
        if !all {
            break;
        }
        for sql in [
            "DELETE FROM attempts WHERE run_id = ?1",
            "DELETE FROM run_needs WHERE run_id = ?1",
            "DELETE FROM runs WHERE id = ?1",
        ] {
            tx.prepare_cached(sql)?.execute([&run])?;
        }
        removed.runs += 1;
    }
    Ok(())
}

fn events(tx: &Connection, now: Timestamp, before: Timestamp) -> Result<u64, StoreError> {
    // What was told by a clock that was far ahead is as old as what comes after it.
    let told = now
        .max(before)
        .as_microsecond()
        .saturating_add(feed::RAISED);
    let mut statement =
        tx.prepare_cached("SELECT seq, time FROM events WHERE time <= ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = statement.query((told, EVENTS))?;
    let mut last: Option<i64> = None;
    while let Some(row) = rows.next()?
        && row.get::<_, i64>(1)? < before.as_microsecond()
    {
        last = Some(row.get(0)?);
    }
    drop(rows);
    let Some(last) = last else { return Ok(0) };
    let removed = tx
        .prepare_cached(
            "DELETE FROM events WHERE seq IN \
             (SELECT seq FROM events WHERE seq <= ?1 ORDER BY seq LIMIT ?2)",
        )?
        .execute((last, EVENTS))?;
    Ok(removed as u64)
}

fn deliveries(tx: &Connection, before: Timestamp) -> Result<u64, StoreError> {
    // By their age, not by their place: one that came while the clock was wrong takes no other along.
    let mut statement = tx.prepare_cached(
        "SELECT seq, length(body) FROM deliveries WHERE received_at < ?1 \
         ORDER BY received_at LIMIT ?2",
    )?;
    let mut rows = statement.query((before.as_microsecond(), ROWS))?;
    let (mut old, mut budget) = (Vec::new(), BYTES);
    while budget > 0
        && let Some(row) = rows.next()?
    {
        old.push(row.get::<_, i64>(0)?);
        budget -= row.get::<_, i64>(1)?;
    }
    drop(rows);
    let mut remove = tx.prepare_cached("DELETE FROM deliveries WHERE seq = ?1")?;
    for seq in &old {
        remove.execute([seq])?;
    }
    Ok(old.len() as u64)
}

fn cards(tx: &Connection, now: Timestamp, before: Timestamp) -> Result<u64, StoreError> {
    let ids: Vec<String> = tx
        .prepare_cached(
            "SELECT id FROM cards WHERE status = 'archived' AND archived_at < ?1 \
             AND NOT EXISTS (SELECT 1 FROM runs WHERE card_id = cards.id AND ended_at IS NULL) \
             ORDER BY archived_at LIMIT ?2",
        )?
        .query_map((before.as_microsecond(), ROWS), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in &ids {
        tx.prepare_cached("DELETE FROM cards WHERE id = ?1")?
            .execute([id])?;
        feed::append(tx, now, "card.deleted", id, &json!({ "why": "retention" }))?;
    }
    Ok(ids.len() as u64)
}

fn sandboxes(tx: &Connection, before: Timestamp) -> Result<u64, StoreError> {
    let removed = tx
        .prepare_cached(
            "DELETE FROM sandboxes WHERE seq IN (SELECT seq FROM sandboxes \
             WHERE state = 'deleted' AND updated_at < ?1 AND NOT EXISTS \
             (SELECT 1 FROM sandbox_ports WHERE sandbox_id = sandboxes.id) \
             ORDER BY updated_at LIMIT ?2)",
        )?
        .execute((before.as_microsecond(), ROWS))?;
    Ok(removed as u64)
}
