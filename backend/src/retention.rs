//! Removes what is done with when its time is up, gives the space back, and clears away what attempts
//! left behind.
//!
//! What it holds is only how the clock goes on: every look begins from the store. It goes in small
//! steps with a pause after each, so that whoever writes meanwhile waits for one step at most. It must
//! never remove anything by a clock that was set a moment ago: that one may be set right again.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    clock::{Course, since_boot},
    listen::Stop,
    metrics::{Metrics, RemovedLabels},
    scheduler::Scheduler,
    settings,
    store::{
        Store, StoreError,
        retention::{Cutoffs, Removed},
    },
    supervisor::identity::boot_id,
};

/// The pause after each step.
const PAUSE: Duration = Duration::from_millis(5);

/// Keeps the store within its bounds of time.
pub struct Keeper {
    store: Store,
    scheduler: Scheduler,
    settings: settings::Retention,
    metrics: Arc<Metrics>,
    stop: Stop,
    /// How the clock has gone on; `None` until the store was asked.
    course: Option<Course>,
    /// Whether it was in doubt at the last look.
    doubted: bool,
}

impl Keeper {
    /// A keeper; [`Keeper::run`] sets it going.
    pub fn new(
        store: Store,
        scheduler: Scheduler,
        settings: settings::Retention,
        metrics: Arc<Metrics>,
        stop: Stop,
    ) -> Self {
        Self {
            store,
            scheduler,
            settings,
            metrics,
            stop,
            course: None,
            doubted: false,
        }
    }

    /// Looks again and again until a stop is asked for.
    pub async fn run(mut self) {
        let mut period = tokio::time::interval(self.settings.period);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stop.stopped() => return,
                _ = period.tick() => {}
            }
            tokio::select! {
                () = stop.stopped() => return,
                looked = self.look() => if let Err(error) = looked {
                    tracing::error!(%error, "what is old stays for now; trying again");
                },
            }
        }
    }

    /// Removes all that is old by now.
    async fn look(&mut self) -> Result<(), StoreError> {
        let mut all = Removed::default();
        while let Some(now) = self.certain_now().await? {
            let removed = self.store.remove_old(now, self.cutoffs(now)).await?;
            self.count(&removed, &mut all);
            if !removed.more {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let mut shrunk = false;
        while self.store.shrink().await? {
            shrunk = true;
            tokio::time::sleep(PAUSE).await;
        }
        if shrunk {
            self.store.settle_space().await?;
        }
        self.scheduler.clear_leftovers().await?;
        if all != Removed::default() {
            tracing::info!(
                event = "retention",
                runs = all.runs,
                logs = all.logs,
                events = all.events,
                deliveries = all.deliveries,
                cards = all.cards,
                sandboxes = all.sandboxes,
                idempotency_keys = all.idempotency_keys,
                "what was old is removed"
            );
        }
        Ok(())
    }

    /// What the clock shows, where it can be gone by: it has not been set for [`STEADY_FOR`](crate::clock::STEADY_FOR).
    async fn certain_now(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let (now, since_boot) = (Timestamp::now(), since_boot());
        let (Some(since_boot), Ok(machine)) = (since_boot, boot_id()) else {
            return Ok(Some(now));
        };
        let since_boot = i64::try_from(since_boot.as_micros()).unwrap_or(i64::MAX);
        let known = match self.course.take() {
            None => self.store.course().await?,
            known => known,
        };
        let course = Course::at(known.clone(), machine, now.as_microsecond(), since_boot);
        if known.as_ref() != Some(&course) {
            self.store.keep_course(course.clone()).await?;
        }
        let doubtful = course.doubtful_for(since_boot);
        let anew = known.as_ref() != Some(&course);
        self.course = Some(course);
        if doubtful.is_zero() {
            self.doubted = false;
            return Ok(Some(now));
        }
        if anew || !self.doubted {
            self.doubted = true;
            tracing::warn!(
                event = "retention_waits",
                seconds = doubtful.as_secs(),
                "the machine's clock was set, or the machine restarted: nothing is removed until the clock was steady for a while"
            );
        }
        Ok(None)
    }

    /// What is old at `now`. A time before all times keeps everything.
    fn cutoffs(&self, now: Timestamp) -> Cutoffs {
        let before = |kept: Option<Duration>| now.checked_sub(kept?).ok();
        let settings = &self.settings;
        Cutoffs {
            finished_runs: before(settings.finished_runs),
            logs: before(settings.logs),
            events: before(settings.events),
            deliveries: before(settings.deliveries),
            archived_cards: before(settings.archived_cards),
            deleted_sandboxes: before(settings.deleted_sandboxes),
        }
    }

    fn count(&self, removed: &Removed, all: &mut Removed) {
        for (what, count, sum) in [
            ("runs", removed.runs, &mut all.runs),
            ("logs", removed.logs, &mut all.logs),
            ("events", removed.events, &mut all.events),
            ("deliveries", removed.deliveries, &mut all.deliveries),
            ("cards", removed.cards, &mut all.cards),
            ("sandboxes", removed.sandboxes, &mut all.sandboxes),
            (
                "idempotency_keys",
                removed.idempotency_keys,
                &mut all.idempotency_keys,
            ),
        ] {
            *sum += count;
            if count > 0 {
                let labels = RemovedLabels { what };
                self.metrics.retention_removed.inc_by(&labels, count);
            }
        }
    }
}
