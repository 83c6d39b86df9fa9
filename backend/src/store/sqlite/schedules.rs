//! The engine's side of [`crate::store::schedules`].

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, Row};
use serde_json::json;

use super::{
    Database, StoreError, feed,
    idempotency::{Answer, Idempotency, Once, once},
    one, optional_time,
    runs::{self, CancelOutcome, Cause},
    select::Conditions,
    submissions::{NewRun, Subject, SubmitError, submit},
    time,
};
use crate::store::Listing;
pub(super) use crate::store::schedules::*;
use crate::{
    plan::{Rules, dependency::Need},
    schedule::{Due, Missed, Overlap, WAITING_MOST, latest_plan},
};

#[async_trait]
impl ScheduleStore for Database {
    async fn create_schedule(
        &self,
        now: Timestamp,
        new: NewSchedule,
        next: Option<Timestamp>,
        idempotency: Option<Idempotency>,
        answer: Answer<Schedule>,
    ) -> Result<Once<Schedule>, ScheduleError> {
        self.write(move |tx| once(tx, now, idempotency, answer, || create(tx, now, new, next)))
            .await
    }

    async fn change_schedule(
        &self,
        now: Timestamp,
        seen: Schedule,
        reform: Reform,
    ) -> Result<Option<Schedule>, ScheduleError> {
        self.write(move |tx| {
            let id = &seen.new.id;
            let schedule = find(tx, id)?.ok_or(ScheduleError::Unknown)?;
            if schedule.new != seen.new
                || schedule.paused_at != seen.paused_at
                || schedule.next_at != seen.next_at
            {
                return Ok(None);
            }
            check_card(tx, &reform.to.subject)?;
            let paused_at = match reform.paused {
                Some(true) => Some(schedule.paused_at.unwrap_or(now)),
                Some(false) => None,
                None => schedule.paused_at,
            };
            let next = reform.next.filter(|_| paused_at.is_none());
            tx.prepare_cached(
                "UPDATE schedules SET cron = ?2, time_zone = ?3, missed = ?4, overlap = ?5, \
                 catch_up = ?6, subject = ?7, queue = ?8, build_id = ?9, paused_at = ?10, \
                 planned_at = iif(next_at IS ?11, planned_at, ?12), next_at = ?11, \
                 updated_at = ?12 WHERE id = ?1",
            )?
            .execute((
                id,
                &reform.to.cron,
                &reform.to.time_zone,
                reform.to.missed.as_str(),
                reform.to.overlap.as_str(),
                reform.to.catch_up,
                serde_json::to_string(&reform.to.subject).map_err(StoreError::from)?,
                &reform.to.queue,
                &reform.to.build_id,
                paused_at.map(Timestamp::as_microsecond),
                next.map(Timestamp::as_microsecond),
                now.as_microsecond(),
            ))?;
            let kind = match (schedule.paused_at, paused_at) {
                (None, Some(_)) => "schedule.paused",
                (Some(_), None) => "schedule.resumed",
                (None, None) | (Some(_), Some(_)) => "schedule.updated",
            };
            feed::append(tx, now, kind, id, &json!({ "next": next }))?;
            Ok(find(tx, id)?)
        })
        .await
    }

    async fn delete_schedule(&self, now: Timestamp, id: String) -> Result<(), ScheduleError> {
        self.write(move |tx| {
            let removed = tx
                .prepare_cached("DELETE FROM schedules WHERE id = ?1")?
                .execute([&id])?;
            if removed == 0 {
                return Err(ScheduleError::Unknown);
            }
            Ok(feed::append(tx, now, "schedule.deleted", &id, &json!({}))?)
        })
        .await
    }

    async fn schedule(&self, id: String) -> Result<Option<Schedule>, StoreError> {
        self.read(move |conn| find(conn, &id)).await
    }

