//! The engine's side of [`crate::store::runs`].

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::json;

use super::{Database, StoreError, cards, feed, one, optional_time, select::Conditions, time};
use crate::store::Listing;
pub(super) use crate::store::runs::*;
use crate::{
    card,
    crash_point::CrashPoint,
    plan::{
        claim::Lane,
        clock, deadline,
        dependency::{Effect, Need},
    },
    run::{State, Step},
};

#[async_trait]
impl RunStore for Database {
    async fn cancel_run(&self, now: Timestamp, id: String) -> Result<CancelOutcome, StoreError> {
        self.write(move |tx| cancel(tx, now, &id)).await
    }

    async fn run(&self, id: String) -> Result<Option<Run>, StoreError> {
        self.read(move |conn| find(conn, &id)).await
    }

    async fn runs(&self, filter: Filter) -> Result<Listing<Run>, StoreError> {
        self.read(move |conn| {
            let mut wanted = Conditions::default();
            wanted.also("state = ?", filter.state.map(State::as_str));
            wanted.also("card_id = ?", filter.card_id);
            wanted.also("build_id = ?", filter.build_id);
            wanted.also("queue = ?", filter.queue);
            wanted.also("schedule_id = ?", filter.schedule_id);
            wanted.also("seq < ?", filter.before);
            let sql = format!("SELECT {COLUMNS} FROM runs");
            wanted.listing(conn, &sql, filter.limit, read)
        })
        .await
    }

    async fn needs(&self, id: String) -> Result<Vec<String>, StoreError> {
        self.read(move |conn| {
            Ok(conn
                .prepare_cached("SELECT needs FROM run_needs WHERE run_id = ?1")?
                .query_map([id], |row| row.get(0))?
                .collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn runs_by_state(&self) -> Result<Vec<(State, i64)>, StoreError> {
        self.read(|conn| {
            let mut counts: Vec<_> = State::ALL.into_iter().map(|state| (state, 0)).collect();
            let mut statement =
                conn.prepare_cached("SELECT state, count(*) FROM runs GROUP BY state")?;
            let rows = statement.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            })?;
            for row in rows {
                let (name, count) = row?;
                if let Some(entry) = counts.iter_mut().find(|(s, _)| s.as_str() == name) {
                    entry.1 = count;
                }
            }
            Ok(counts)
        })
        .await
    }

    async fn active_runs(&self) -> Result<i64, StoreError> {
        self.read(|conn| {
            Ok(conn
                .prepare_cached(
                    "SELECT count(*) FROM runs WHERE state IN ('running', 'canceling')",
                )?
                .query_row([], |row| row.get(0))?)
        })
        .await
    }
}

const COLUMNS: &str = "seq, id, state, reason, detail, card_id, build_id, cause, actor, \
     request_id, priority, spec, card_snapshot, epoch, created_at, not_before, queued_at, \
     started_at, canceling_at, ended_at, (SELECT count(*) FROM attempts WHERE run_id = runs.id \
     AND coalesce(outcome ->> 'kind', '') <> 'never_started'), queue, turn_key, holds, replay_of, \
     schedule_id, since, nullif(logs_removed_at, 0), \
     stepped";

fn read(row: &Row<'_>) -> Result<Run, StoreError> {
    let state: String = row.get(2)?;
    Ok(Run {
        seq: row.get(0)?,
        id: row.get(1)?,
        state: State::parse(&state)
            .ok_or_else(|| StoreError::Fault(format!("a run has the unknown state {state:?}")))?,
        reason: row.get(3)?,
        detail: row.get(4)?,
        card_id: row.get(5)?,
        build_id: row.get(6)?,
        cause: Cause::parse(&row.get::<_, String>(7)?)?,
        actor: row.get(8)?,
        request_id: row.get(9)?,
        priority: row.get(10)?,
        work: serde_json::from_str(&row.get::<_, String>(11)?)?,
        card_snapshot: row
            .get::<_, Option<String>>(12)?
            .map(|text| serde_json::from_str(&text))
            .transpose()?,
        epoch: row.get(13)?,
        attempts: row.get(20)?,
        lane: Lane {
            queue: row.get(21)?,
            key: row.get(22)?,
        },
        holds: row.get(23)?,
        replay_of: row.get(24)?,
        schedule_id: row.get(25)?,
        since: time(row.get(26)?)?,
        logs_removed_at: optional_time(row.get(27)?)?,
        created_at: time(row.get(14)?)?,
        counted_from: clock::moved(time(row.get(14)?)?, row.get(28)?),
        not_before: optional_time(row.get(15)?)?,
        queued_at: optional_time(row.get(16)?)?,
        started_at: optional_time(row.get(17)?)?,
        canceling_at: optional_time(row.get(18)?)?,
        ended_at: optional_time(row.get(19)?)?,
    })
}

/// The run of that id.
pub(super) fn find(conn: &Connection, id: &str) -> Result<Option<Run>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM runs WHERE id = ?1");
    one(conn, &sql, id, read)
}

/// A run of that card that has not ended, if there is one.
pub(super) fn unfinished_of_card(
    tx: &Connection,
    card: &str,
) -> Result<Option<String>, StoreError> {
    Ok(tx
        .prepare_cached(
            "SELECT id FROM runs WHERE card_id = ?1 AND ended_at IS NULL \
             ORDER BY seq DESC LIMIT 1",
        )?
        .query_row([card], |row| row.get(0))
        .optional()?)
}

/// Whether a run of that card that moves it has not ended. A review does not move it: it must not
/// keep the card from what its other runs came to.
fn is_worked_on(tx: &Connection, card: &str) -> Result<bool, StoreError> {
    Ok(tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM runs WHERE card_id = ?1 AND cause <> 'review' \
             AND ended_at IS NULL)",
        )?
        .query_row([card], |row| row.get(0))?)
}

