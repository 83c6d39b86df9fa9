//! Makes the runs of schedules when their times come.
//!
//! It holds nothing: what is due is read from the store, decided by [`crate::schedule`], and taken
//! in only where the schedule is still as it was read. It must never make a run for a time twice.

use std::sync::Arc;

use jiff::Timestamp;

use super::{PAUSE, Scheduler, until};
use crate::{
    crash_point::CrashPoint,
    schedule::{Due, anew, due, rhythm::Rhythm, was_ahead},
    store::{StoreError, schedules::Schedule},
};

impl Scheduler {
    /// Makes runs until a stop is asked for. Wakes when a time comes and when a schedule changes.
    pub(super) async fn keep_schedules(&self) {
        let mut newest = self.inner.store.feed().watch();
        let mut cursor = *newest.borrow();
        loop {
            let next = match self.make_due().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(%error, "no schedule can be read; trying again");
                    Some(Timestamp::now() + PAUSE)
                }
            };
            let sleep = until(next);
            tokio::pin!(sleep);
            loop {
                tokio::select! {
                    () = self.inner.stop.stopped() => return,
                    () = &mut sleep => break,
                    changed = newest.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if self.concerns(&mut cursor, is_change).await {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Makes the runs that are due; when the next one is.
    async fn make_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let now = Timestamp::now();
        let (schedules, mut next) = self.inner.store.due_schedules(now).await?;
        // When these are next is known once they are dealt with; there may be more of them, too.
        if !schedules.is_empty() {
            next = Some(now);
        }
        for schedule in schedules {
            let id = schedule.new.id.clone();
            // One that fails holds up no other.
            if let Err(error) = self.make_runs_of(now, schedule).await {
                tracing::error!(schedule = id, %error, "its runs cannot be made; trying again");
                next = Some(now + PAUSE);
            }
        }
        Ok(next)
    }

    async fn make_runs_of(&self, now: Timestamp, schedule: Schedule) -> Result<(), StoreError> {
        let id = schedule.new.id.clone();
        // It was checked when it was stored; the host's time zones may have changed since.
        let rhythm = Rhythm::parse(&schedule.new.cron, &schedule.new.time_zone);
        let due = match (rhythm, schedule.next_at) {
            (Ok(rhythm), _) if was_ahead(schedule.planned_at, now) => {
                let due = anew(&rhythm, now);
                tracing::warn!(
                    event = "schedule_planned_anew",
                    schedule = id,
                    next = due.next.map(tracing::field::display),
                    "the clock was more than a day ahead when its next time was found"
                );
                due
            }
            (Ok(_), None) => return Ok(()),
            (Ok(rhythm), Some(planned)) => {
                let (missed, catch_up) = (schedule.new.missed, schedule.new.catch_up);
                // Many missed times take a moment to count.
                tokio::task::spawn_blocking(move || due(&rhythm, planned, now, missed, catch_up))
                    .await
                    .map_err(|error| StoreError::Fault(error.to_string()))?
            }
            (Err(error), _) => {
                tracing::error!(schedule = id, %error, "a schedule is not understood any more");
                let again = now + super::CLOCK_WATCH;
                Due {
                    fire: Vec::new(),
                    passed_over: 0,
                    next: Some(again),
                }
            }
        };
        let rules = Arc::clone(&self.inner.settings.rules);
        let store = &self.inner.store;
        CrashPoint::TickDue.reached();
        let fired = store.fire_schedule(now, schedule, due, rules).await?;
        CrashPoint::TickCommitted.reached();
        for run in &fired.canceling {
            self.end_processes(run);
        }
        if !fired.made.is_empty() {
            tracing::info!(
                event = "schedule_fired",
                schedule = id,
                runs = fired.made.len(),
                "its time came"
            );
        }
        Ok(())
    }
}

/// Whether an event may have changed when the next time is.
fn is_change(kind: &str) -> bool {
    matches!(
        kind,
        "schedule.created" | "schedule.updated" | "schedule.resumed"
    )
}
