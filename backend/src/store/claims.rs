//! Giving slots to waiting runs.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};

use super::{
    Database, StoreError, optional_time,
    runs::{self, Run, Why},
};
use crate::run::Step;

/// What a claim found.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Runs to be started now; the `epoch` of each is that of the attempt to be made.
    pub claimed: Vec<Run>,
    /// When the next scheduled run is due.
    pub next_due: Option<Timestamp>,
}

impl Database {
    /// Gives free slots to waiting runs, by priority, then taking turns between keys, then by age.
    pub async fn claim_runs(&self, now: Timestamp, concurrency: i64) -> Result<Claims, StoreError> {
        let boot = self.epoch();
        self.write(move |tx| {
            promote_due(tx, now)?;
            let active: i64 = tx
                .prepare_cached(
                    "SELECT count(*) FROM runs WHERE state IN ('running', 'canceling')",
                )?
                .query_row([], |row| row.get(0))?;
            let mut claims = Claims::default();
            for _ in active..concurrency {
                let Some(id) = next_in_turn(tx)? else { break };
                claims.claimed.push(claim(tx, now, &id, boot)?);
            }
            let due: Option<i64> = tx
                .prepare_cached("SELECT min(not_before) FROM runs WHERE state = 'scheduled'")?
                .query_row([], |row| row.get(0))?;
            claims.next_due = optional_time(due)?;
            Ok(claims)
        })
        .await
    }
}

fn promote_due(tx: &Connection, now: Timestamp) -> Result<(), StoreError> {
    let due: Vec<String> = tx
        .prepare_cached("SELECT id FROM runs WHERE state = 'scheduled' AND not_before <= ?1")?
        .query_map([now.as_microsecond()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in due {
        if let Some(run) = runs::find(tx, &id)? {
            let why = Why {
                reason: run.reason.clone(),
                detail: run.detail.clone(),
            };
            runs::step(tx, now, &run, Step::Due, &why)?;
        }
    }
    Ok(())
}

/// The run whose turn it is: of the highest priority that waits, the oldest run of the key that
/// was served longest ago. The cost grows with the number of waiting keys, not of waiting runs.
fn next_in_turn(tx: &Connection) -> Result<Option<String>, StoreError> {
    Ok(tx
        .prepare_cached(
            "WITH RECURSIVE
               top (priority) AS (SELECT max(priority) FROM runs WHERE state = 'queued'),
               keys (turn_key) AS (
                 SELECT min(turn_key) FROM runs, top
                  WHERE state = 'queued' AND runs.priority = top.priority
                 UNION ALL
                 SELECT (SELECT min(r.turn_key) FROM runs r, top WHERE r.state = 'queued'
                           AND r.priority = top.priority AND r.turn_key > keys.turn_key)
                   FROM keys WHERE keys.turn_key IS NOT NULL)
             SELECT (SELECT r.id FROM runs r, top WHERE r.state = 'queued'
                       AND r.priority = top.priority AND r.turn_key = keys.turn_key
                     ORDER BY r.seq LIMIT 1)
               FROM keys LEFT JOIN turns ON turns.turn_key = keys.turn_key
              WHERE keys.turn_key IS NOT NULL
              ORDER BY coalesce(turns.served, 0), keys.turn_key LIMIT 1",
        )?
        .query_row([], |row| row.get(0))
        .optional()?)
}

fn claim(tx: &Connection, now: Timestamp, id: &str, boot: i64) -> Result<Run, StoreError> {
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
        "INSERT INTO turns (turn_key, served) SELECT turn_key, \
         (SELECT coalesce(max(served), 0) + 1 FROM turns) FROM runs WHERE id = ?1 \
         ON CONFLICT (turn_key) DO UPDATE SET served = excluded.served",
    )?
    .execute([id])?;
    runs::step(tx, now, &run, Step::Claim, &Why::default())?;
    runs::find(tx, id)?.ok_or_else(gone)
}