/// Adds the event that tells of a run's new state, and how long it was in the one before.
pub(super) fn announce(
    tx: &Connection,
    now: Timestamp,
    id: &str,
    state: State,
    card_id: Option<&str>,
    reason: Option<&str>,
    before: Option<&Run>,
) -> Result<(), StoreError> {
    let mut data = json!({ "state": state, "card_id": card_id, "reason": reason });
    if let Some(before) = before {
        data["from"] = json!(before.state);
        // A clock that was set back spends no time.
        let spent = now.duration_since(before.since).as_secs_f64().max(0.0);
        data["seconds"] = json!(spent);
    }
    feed::append(tx, now, &format!("run.{}", state.as_str()), id, &data)
}

/// Takes one step of a run's life inside a transaction: state, times, event, and at its end its
/// card and the runs that wait for it. An illegal step is a fault: callers look before they step.
pub(super) fn step(
    tx: &Connection,
    now: Timestamp,
    run: &Run,
    step: Step,
    why: &Why,
) -> Result<State, StoreError> {
    let now = super::clock::certain(now);
    let reached = step_alone(tx, now, run, step, why)?;
    // A list, not recursion: a chain of runs may be as long as the queue.
    let mut ended = vec![(run.id.clone(), reached)];
    while let Some((id, state)) = ended.pop() {
        if let Some(ending) = state.ending() {
            for (waiting, need) in waiting_for(tx, &id)? {
                let effect = need.met_by(ending);
                ended.extend(settle_need(tx, now, &waiting, &id, effect)?);
            }
        }
    }
    Ok(reached)
}

/// What waits for a run, by run.
fn waiting_for(tx: &Connection, id: &str) -> Result<Vec<(String, Need)>, StoreError> {
    let rows: Vec<(String, String)> = tx
        .prepare_cached("SELECT run_id, need FROM run_needs WHERE needs = ?1 AND met = 0")?
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    rows.into_iter()
        .map(|(run, need)| {
            let need = Need::parse(&need)
                .ok_or_else(|| StoreError::Fault(format!("a run has the need {need:?}")))?;
            Ok((run, need))
        })
        .collect()
}

