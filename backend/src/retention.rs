//! Removes what is done with when its time is up, gives the space back, and clears away what attempts
//! left behind.
//!
//! It holds nothing: every look begins from the store. It goes in small steps with a pause after
//! each, so that whoever writes meanwhile waits for one step at most.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    listen::Stop,
    metrics::{Metrics, RemovedLabels},
    scheduler::Scheduler,
    settings,
    store::{
        Store, StoreError,
        retention::{Cutoffs, Removed},
    },
};

/// The pause after each step.
const PAUSE: Duration = Duration::from_millis(5);

/// Keeps the store within its bounds of time.
#[derive(Clone)]
pub struct Keeper {
    store: Store,
    scheduler: Scheduler,
    settings: settings::Retention,
    metrics: Arc<Metrics>,
    stop: Stop,
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
        }
    }

    /// Looks again and again until a stop is asked for.
    pub async fn run(self) {
        let mut period = tokio::time::interval(self.settings.period);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.stopped() => return,
                _ = period.tick() => {}
            }
            tokio::select! {
                () = self.stop.stopped() => return,
                looked = self.look() => if let Err(error) = looked {
                    tracing::error!(%error, "what is old stays for now; trying again");
                },
            }
        }
    }

    /// Removes all that is old by now.
    async fn look(&self) -> Result<(), StoreError> {
        let mut all = Removed::default();
        loop {
            let now = Timestamp::now();
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
