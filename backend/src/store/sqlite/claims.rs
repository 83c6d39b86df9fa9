//! The engine's side of [`crate::store::claims`].

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, Row};

use super::{
    Database, StoreError, clock, optional_time,
    runs::{self, Run, Why},
};
pub(super) use crate::store::claims::*;
use crate::{
    plan::{
        Rules,
        claim::{Head, Lane, Usage, next},
        deadline::{self, Bound},
    },
    run::{State, Step},
};

#[async_trait]
impl ClaimStore for Database {
    async fn claim_runs(&self, now: Timestamp, rules: Arc<Rules>) -> Result<Claims, StoreError> {
        let boot = self.epoch();
        self.write(move |tx| {
            let now = clock::certain(now);
            let moved = expire(tx, now)? + promote_due(tx, now)?;
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

// Each names its index: without figures about the tables the engine would read all that waits.

/// Runs that have waited too long.
const LATE: &str = "SELECT id FROM runs INDEXED BY runs_given_up \
     WHERE state IN ('queued', 'scheduled') AND give_up_at <= ?1 ORDER BY give_up_at LIMIT ?2";
/// Runs whose time has come, or that a clock was set back behind.
const DUE: &str = "SELECT id FROM runs INDEXED BY runs_scheduled \
     WHERE state = 'scheduled' AND holds = 0 AND not_before <= ?1 UNION \
     SELECT id FROM runs INDEXED BY runs_scheduled_since \
     WHERE state = 'scheduled' AND holds = 0 AND since > ?1 LIMIT ?2";
/// What is active in each lane.
const ACTIVE: &str = "SELECT queue, turn_key, count(*) FROM runs INDEXED BY runs_active \
     WHERE state IN ('running', 'canceling') GROUP BY queue, turn_key";
/// Queues that are paused.
const PAUSED: &str = "SELECT name FROM queues WHERE paused_at IS NOT NULL";
/// When something is due next.
const NEXT_DUE: &str = "SELECT min(at) FROM (SELECT min(not_before) AS at FROM runs \
     INDEXED BY runs_scheduled WHERE state = 'scheduled' AND holds = 0 UNION ALL \
     SELECT min(give_up_at) FROM runs INDEXED BY runs_given_up \
     WHERE state IN ('queued', 'scheduled'))";

/// Runs moved on by one claim at most, so that no other write waits long; the next one goes on.
const MOVED: i64 = 500;

/// Ends runs that have waited too long; how many.
fn expire(tx: &Connection, now: Timestamp) -> Result<i64, StoreError> {
    let late: Vec<String> = tx
        .prepare_cached(LATE)?
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
        // One whose starts were taken back has waited for longer than since then.
        let bound = deadline::given_up(run.state, run.since, run.counted_from, bounds)
            .filter(|(at, _)| *at <= now)
            .map_or(Bound::Waiting, |(_, bound)| bound);
        let detail = match &run.detail {
            Some(last) => format!("{}; last: {last}", bound.detail()),
            None => bound.detail().to_owned(),
        };
        let why = Why {
            reason: Some(bound.reason().to_owned()),
            detail: Some(detail),
        };
        runs::step(tx, now, &run, Step::Expire, &why)?;
        expired += 1;
    }
    Ok(expired)
}

/// Queues the retries whose time has come; how many.
fn promote_due(tx: &Connection, now: Timestamp) -> Result<i64, StoreError> {
    let due: Vec<String> = tx
        .prepare_cached(DUE)?
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
    let mut heads = Vec::new();
    for queue in waiting_queues(tx)? {
        if !paused.contains(&queue) {
            heads.extend(heads_of(tx, &queue, &usage, rules)?);
        }
    }
    while let Some(place) = next(&heads, &usage, rules, &paused) {
        let head = heads.swap_remove(place);
        claimed.push(claim(tx, now, &head, boot)?);
        usage.add(&head.lane, 1);
        let queue = &head.lane.queue;
        heads.retain(|head| head.lane.queue != *queue);
        heads.extend(heads_of(tx, queue, &usage, rules)?);
    }
    Ok(claimed)
}

/// The active runs, counted by lane.
fn usage(tx: &Connection) -> Result<Usage, StoreError> {
    let mut usage = Usage::default();
    let mut statement = tx.prepare_cached(ACTIVE)?;
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
        .prepare_cached(PAUSED)?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

/// The queues in which runs wait: it goes from one to the next, over all that waits in it.
const WAITING_QUEUES: &str = "WITH RECURSIVE found (queue) AS (
       SELECT min(queue) FROM lanes INDEXED BY lanes_in_turn WHERE priority IS NOT NULL
       UNION ALL
       SELECT (SELECT min(queue) FROM lanes INDEXED BY lanes_in_turn
               WHERE priority IS NOT NULL AND queue > found.queue)
         FROM found WHERE found.queue IS NOT NULL)
     SELECT queue FROM found WHERE queue IS NOT NULL";
/// The first run of each of the lanes of a queue whose turn is next.
const HEADS: &str = "SELECT queue, turn_key, (SELECT id FROM runs r INDEXED BY runs_queued \
     WHERE r.state = 'queued' AND r.queue = lanes.queue AND r.turn_key = lanes.turn_key \
     ORDER BY r.priority DESC, r.seq LIMIT 1), priority, served FROM lanes \
     INDEXED BY lanes_in_turn WHERE priority IS NOT NULL AND queue = ?1 \
     ORDER BY priority DESC, served, turn_key LIMIT ?2";

fn waiting_queues(tx: &Connection) -> Result<Vec<String>, StoreError> {
    Ok(tx
        .prepare_cached(WAITING_QUEUES)?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

/// Of one queue the heads that count: the one whose turn it is and those before it whose lanes have
/// all the slots they may have. However much waits, it reads no more.
fn heads_of(
    tx: &Connection,
    queue: &str,
    usage: &Usage,
    rules: &Rules,
) -> Result<Vec<Head>, StoreError> {
    if !usage.admits_queue(queue, rules) {
        return Ok(Vec::new());
    }
    let full = usage.full_lanes(queue, rules);
    let most = i64::try_from(full).map_or(i64::MAX, |full| full.saturating_add(1));
    let head = |row: &Row<'_>| -> Result<Head, rusqlite::Error> {
        Ok(Head {
            lane: Lane {
                queue: row.get(0)?,
                key: row.get(1)?,
            },
            run: row.get(2)?,
            priority: row.get(3)?,
            served: row.get(4)?,
        })
    };
    Ok(tx
        .prepare_cached(HEADS)?
        .query_map((queue, most), head)?
        .collect::<Result<_, _>>()?)
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
    let turn: i64 = tx
        .prepare_cached(
            "UPDATE lanes SET served = (SELECT coalesce(max(served), 0) + 1 FROM lanes) \
             WHERE queue = ?1 AND turn_key = ?2 RETURNING served",
        )?
        .query_row((&head.lane.queue, &head.lane.key), |row| row.get(0))?;
    if turn % FORGETTING == 0 {
        forget_turns(tx, turn - TURNS)?;
    }
    let state = runs::step(tx, now, &run, Step::Claim, &Why::default())?;
    if state != State::Running {
        return Err(StoreError::Fault(format!(
            "run {id} was claimed into {}",
            state.as_str()
        )));
    }
    runs::find(tx, id)?.ok_or_else(gone)
}

/// So many turns are remembered of lanes that have nothing to do; one that was served before them
/// counts as never served when it comes back, which puts it in the same place.
const TURNS: i64 = 1000;
/// Turns from one forgetting to the next.
const FORGETTING: i64 = 100;

/// Forgets when idle lanes were served, of all turns up to this one.
fn forget_turns(tx: &Connection, up_to: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "DELETE FROM lanes WHERE served <= ?1 AND priority IS NULL AND NOT EXISTS (SELECT 1 FROM runs \
         WHERE runs.queue = lanes.queue AND runs.turn_key = lanes.turn_key \
         AND state IN ('running', 'canceling'))",
    )?
    .execute([up_to])?;
    Ok(())
}

/// When the next retry is due, or the next run that waits is given up.
fn next_due(tx: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let due: Option<i64> = tx
        .prepare_cached(NEXT_DUE)?
        .query_row([], |row| row.get(0))?;
    optional_time(due)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        plan::Bounds,
        store::submissions::{NewRun, Subject, SubmissionStore as _},
        work::Work,
    };

    /// The indexes that hold nothing of the runs that have ended.
    const SMALL: [&str; 8] = [
        "runs_queued",
        "runs_scheduled",
        "runs_scheduled_since",
        "runs_active",
        "runs_waiting",
        "runs_given_up",
        "lanes_in_turn",
        "lanes_by_service",
    ];

    fn rules(concurrency: i64) -> Rules {
        Rules {
            concurrency,
            queue_limit: 10_000,
            queues: BTreeMap::new(),
            bounds: Bounds::default(),
        }
    }

    /// The lines of a statement's plan that grow with what has ended.
    async fn costly(store: &Database, sql: String) -> Vec<String> {
        let lines: Vec<String> = store
            .read(move |conn| {
                let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                let values = vec![1_i64; plan.parameter_count()];
                let lines = plan
                    .query_map(rusqlite::params_from_iter(values), |row| row.get(3))?
                    .collect::<Result<_, _>>()?;
                Ok::<_, StoreError>(lines)
            })
            .await
            .unwrap();
        assert!(!lines.is_empty());
        let is_cheap = |line: &String| {
            let by_key = line.starts_with("SEARCH") && line.contains("(seq=?)")
                || line.contains("USING INTEGER PRIMARY KEY")
                || line.contains("sqlite_autoindex")
                || line.contains("USING PRIMARY KEY");
            let small = SMALL.iter().any(|index| {
                let words = line.split_whitespace().collect::<Vec<_>>();
                words.contains(index)
            });
            let reads = line.starts_with("SCAN") || line.starts_with("SEARCH");
            // What is named here is no table of runs.
            let elsewhere = ["found", "(subquery", "queues", "waiting", "CONSTANT"];
            let table = line.split_whitespace().nth(1).unwrap_or_default();
            !reads
                || by_key
                || small
                || elsewhere
                    .iter()
                    .any(|name| table == *name || name.starts_with('(') && table.starts_with(name))
        };
        lines.into_iter().filter(|line| !is_cheap(line)).collect()
    }

    #[tokio::test]
    async fn no_statement_of_a_claim_reads_what_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let store = Database::open(&dir.path().join("o.db")).unwrap();
        for sql in [
            LATE.to_owned(),
            DUE.to_owned(),
            ACTIVE.to_owned(),
            PAUSED.to_owned(),
            NEXT_DUE.to_owned(),
            WAITING_QUEUES.to_owned(),
            HEADS.to_owned(),
            crate::store::sqlite::submissions::WAITING.to_owned(),
            crate::store::sqlite::submissions::WAITING_IN.to_owned(),
        ] {
            let costly = costly(&store, sql.clone()).await;
            assert!(costly.is_empty(), "{sql}: {costly:#?}");
        }
        let whole = "SELECT id FROM runs WHERE reason = 'x'".to_owned();
        assert_eq!(costly(&store, whole).await.len(), 1, "this test can fail");
        let by_state = "SELECT id FROM runs WHERE state = 'succeeded'".to_owned();
        assert_eq!(costly(&store, by_state).await.len(), 1);
    }

    #[tokio::test]
    async fn turns_of_idle_lanes_are_forgotten_and_of_busy_ones_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Database::open(&dir.path().join("o.db")).unwrap();
        let rules = Arc::new(rules(2));
        let now = Timestamp::from_second(1_000).unwrap();
        // The third one waits for a slot.
        for key in ["runs", "runs-too", "waits"] {
            let work = Work {
                command: vec!["true".into()],
                ..Work::default()
            };
            let subject = Subject::Command { work, priority: 0 };
            let new = NewRun {
                build_id: Some(key.into()),
                ..NewRun::new(key, runs::Cause::Api, "a", "q", subject)
            };
            let rules = Arc::clone(&rules);
            let submitted = store.submit_run(now, new, rules, None, |_| ().into());
            submitted.await.unwrap();
        }
        store
            .write(|tx| {
                for turn in 3..2 * TURNS {
                    if turn == 3 {
                        tx.execute("UPDATE lanes SET served = 3 WHERE turn_key = 'waits'", [])?;
                        continue;
                    }
                    tx.execute(
                        "INSERT INTO lanes (queue, turn_key, served) VALUES ('default', ?1, ?2)",
                        (format!("k{turn}"), turn),
                    )?;
                }
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let claimed = store.claim_runs(now, rules).await.unwrap().claimed;
        assert_eq!(claimed.len(), 2, "{claimed:?}");
        let kept: Vec<String> = store
            .read(|conn| {
                Ok::<_, StoreError>(
                    conn.prepare("SELECT turn_key FROM lanes")?
                        .query_map([], |row| row.get(0))?
                        .collect::<Result<_, _>>()?,
                )
            })
            .await
            .unwrap();
        assert!(
            kept.len() <= usize::try_from(TURNS + 4).unwrap(),
            "{}",
            kept.len()
        );
        for key in ["runs", "runs-too", "waits"] {
            assert!(kept.iter().any(|found| found == key), "{key}");
        }
    }

    /// How many steps of the engine's machine the statements of a claim's choice take.
    async fn steps(store: &Database) -> i32 {
        let counted = store.read(|conn| {
            let mut steps = 0;
            for (sql, values) in [
                (WAITING_QUEUES, vec![]),
                (HEADS, vec!["default".to_owned(), "1".to_owned()]),
            ] {
                let mut statement = conn.prepare(sql)?;
                let mut rows = statement.query(rusqlite::params_from_iter(values))?;
                while rows.next()?.is_some() {}
                drop(rows);
                steps += statement.get_status(rusqlite::StatementStatus::VmStep);
            }
            Ok::<_, StoreError>(steps)
        });
        counted.await.unwrap()
    }

    #[tokio::test]
    async fn a_claim_costs_the_same_however_much_waits() {
        let dir = tempfile::tempdir().unwrap();
        let store = Database::open(&dir.path().join("o.db")).unwrap();
        let now = Timestamp::from_second(1_000).unwrap();
        let submit = async |from: usize, to: usize, build: &dyn Fn(usize) -> String| {
            for number in from..to {
                let work = Work {
                    command: vec!["true".into()],
                    ..Work::default()
                };
                let subject = Subject::Command { work, priority: 0 };
                let new = NewRun {
                    build_id: Some(build(number)),
                    ..NewRun::new(&format!("r{number}"), runs::Cause::Api, "a", "q", subject)
                };
                let rules = Arc::new(rules(10_000));
                let submitted = store.submit_run(now, new, rules, None, |_| ().into());
                submitted.await.unwrap();
            }
        };
        submit(0, 3, &|number| format!("b{number}")).await;
        let few = steps(&store).await;
        submit(3, 300, &|number| format!("b{number}")).await;
        submit(300, 600, &|_| "b1".to_owned()).await;
        let many = steps(&store).await;
        assert!(many <= few + 20, "{few} steps became {many}");
    }
}
