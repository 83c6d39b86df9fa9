//! Attempts of runs: claiming, output, ending. Every change names the attempt's epoch, and an
//! epoch that is not the run's newest is refused: nothing of an older attempt is taken in.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::json;

use super::{
    Database, StoreError, optional_time,
    runs::{self, Run, Why},
    time,
};
use crate::{
    executor::{Exit, Identity, Isolation, Outcome, OutputRecord},
    run::{Ending, State, Step, backoff_ms, settle},
};

/// A run that was given a slot.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The run; its `epoch` is that of the attempt to be made.
    pub run: Run,
}

/// What a claim found.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Runs to be started now.
    pub claimed: Vec<Claimed>,
    /// When the next scheduled run is due.
    pub next_due: Option<Timestamp>,
}

/// An attempt whose end is not recorded.
#[derive(Debug, Clone)]
pub struct Open {
    /// Its run.
    pub run: Run,
    /// Whether its supervisor was known to run.
    pub started: bool,
    /// The supervisor's number of the last output taken in; 0 when none was.
    pub output_seq: u64,
}

/// How an attempt ended, as the run is to take it.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Seen from the run.
    pub ending: Ending,
    /// Whether no retry can help.
    pub hopeless: bool,
    /// For the run's record.
    pub why: Why,
}

/// What became of an attempt's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The run is in this state now.
    Run(State),
    /// The attempt is not the run's newest, or has ended before: nothing has changed.
    Stale,
}

/// An attempt for people.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct AttemptView {
    /// Its number, counted from 1: the fencing epoch.
    pub epoch: i64,
    /// `claimed`, `started` or `ended`.
    pub state: String,
    /// The isolation level it reached.
    pub isolation: Option<String>,
    /// When it was claimed (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    pub claimed_at: Timestamp,
    /// When its supervisor ran.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When the last process of its tree was seen gone.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// How it ended: `kind` and, depending on it, `code`, `signal` or `detail`.
    #[schema(value_type = Option<Object>)]
    pub exit: Option<serde_json::Value>,
    /// CPU time of the whole tree in milliseconds.
    pub cpu_ms: Option<i64>,
    /// Largest resident memory of any one process, in bytes.
    pub memory_peak_bytes: Option<i64>,
}