    async fn schedules(
        &self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Listing<Schedule>, StoreError> {
        self.read(move |conn| {
            let mut wanted = Conditions::default();
            wanted.also("seq < ?", before);
            wanted.listing(
                conn,
                &format!("SELECT {COLUMNS} FROM schedules"),
                limit,
                read,
            )
        })
        .await
    }

    async fn due_schedules(
        &self,
        now: Timestamp,
    ) -> Result<(Vec<Schedule>, Option<Timestamp>), StoreError> {
        self.read(move |conn| {
            let due = conn
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM schedules WHERE paused_at IS NULL \
                     AND (next_at <= ?1 OR planned_at > ?2) ORDER BY next_at LIMIT 100"
                ))?
                .query_map(
                    (now.as_microsecond(), latest_plan(now).as_microsecond()),
                    |row| Ok(read(row)),
                )?
                .map(|row| row?)
                .collect::<Result<_, StoreError>>()?;
            let next: Option<i64> = conn
                .prepare_cached(
                    "SELECT min(next_at) FROM schedules WHERE paused_at IS NULL AND next_at > ?1",
                )?
                .query_row([now.as_microsecond()], |row| row.get(0))?;
            Ok((due, optional_time(next)?))
        })
        .await
    }

    async fn fire_schedule(
        &self,
        now: Timestamp,
        seen: Schedule,
        due: Due,
        rules: Arc<Rules>,
    ) -> Result<Fired, StoreError> {
        self.write(move |tx| {
            let mut fired = Fired::default();
            let current = find(tx, &seen.new.id)?.filter(|schedule| {
                schedule.new == seen.new
                    && schedule.paused_at.is_none()
                    && schedule.next_at == seen.next_at
            });
            let Some(mut schedule) = current else {
                return Ok(fired);
            };
            schedule.next_at = due.next;
            schedule.passed_over += due.passed_over;
            if due.passed_over > 0 {
                let data = json!({ "why": "missed", "times": due.passed_over });
                feed::append(tx, now, "schedule.passed_over", &schedule.new.id, &data)?;
            }
            for time in due.fire {
                make_run(tx, now, &mut schedule, time, &rules, &mut fired)?;
            }
            tx.prepare_cached(
                "UPDATE schedules SET next_at = ?2, last_at = ?3, last_run = ?4, last_error = ?5, \
                 made = ?6, passed_over = ?7, planned_at = ?8 WHERE id = ?1",
            )?
            .execute((
                &schedule.new.id,
                schedule.next_at.map(Timestamp::as_microsecond),
                schedule.last_at.map(Timestamp::as_microsecond),
                &schedule.last_run,
                &schedule.last_error,
                schedule.made,
                schedule.passed_over,
                now.as_microsecond(),
            ))?;
            Ok(fired)
        })
        .await
    }
}

impl From<rusqlite::Error> for ScheduleError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

const COLUMNS: &str = "seq, id, cron, time_zone, missed, overlap, catch_up, subject, queue, build_id, \
     actor, paused_at, next_at, last_at, last_run, last_error, made, passed_over, created_at, updated_at, \
     planned_at";

fn read(row: &Row<'_>) -> Result<Schedule, StoreError> {
    let (missed, overlap): (String, String) = (row.get(4)?, row.get(5)?);
    let strange = |what: &str| StoreError::Fault(format!("a schedule has the policy {what:?}"));
    Ok(Schedule {
        seq: row.get(0)?,
        new: NewSchedule {
            id: row.get(1)?,
            cron: row.get(2)?,
            time_zone: row.get(3)?,
            missed: Missed::parse(&missed).ok_or_else(|| strange(&missed))?,
            overlap: Overlap::parse(&overlap).ok_or_else(|| strange(&overlap))?,
            catch_up: row.get(6)?,
            subject: serde_json::from_str(&row.get::<_, String>(7)?)?,
            queue: row.get(8)?,
            build_id: row.get(9)?,
            actor: row.get(10)?,
        },
        paused_at: optional_time(row.get(11)?)?,
        next_at: optional_time(row.get(12)?)?,
        last_at: optional_time(row.get(13)?)?,
        last_run: row.get(14)?,
        last_error: row.get(15)?,
        made: row.get(16)?,
        passed_over: row.get(17)?,
        created_at: time(row.get(18)?)?,
        updated_at: time(row.get(19)?)?,
        planned_at: optional_time(row.get(20)?)?,
    })
}

fn find(conn: &Connection, id: &str) -> Result<Option<Schedule>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM schedules WHERE id = ?1");
    one(conn, &sql, id, read)
}

fn create(
    tx: &Connection,
    now: Timestamp,
    new: NewSchedule,
    next: Option<Timestamp>,
) -> Result<Schedule, ScheduleError> {
    if find(tx, &new.id)?.is_some() {
        return Err(ScheduleError::Exists(new.id));
    }
    check_card(tx, &new.subject)?;
    tx.prepare_cached(
        "INSERT INTO schedules (id, cron, time_zone, missed, overlap, catch_up, subject, \
         queue, build_id, actor, next_at, created_at, updated_at, planned_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12, ?12)",
    )?
    .execute((
        &new.id,
        &new.cron,
        &new.time_zone,
        new.missed.as_str(),
        new.overlap.as_str(),
        new.catch_up,
        serde_json::to_string(&new.subject).map_err(StoreError::from)?,
        &new.queue,
        &new.build_id,
        &new.actor,
        next.map(Timestamp::as_microsecond),
        now.as_microsecond(),
    ))?;
    feed::append(
        tx,
        now,
        "schedule.created",
        &new.id,
        &json!({ "next": next }),
    )?;
    find(tx, &new.id)?.ok_or(ScheduleError::Unknown)
}

