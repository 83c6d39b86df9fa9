//! The engine's side of [`crate::store::claims`].

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{
    Database, StoreError, optional_time,
    runs::{self, Run, Why},
};
pub(super) use crate::store::claims::*;
use crate::{
    plan::{
        Rules,
        claim::{Head, Lane, Usage, next},
        deadline,
    },
    run::{State, Step},
};

#[async_trait]
impl ClaimStore for Database {
    async fn claim_runs(&self, now: Timestamp, rules: Arc<Rules>) -> Result<Claims, StoreError> {
        let boot = self.epoch();
        self.write(move |tx| {
            let mut moved = expire(tx, now)?;
            moved += promote_due(tx, now)?;
            let claimed = fill_slots(tx, now, &rules, boot)?;
            let next_due = if moved >= MOVED {
                Some(now)
            } else {
                next_due(tx)?
            };
            Ok(Claims { claimed, next_due })
        })
        .await
    }
}

/// Runs moved on by one claim at most, so that no other write waits long; the next one goes on.
const MOVED: i64 = 500;

/// Ends runs that have waited too long; how many.
fn expire(tx: &Connection, now: Timestamp) -> Result<i64, StoreError> {
    let late: Vec<String> = tx
        .prepare_cached(
            "SELECT id FROM runs WHERE state IN ('queued', 'scheduled') AND give_up_at <= ?1 \
             ORDER BY give_up_at LIMIT ?2",
        )?
        .query_map((now.as_microsecond(), MOVED), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut expired = 0;
    for id in late {
        // One that needed another may have ended with it.
        let Some(run) = runs::find(tx, &id)?.filter(|run| run.state.after(Step::Expire).is_ok())
        else {
            continue;
        };
        let bounds = &run.work.bounds;
        let bound = deadline::given_up(run.state, run.since, run.created_at, bounds);
        let why = Why {
            reason: bound.map(|(_, bound)| bound.reason().to_owned()),
            detail: bound.map(|(_, bound)| bound.detail().to_owned()),
        };
        runs::step(tx, now, &run, Step::Expire, &why)?;
        expired += 1;
    }
    Ok(expired)
}

/// Queues the retries whose time has come; how many.
fn promote_due(tx: &Connection, now: Timestamp) -> Result<i64, StoreError> {
    let due: Vec<String> = tx
        .prepare_cached(
            "SELECT id FROM runs WHERE state = 'scheduled' AND holds = 0 AND not_before <= ?1 \
             UNION SELECT id FROM runs WHERE state = 'scheduled' AND holds = 0 AND since > ?1 \
             LIMIT ?2",
        )?
        .query_map((now.as_microsecond(), MOVED), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut promoted = 0;
    for id in due {
        let Some(run) = runs::find(tx, &id)? else {
            continue;
        };
        if deadline::is_due(run.since, run.not_before.unwrap_or(run.since), now) {
            let why = Why {
                reason: run.reason.clone(),
                detail: run.detail.clone(),
            };
            runs::step(tx, now, &run, Step::Due, &why)?;
            promoted += 1;
        }
    }
    Ok(promoted)
}

fn fill_slots(
    tx: &Connection,
    now: Timestamp,
    rules: &Rules,
    boot: i64,
) -> Result<Vec<Run>, StoreError> {
    let mut claimed = Vec::new();
    let mut usage = usage(tx)?;
    if usage.is_full(rules) {
        return Ok(claimed);
    }
    let paused = paused(tx)?;
    let mut heads = heads(tx)?;
    while let Some(place) = next(&heads, &usage, rules, &paused) {
        let head = heads.swap_remove(place);
        claimed.push(claim(tx, now, &head, boot)?);
        usage.add(&head.lane, 1);
        heads.extend(head_of(tx, &head.lane)?);
    }
    Ok(claimed)
}

/// The active runs, counted by lane.
fn usage(tx: &Connection) -> Result<Usage, StoreError> {
    let mut usage = Usage::default();
    let mut statement = tx.prepare_cached(
        "SELECT queue, turn_key, count(*) FROM runs WHERE state IN ('running', 'canceling') \
         GROUP BY queue, turn_key",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let lane = Lane {
            queue: row.get(0)?,
            key: row.get(1)?,
        };
        usage.add(&lane, row.get(2)?);
    }
    Ok(usage)
}

fn paused(tx: &Connection) -> Result<BTreeSet<String>, StoreError> {
    Ok(tx
        .prepare_cached("SELECT name FROM queues WHERE paused_at IS NOT NULL")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

const HEAD: &str = "r.queue, r.turn_key, r.id, r.priority, coalesce((SELECT served FROM turns t \
     WHERE t.queue = r.queue AND t.turn_key = r.turn_key), 0)";

fn head(row: &Row<'_>) -> Result<Head, rusqlite::Error> {
    Ok(Head {
        lane: Lane {
            queue: row.get(0)?,
            key: row.get(1)?,
        },
        run: row.get(2)?,
        priority: row.get(3)?,
        served: row.get(4)?,
    })
}

/// The first run of every lane. It goes from lane to lane: the cost grows with the number of lanes
/// that wait, not with that of runs.
fn heads(tx: &Connection) -> Result<Vec<Head>, StoreError> {
    let sql = format!(
        "WITH RECURSIVE first (seq) AS (
           SELECT (SELECT seq FROM runs WHERE state = 'queued'
                   ORDER BY queue, turn_key, priority DESC, seq LIMIT 1)
           UNION ALL
           SELECT (SELECT n.seq FROM runs n WHERE n.state = 'queued'
                     AND (n.queue, n.turn_key) > (h.queue, h.turn_key)
                   ORDER BY n.queue, n.turn_key, n.priority DESC, n.seq LIMIT 1)
             FROM first JOIN runs h ON h.seq = first.seq)
         SELECT {HEAD} FROM first JOIN runs r ON r.seq = first.seq"
    );
    Ok(tx
        .prepare_cached(&sql)?
        .query_map([], head)?
        .collect::<Result<_, _>>()?)
}

/// The first run of one lane.
fn head_of(tx: &Connection, lane: &Lane) -> Result<Option<Head>, StoreError> {
    let sql = format!(
        "SELECT {HEAD} FROM runs r WHERE r.state = 'queued' AND r.queue = ?1 AND r.turn_key = ?2 \
         ORDER BY r.priority DESC, r.seq LIMIT 1"
    );
    Ok(tx
        .prepare_cached(&sql)?
        .query_row((&lane.queue, &lane.key), head)
        .optional()?)
}

fn claim(tx: &Connection, now: Timestamp, head: &Head, boot: i64) -> Result<Run, StoreError> {
    let id = &head.run;
    let gone = || StoreError::Fault(format!("run {id} vanished while it was claimed"));
    let run = runs::find(tx, id)?.ok_or_else(gone)?;
    tx.prepare_cached("UPDATE runs SET epoch = epoch + 1 WHERE id = ?1")?
        .execute([id])?;
    tx.prepare_cached(
        "INSERT INTO attempts (run_id, epoch, boot, state, output_base, claimed_at) \
         SELECT id, epoch, ?2, 'claimed', \
         coalesce((SELECT max(seq) FROM output WHERE run_id = ?1), 0), ?3 FROM runs WHERE id = ?1",
    )?
    .execute((id, boot, now.as_microsecond()))?;
    tx.prepare_cached(
        "INSERT INTO turns (queue, turn_key, served) \
         VALUES (?1, ?2, (SELECT coalesce(max(served), 0) + 1 FROM turns)) \
         ON CONFLICT (queue, turn_key) DO UPDATE SET served = excluded.served",
    )?
    .execute((&head.lane.queue, &head.lane.key))?;
    let state = runs::step(tx, now, &run, Step::Claim, &Why::default())?;
    if state != State::Running {
        return Err(StoreError::Fault(format!(
            "run {id} was claimed into {}",
            state.as_str()
        )));
    }
    runs::find(tx, id)?.ok_or_else(gone)
}

/// When the next retry is due, or the next run that waits is given up.
fn next_due(tx: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let due: Option<i64> = tx
        .prepare_cached(
            "SELECT min(at) FROM (SELECT min(not_before) AS at FROM runs \
             WHERE state = 'scheduled' AND holds = 0 UNION ALL \
             SELECT min(give_up_at) FROM runs WHERE state IN ('queued', 'scheduled'))",
        )?
        .query_row([], |row| row.get(0))?;
    optional_time(due)
}