/// Lets a run feel that `before`, which it waited for, has ended; where it ends itself by that, it
/// and its state.
fn settle_need(
    tx: &Connection,
    now: Timestamp,
    waiting: &str,
    before: &str,
    effect: Effect,
) -> Result<Option<(String, State)>, StoreError> {
    tx.prepare_cached("UPDATE run_needs SET met = 1 WHERE run_id = ?1 AND needs = ?2")?
        .execute((waiting, before))?;
    let Some(run) = find(tx, waiting)?.filter(|run| run.state == State::Scheduled) else {
        return Ok(None);
    };
    match effect {
        Effect::Released => {
            CrashPoint::DependencyReleased.reached();
            tx.prepare_cached("UPDATE runs SET holds = holds - 1 WHERE id = ?1")?
                .execute([waiting])?;
            if run.holds == 1 {
                step_alone(tx, now, &run, Step::Due, &Why::default())?;
            }
            Ok(None)
        }
        Effect::Forsaken => {
            let why = Why {
                reason: Some("dependency_failed".to_owned()),
                detail: Some(format!("run {before}, which it needs, did not succeed")),
            };
            let state = step_alone(tx, now, &run, Step::Forsake, &why)?;
            Ok(Some((run.id, state)))
        }
    }
}

fn step_alone(
    tx: &Connection,
    now: Timestamp,
    run: &Run,
    step: Step,
    why: &Why,
) -> Result<State, StoreError> {
    let to = run
        .state
        .after(step)
        .map_err(|illegal| StoreError::Fault(illegal.to_string()))?;
    if to == run.state {
        return Ok(to);
    }
    // What is recorded never goes back, whatever a clock that was set says; what is waited for goes by
    // the clock as it is.
    let recorded = [run.queued_at, run.started_at, run.canceling_at];
    let latest = recorded.into_iter().flatten().max();
    let at = now.max(run.created_at).max(latest.unwrap_or(now));
    let at = at.as_microsecond();
    let given_up = deadline::given_up(to, now, run.counted_from, &run.work.bounds);
    let same_wait = deadline::is_same_wait(step);
    tx.prepare_cached(
        "UPDATE runs SET state = ?2, reason = ?3, detail = ?4, since = ?8, \
         give_up_at = iif(?9 AND NOT ?6, coalesce(give_up_at, ?7), ?7), \
         queued_at = iif(?2 = 'queued', ?5, queued_at), \
         not_before = iif(?2 = 'scheduled', not_before, NULL), \
         started_at = iif(?2 = 'running', coalesce(started_at, ?5), started_at), \
         canceling_at = iif(?2 = 'canceling', ?5, canceling_at), \
         ended_at = iif(?6, ?5, NULL) WHERE id = ?1",
    )?
    .execute((
        &run.id,
        to.as_str(),
        &why.reason,
        &why.detail,
        at,
        to.is_final(),
        given_up.map(|(at, _)| at.as_microsecond()),
        now.as_microsecond(),
        same_wait,
    ))?;
    announce(
        tx,
        now,
        &run.id,
        to,
        run.card_id.as_deref(),
        why.reason.as_deref(),
        Some(run),
    )?;
    if to.is_final()
        && run.cause != Cause::Review
        && let Some(card_id) = &run.card_id
        && !is_worked_on(tx, card_id)?
        && let Some(card) = cards::find(tx, card_id)?
        && let Some(ending) = to.ending()
        && card.status.after(card::Step::RunEnded(ending)).is_ok()
    {
        cards::step(tx, now, &card, card::Step::RunEnded(ending))?;
    }
    Ok(to)
}

/// Makes the wish to end a run durable, inside a transaction.
pub(super) fn cancel(
    tx: &Connection,
    now: Timestamp,
    id: &str,
) -> Result<CancelOutcome, StoreError> {
    let Some(run) = find(tx, id)? else {
        return Ok(CancelOutcome::Unknown);
    };
    if run.state == State::Canceled {
        return Ok(CancelOutcome::Canceled(Box::new(run)));
    }
    if run.state.after(Step::Cancel).is_err() {
        return Ok(CancelOutcome::Ended(run.state));
    }
    let why = Why {
        reason: Some("canceled".to_owned()),
        detail: None,
    };
    let state = step(tx, now, &run, Step::Cancel, &why)?;
    let run = Box::new(find(tx, id)?.unwrap_or(run));
    Ok(match state {
        State::Canceling => CancelOutcome::Canceling(run),
        State::Canceled
        | State::Scheduled
        | State::Queued
        | State::Running
        | State::Succeeded
        | State::Failed
        | State::TimedOut
        | State::Lost => CancelOutcome::Canceled(run),
    })
}