fn check_card(tx: &Connection, subject: &Scheduled) -> Result<(), ScheduleError> {
    match subject {
        Scheduled::Card { card } if super::cards::find(tx, card)?.is_none() => {
            Err(ScheduleError::UnknownCard(card.clone()))
        }
        Scheduled::Card { .. } | Scheduled::Command { .. } => Ok(()),
    }
}

fn make_run(
    tx: &Connection,
    now: Timestamp,
    schedule: &mut Schedule,
    at: Timestamp,
    rules: &Rules,
    fired: &mut Fired,
) -> Result<(), StoreError> {
    let id = schedule.new.id.clone();
    let mut before = unfinished(tx, &id)?;
    before.retain(|run| !fired.made.contains(run));
    let pass_over = |schedule: &mut Schedule, why: &str, error: Option<String>| {
        schedule.passed_over += 1;
        schedule.last_error = error;
        let data = json!({ "why": why, "time": at });
        feed::append(tx, now, "schedule.passed_over", &schedule.new.id, &data)
    };
    // The newest of them waits for those before it, if it has to. Those that are made up at once wait
    // for each other: the policy is for those of earlier times.
    let made = fired.made.last();
    let mut needs = Vec::from_iter(made.map(|run| (run.clone(), Need::End)));
    match (schedule.new.overlap, before.first()) {
        (_, None) => {}
        (Overlap::Queue, Some(_)) if made.is_none() && before.len() > WAITING_MOST => {
            let count = before.len();
            let error = format!(
                "{count} runs of the times before have not ended: no more than {WAITING_MOST} wait"
            );
            return pass_over(schedule, "overlap", Some(error));
        }
        (Overlap::Queue | Overlap::Cancel, Some(_)) if made.is_some() => {}
        (Overlap::Skip, Some(run)) => {
            let error = format!("run {run} of the time before has not ended");
            return pass_over(schedule, "overlap", Some(error));
        }
        (Overlap::Queue, Some(run)) => needs.push((run.clone(), Need::End)),
        (Overlap::Cancel, Some(run)) => {
            needs.push((run.clone(), Need::End));
            for run in &before {
                if let CancelOutcome::Canceling(run) = runs::cancel(tx, now, run)? {
                    fired.canceling.push(run.id);
                }
            }
        }
    }
    let subject = match &schedule.new.subject {
        Scheduled::Card { card } => Subject::Card {
            id: card.clone(),
            exclusive: false,
        },
        Scheduled::Command { command, priority } => Subject::Command {
            work: command.clone(),
            priority: *priority,
        },
    };
    let run = orket_shared::id::new_ulid();
    let actor = format!("schedule:{id}");
    let new = NewRun {
        build_id: schedule.new.build_id.clone(),
        queue: schedule.new.queue.clone(),
        needs,
        schedule_id: Some(id.clone()),
        ..NewRun::new(&run, Cause::Schedule, &actor, &run, subject)
    };
    // A submission that is refused half way leaves nothing behind.
    tx.execute_batch("SAVEPOINT fire")?;
    match submit(tx, now, &new, rules) {
        Ok(run) => {
            tx.execute_batch("RELEASE fire")?;
            schedule.made += 1;
            schedule.last_at = Some(at);
            schedule.last_error = None;
            let data = json!({ "time": at, "run_id": run.id });
            feed::append(tx, now, "schedule.fired", &id, &data)?;
            fired.made.push(run.id.clone());
            schedule.last_run = Some(run.id);
            Ok(())
        }
        Err(SubmitError::Store(error)) => Err(error),
        Err(refused) => {
            tx.execute_batch("ROLLBACK TO fire; RELEASE fire")?;
            pass_over(schedule, "refused", Some(refused.to_string()))
        }
    }
}

/// The runs of a schedule that have not ended, newest first.
fn unfinished(tx: &Connection, id: &str) -> Result<Vec<String>, StoreError> {
    Ok(tx
        .prepare_cached(
            "SELECT id FROM runs WHERE schedule_id = ?1 AND ended_at IS NULL ORDER BY seq DESC",
        )?
        .query_map([id], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}
