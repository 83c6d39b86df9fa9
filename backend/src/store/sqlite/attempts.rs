//! The engine's side of [`crate::store::attempts`].

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::json;

use super::{
    Database, StoreError, clock, optional_time,
    runs::{self, Why},
    time,
};
pub(super) use crate::store::attempts::*;
use crate::{
    executor::{Exit, Identity, Isolation, Outcome},
    plan::{
        attempt::{self, Current, Facts, Report},
        deadline::Bound,
    },
    run::{Ending, State, Step},
};

#[async_trait]
impl AttemptStore for Database {
    async fn attempt_started(
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
                     started_at = max(?5, claimed_at) WHERE run_id = ?1 AND epoch = ?2 AND state = 'claimed'",
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

    async fn finish_attempt(
        &self,
        now: Timestamp,
        run_id: String,
        epoch: i64,
        exit: Exit,
        verdict: Verdict,
    ) -> Result<Finished, StoreError> {
        self.write(move |tx| {
            let Some((run, open, current)) = speaker(tx, &run_id, epoch)? else {
                return Ok(Finished::Stale);
            };
            end(tx, &run_id, epoch, &exit)?;
            let now = clock::certain(now);
            let verdict = match open.ended_for {
                Some(bound) if verdict.ending == Ending::Canceled => Verdict::over(bound),
                Some(_) | None => verdict,
            };
            let facts = Facts {
                run: &run_id,
                state: run.state,
                spent: run.attempts,
                retries: i64::from(run.work.retries),
                created: run.counted_from,
                bounds: &run.work.bounds,
            };
            let report = Report {
                ending: verdict.ending,
                hopeless: verdict.hopeless,
            };
            let settled = attempt::finish(current, &facts, report, now)
                .map_err(|illegal| StoreError::Fault(illegal.to_string()))?;
            let why = if run.state == State::Canceling {
                Why {
                    reason: Some("canceled".to_owned()),
                    detail: verdict.why.detail,
                }
            } else {
                verdict.why
            };
            let state = runs::step(tx, now, &run, settled.step, &why)?;
            if let Some(due) = settled.due {
                tx.prepare_cached("UPDATE runs SET not_before = ?2 WHERE id = ?1")?
                    .execute((&run_id, due.as_microsecond()))?;
            }
            Ok(Finished::Run(state))
        })
        .await
    }

    async fn attempt_overstepped(
        &self,
        run_id: String,
        epoch: i64,
        bound: Bound,
    ) -> Result<bool, StoreError> {
        self.write(move |tx| {
            let changed = tx
                .prepare_cached(
                    "UPDATE attempts SET ended_for = ?3 WHERE run_id = ?1 AND epoch = ?2 \
                     AND state <> 'ended' AND EXISTS (SELECT 1 FROM runs WHERE id = ?1 \
                     AND epoch = ?2 AND state = 'running')",
                )?
                .execute((&run_id, epoch, bound.reason()))?;
            Ok(changed == 1)
        })
        .await
    }

    async fn unclaim_run(
        &self,
        now: Timestamp,
        run_id: String,
        epoch: i64,
        detail: String,
    ) -> Result<Finished, StoreError> {
        self.write(move |tx| {
            let Some((run, _, current)) = speaker(tx, &run_id, epoch)? else {
                return Ok(Finished::Stale);
            };
            attempt::take_back(current, run.state)
                .map_err(|illegal| StoreError::Fault(illegal.to_string()))?;
            tx.prepare_cached(
                "UPDATE attempts SET state = 'ended', ended_at = max(?3, claimed_at), outcome = ?4 \
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

    async fn open_attempts(&self) -> Result<Vec<Open>, StoreError> {
        self.read(|conn| {
            let rows: Vec<(String, Option<String>, i64)> = conn
                .prepare_cached(
                    "SELECT run_id, supervisor, coalesce((SELECT max(seq) FROM output \
                     WHERE output.run_id = attempts.run_id), 0) - output_base \
                     FROM attempts WHERE state <> 'ended'",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<_, _>>()?;
            let mut open = Vec::with_capacity(rows.len());
            for (id, supervisor, seq) in rows {
                if let Some(run) = runs::find(conn, &id)? {
                    open.push(Open {
                        run,
                        supervisor: supervisor
                            .map(|text| serde_json::from_str(&text))
                            .transpose()?,
                        output_seq: u64::try_from(seq).unwrap_or(0),
                    });
                }
            }
            Ok(open)
        })
        .await
    }

    async fn attempts(&self, run_id: String) -> Result<Vec<AttemptView>, StoreError> {
        self.read(move |conn| {
            conn.prepare_cached(
                "SELECT epoch, state, isolation, claimed_at, started_at, ended_at, outcome, \
                 cpu_ms, memory_peak, dropped_bytes FROM attempts WHERE run_id = ?1 ORDER BY epoch",
            )?
            .query_map([&run_id], |row| Ok(view(row)))?
            .map(|row| row?)
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
        dropped_bytes: row.get(9)?,
    })
}

/// An attempt whose end is not recorded, within the engine.
struct OpenAttempt {
    /// What to add to the numbers of its output.
    output_base: i64,
    /// The bound that it is being ended for.
    ended_for: Option<Bound>,
}

/// The attempt, when it has not ended: what the fence asks for.
fn open_attempt(
    tx: &Connection,
    run_id: &str,
    epoch: i64,
) -> Result<Option<OpenAttempt>, StoreError> {
    let found: Option<(i64, Option<String>)> = tx
        .prepare_cached(
            "SELECT output_base, ended_for FROM attempts \
             WHERE run_id = ?1 AND epoch = ?2 AND state <> 'ended'",
        )?
        .query_row((run_id, epoch), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.map(|(output_base, ended_for)| OpenAttempt {
        output_base,
        ended_for: ended_for.as_deref().and_then(Bound::parse),
    }))
}

/// The run that this attempt may speak for, and the proof that it may.
fn speaker(
    tx: &Connection,
    run_id: &str,
    epoch: i64,
) -> Result<Option<(runs::Run, OpenAttempt, Current)>, StoreError> {
    let (Some(run), Some(open)) = (runs::find(tx, run_id)?, open_attempt(tx, run_id, epoch)?)
    else {
        return Ok(None);
    };
    let current = attempt::fence(run.epoch, epoch, true);
    Ok(current.map(|current| (run, open, current)))
}

/// What to add to the numbers of this attempt's output; `None` when it may not speak for its run.
pub(super) fn open_base(
    tx: &Connection,
    run_id: &str,
    epoch: i64,
) -> Result<Option<i64>, StoreError> {
    let newest: Option<i64> = tx
        .prepare_cached("SELECT epoch FROM runs WHERE id = ?1")?
        .query_row([run_id], |row| row.get(0))
        .optional()?;
    let open = open_attempt(tx, run_id, epoch)?;
    let current = attempt::fence(newest.unwrap_or(0), epoch, open.is_some());
    Ok(current.and(open).map(|open| open.output_base))
}

fn end(tx: &Connection, run_id: &str, epoch: i64, exit: &Exit) -> Result<(), StoreError> {
    let outcome: &Outcome = &exit.outcome;
    // The supervisor looks at a clock that may have been set meanwhile.
    tx.prepare_cached(
        "UPDATE attempts SET state = 'ended', \
         ended_at = max(?3, coalesce(started_at, claimed_at)), outcome = ?4, cpu_ms = ?5, \
         memory_peak = ?6, dropped_bytes = ?7 WHERE run_id = ?1 AND epoch = ?2",
    )?
    .execute((
        run_id,
        epoch,
        exit.ended_at.as_microsecond(),
        serde_json::to_string(outcome)?,
        i64::try_from(exit.cpu_ms).ok(),
        i64::try_from(exit.memory_peak_bytes).ok(),
        i64::try_from(exit.dropped_bytes).ok(),
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        executor::{OutputRecord, Stream},
        plan::{Bounds, Rules},
        scheduler::outcome,
        store::{
            claims::ClaimStore as _,
            output::OutputStore as _,
            runs::{Cause, RunStore as _},
            submissions::{NewRun, Subject, SubmissionStore as _, Submitted},
        },
        work::Work,
    };

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    fn exit(outcome: Outcome) -> (Exit, Verdict) {
        let exit = Exit {
            outcome,
            cpu_ms: 0,
            memory_peak_bytes: 0,
            dropped_bytes: 0,
            ended_at: now(),
        };
        let verdict = outcome::judge(&exit);
        (exit, verdict)
    }

    fn rules() -> Arc<Rules> {
        Arc::new(Rules {
            concurrency: 1,
            queue_limit: 10,
            queues: BTreeMap::new(),
            bounds: Bounds::default(),
        })
    }

    fn line(seq: u64, text: &str) -> Vec<OutputRecord> {
        vec![OutputRecord {
            seq,
            stream: Stream::Stdout,
            time: now(),
            bytes: text.as_bytes().to_vec(),
        }]
    }

    async fn store_with_a_run(retries: u32) -> (tempfile::TempDir, Database) {
        let dir = tempfile::tempdir().unwrap();
        let store = Database::open(&dir.path().join("o.db")).unwrap();
        let work = Work {
            command: vec!["true".into()],
            retries,
            ..Work::default()
        };
        let subject = Subject::Command { work, priority: 0 };
        let new = NewRun::new("r", Cause::Api, "a", "q", subject);
        let submitted = store
            .submit_run(now(), new, rules(), None, |_| json!({}))
            .await;
        assert!(matches!(submitted, Ok(Submitted::New(_))));
        (dir, store)
    }

    async fn claim(store: &Database, at: Timestamp) -> i64 {
        let claims = store.claim_runs(at, rules()).await.unwrap();
        assert_eq!(claims.claimed.len(), 1);
        claims.claimed[0].epoch
    }

    async fn finish(store: &Database, epoch: i64, outcome: Outcome) -> Finished {
        let (exit, verdict) = exit(outcome);
        store
            .finish_attempt(now(), "r".into(), epoch, exit, verdict)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn nothing_of_an_older_attempt_is_taken_in() {
        let (_dir, store) = store_with_a_run(1).await;
        let first = claim(&store, now()).await;
        assert!(
            store
                .take_output("r".into(), first, line(1, "one"))
                .await
                .unwrap()
        );
        let failed = finish(&store, first, Outcome::Exited { code: 1 }).await;
        assert_eq!(failed, Finished::Run(State::Scheduled));
        // Not twice, and not after its end.
        let again = finish(&store, first, Outcome::Exited { code: 0 }).await;
        assert_eq!(again, Finished::Stale);
        assert!(
            !store
                .take_output("r".into(), first, line(2, "late"))
                .await
                .unwrap()
        );

        assert!(
            store
                .claim_runs(now(), rules())
                .await
                .unwrap()
                .claimed
                .is_empty(),
            "it is not due"
        );
        let due = now() + jiff::SignedDuration::from_secs(60);
        let second = claim(&store, due).await;
        assert_eq!(second, first + 1);
        assert_eq!(
            finish(&store, first, Outcome::Exited { code: 0 }).await,
            Finished::Stale
        );
        assert!(
            !store
                .take_output("r".into(), first, line(3, "later"))
                .await
                .unwrap()
        );
        // Numbers go on over attempts, and a piece that comes twice is kept once.
        for _ in 0..2 {
            assert!(
                store
                    .take_output("r".into(), second, line(1, "two"))
                    .await
                    .unwrap()
            );
        }
        let ended = finish(&store, second, Outcome::Exited { code: 0 }).await;
        assert_eq!(ended, Finished::Run(State::Succeeded));
        let rows = store.output("r".into(), 0, 10).await.unwrap();
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.seq, row.bytes.as_slice()))
            .collect();
        assert_eq!(rows, [(1, b"one".as_slice()), (2, b"two")]);
        assert_eq!(
            finish(&store, second, Outcome::Canceled).await,
            Finished::Stale
        );
        assert!(store.open_attempts().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_attempt_that_never_came_to_life_is_not_spent() {
        let (_dir, store) = store_with_a_run(0).await;
        let first = claim(&store, now()).await;
        let requeued = store
            .unclaim_run(now(), "r".into(), first, "gone".into())
            .await
            .unwrap();
        assert_eq!(requeued, Finished::Run(State::Queued));
        let second = claim(&store, now()).await;
        assert_eq!(
            finish(&store, first, Outcome::Exited { code: 0 }).await,
            Finished::Stale
        );
        let lost = finish(
            &store,
            second,
            Outcome::Lost {
                detail: String::new(),
            },
        )
        .await;
        assert_eq!(lost, Finished::Run(State::Lost), "no retry is left");
    }

    #[tokio::test]
    async fn a_cancel_wins_over_however_it_ended() {
        for outcome in [
            Outcome::Exited { code: 0 },
            Outcome::Lost {
                detail: String::new(),
            },
        ] {
            let (_dir, store) = store_with_a_run(5).await;
            let epoch = claim(&store, now()).await;
            store.cancel_run(now(), "r".into()).await.unwrap();
            assert_eq!(
                store.active_runs().await.unwrap(),
                1,
                "its processes may still live"
            );
            let ended = finish(&store, epoch, outcome).await;
            assert_eq!(ended, Finished::Run(State::Canceled));
            assert_eq!(store.active_runs().await.unwrap(), 0);
        }
    }
}