/// One piece of a run's output.
#[derive(Debug, Clone)]
pub struct OutputRow {
    /// Its number within the run.
    pub seq: i64,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// When it was written.
    pub time: Timestamp,
    /// What was written.
    pub bytes: Vec<u8>,
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
                claims.claimed.push(Claimed {
                    run: claim(tx, now, &id, boot)?,
                });
            }
            let due: Option<i64> = tx
                .prepare_cached("SELECT min(not_before) FROM runs WHERE state = 'scheduled'")?
                .query_row([], |row| row.get(0))?;
            claims.next_due = optional_time(due)?;
            Ok(claims)
        })
        .await
    }

    /// Records that the supervisor of an attempt runs. `false`: the attempt is not the newest.
    pub async fn attempt_started(
        &self,
        now: Timestamp,
        run_id: String,
        epoch: i64,
        supervisor: Identity,
        isolation: Isolation,
    ) -> Result<bool, StoreError> {
        self.write(move |tx| {
            let changed = tx
                .prepare_cached(
                    "UPDATE attempts SET state = 'started', supervisor = ?3, isolation = ?4, \
                     started_at = ?5 WHERE run_id = ?1 AND epoch = ?2 AND state = 'claimed'",
                )?
                .execute((
                    &run_id,
                    epoch,
                    serde_json::to_string(&supervisor)?,
                    isolation.name(),
                    now.as_microsecond(),
                ))?;
            Ok(changed == 1)
        })
        .await
    }

    /// Takes in output of an attempt. What is there already is left alone. `false`: the attempt
    /// is not the run's newest, or has ended.
    pub async fn take_output(
        &self,
        run_id: String,
        epoch: i64,
        records: Vec<OutputRecord>,
    ) -> Result<bool, StoreError> {
        self.write(move |tx| {
            let Some(base) = open_base(tx, &run_id, epoch)? else {
                return Ok(false);
            };
            let mut insert = tx.prepare_cached(
                "INSERT INTO output (run_id, seq, epoch, stream, time, bytes) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?;
            for record in records {
                let seq = base.saturating_add(i64::try_from(record.seq).unwrap_or(i64::MAX));
                insert.execute((
                    &run_id,
                    seq,
                    epoch,
                    record.stream.name(),
                    record.time.as_microsecond(),
                    &record.bytes[..],
                ))?;
            }
            Ok(true)
        })
        .await
    }

    /// Ends an attempt and takes the step that follows for its run.
    pub async fn finish_attempt(
        &self,
        now: Timestamp,
        run_id: String,
        epoch: i64,
        exit: Exit,
        verdict: Verdict,
    ) -> Result<Finished, StoreError> {
        self.write(move |tx| {
            let Some(run) = runs::find(tx, &run_id)? else {
                return Ok(Finished::Stale);
            };
            if run.epoch != epoch || open_base(tx, &run_id, epoch)?.is_none() {
                return Ok(Finished::Stale);
            }
            end(tx, &run_id, epoch, &exit)?;
            let spent: i64 = tx
                .prepare_cached(
                    "SELECT count(*) FROM attempts WHERE run_id = ?1 \
                     AND coalesce(outcome ->> 'kind', '') <> 'never_started'",
                )?
                .query_row([&run_id], |row| row.get(0))?;
            let step = settle(
                verdict.ending,
                spent,
                i64::from(run.work.retries),
                verdict.hopeless,
            );
            let why = if run.state == State::Canceling {
                Why {
                    reason: Some("canceled".to_owned()),
                    detail: verdict.why.detail,
                }
            } else {
                verdict.why
            };
            let state = runs::step(tx, now, &run, step, &why)?;
            if state == State::Scheduled {
                let due = now + SignedDuration::from_millis(backoff_ms(spent));
                tx.prepare_cached("UPDATE runs SET not_before = ?2 WHERE id = ?1")?
                    .execute((&run_id, due.as_microsecond()))?;
            }
            Ok(Finished::Run(state))
        })
        .await
    }

    /// Takes an attempt back that never came to life: the run waits again, nothing was spent.
    pub async fn unclaim_run(
        &self,
        now: Timestamp,
        run_id: String,
        epoch: i64,
        detail: String,
    ) -> Result<Finished, StoreError> {
        self.write(move |tx| {
            let Some(run) = runs::find(tx, &run_id)? else {
                return Ok(Finished::Stale);
            };
            if run.epoch != epoch || open_base(tx, &run_id, epoch)?.is_none() {
                return Ok(Finished::Stale);
            }
            tx.prepare_cached(
                "UPDATE attempts SET state = 'ended', ended_at = ?3, outcome = ?4 \
                 WHERE run_id = ?1 AND epoch = ?2",
            )?
            .execute((
                &run_id,
                epoch,
                now.as_microsecond(),
                json!({ "kind": "never_started", "detail": detail }).to_string(),
            ))?;
            let why = Why {
                reason: Some("never_started".to_owned()),
                detail: Some(detail),
            };
            Ok(Finished::Run(runs::step(
                tx,
                now,
                &run,
                Step::Unclaim,
                &why,
            )?))
        })
        .await
    }

    /// All attempts whose end is not recorded: what a start has to settle.
    pub async fn open_attempts(&self) -> Result<Vec<Open>, StoreError> {
        self.read(|conn| {
            let rows: Vec<(String, bool, i64)> = conn
                .prepare_cached(
                    "SELECT run_id, state = 'started', coalesce((SELECT max(seq) FROM output \
                     WHERE output.run_id = attempts.run_id), 0) - output_base \
                     FROM attempts WHERE state <> 'ended'",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<_, _>>()?;
            let mut open = Vec::with_capacity(rows.len());
            for (id, started, seq) in rows {
                if let Some(run) = runs::find(conn, &id)? {
                    open.push(Open {
                        run,
                        started,
                        output_seq: u64::try_from(seq).unwrap_or(0),
                    });
                }
            }
            Ok(open)
        })
        .await
    }

    /// The attempts of a run, oldest first.
    pub async fn attempts(&self, run_id: String) -> Result<Vec<AttemptView>, StoreError> {
        self.read(move |conn| {
            conn.prepare_cached(
                "SELECT epoch, state, isolation, claimed_at, started_at, ended_at, outcome, \
                 cpu_ms, memory_peak FROM attempts WHERE run_id = ?1 ORDER BY epoch",
            )?
            .query_map([&run_id], |row| Ok(view(row)))?
            .map(|row| row?)
            .collect()
        })
        .await
    }

    /// Output of a run after number `after`, at most `limit` pieces.
    pub async fn output(
        &self,
        run_id: String,
        after: i64,
        limit: i64,
    ) -> Result<Vec<OutputRow>, StoreError> {
        self.read(move |conn| {
            conn.prepare_cached(
                "SELECT seq, stream, time, bytes FROM output \
                 WHERE run_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            )?
            .query_map((&run_id, after, limit), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get(3)?))
            })?
            .map(|row| {
                let (seq, stream, at, bytes) = row?;
                Ok(OutputRow {
                    seq,
                    stream,
                    time: time(at)?,
                    bytes,
                })
            })
            .collect()
        })
        .await
    }
}

fn view(row: &rusqlite::Row<'_>) -> Result<AttemptView, StoreError> {
    let outcome: Option<String> = row.get(6)?;
    Ok(AttemptView {
        epoch: row.get(0)?,
        state: row.get(1)?,
        isolation: row.get(2)?,
        claimed_at: time(row.get(3)?)?,
        started_at: optional_time(row.get(4)?)?,
        ended_at: optional_time(row.get(5)?)?,
        exit: outcome
            .map(|text| serde_json::from_str(&text))
            .transpose()?,
        cpu_ms: row.get(7)?,
        memory_peak_bytes: row.get(8)?,
    })
}

/// What to add to the numbers of this attempt's output; `None` when it is not the newest of its
/// run or has ended: the fence.
fn open_base(tx: &Connection, run_id: &str, epoch: i64) -> Result<Option<i64>, StoreError> {
    Ok(tx
        .prepare_cached(
            "SELECT a.output_base FROM attempts a JOIN runs r ON r.id = a.run_id \
             AND r.epoch = a.epoch WHERE a.run_id = ?1 AND a.epoch = ?2 AND a.state <> 'ended'",
        )?
        .query_row((run_id, epoch), |row| row.get(0))
        .optional()?)
}

fn end(tx: &Connection, run_id: &str, epoch: i64, exit: &Exit) -> Result<(), StoreError> {
    let outcome: &Outcome = &exit.outcome;
    tx.prepare_cached(
        "UPDATE attempts SET state = 'ended', ended_at = ?3, outcome = ?4, cpu_ms = ?5, \
         memory_peak = ?6 WHERE run_id = ?1 AND epoch = ?2",
    )?
    .execute((
        run_id,
        epoch,
        exit.ended_at.as_microsecond(),
        serde_json::to_string(outcome)?,
        i64::try_from(exit.cpu_ms).ok(),
        i64::try_from(exit.memory_peak_bytes).ok(),
    ))?;
    Ok(())
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
