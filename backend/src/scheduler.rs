//! Gives waiting runs their slots and follows what becomes of them.
//!
//! It holds no state of its own that matters: which runs wait, run or end is in the store, and
//! everything here can be killed at any point. It must never take a result in without the epoch
//! of the attempt it belongs to, and never say that a run ended before its executor said so.
//!
//! Next: [`follow`] for one attempt's life, [`outcome`] for what an end means.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{sync::broadcast, task::JoinSet};

use crate::{
    crash_point::CrashPoint,
    executor::{AdoptError, Adoption, Canceler, Executor, Isolation},
    listen::Stop,
    metrics::Metrics,
    run::State,
    settings,
    store::{
        Store, StoreError,
        attempts::Open,
        runs::{CancelOutcome, Run},
    },
    workspace::Workspace,
};

mod clockwork;
mod follow;
pub mod outcome;

/// How long to wait before the store is asked again after it failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long starts in flight may take after a stop was asked for.
const STARTS: Duration = Duration::from_secs(5);
/// The longest sleep until something is due: a clock that is set wakes nobody.
const CLOCK_WATCH: Duration = Duration::from_secs(30);
/// How many wake-ups of output readers are kept; who misses one looks into the store anyway.
const WAKE_UPS: usize = 1024;

/// The scheduler. Cheap to clone.
#[derive(Clone)]
pub struct Scheduler {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    executor: Executor,
    workspace: Workspace,
    settings: settings::Runs,
    stop: Stop,
    metrics: Arc<Metrics>,
    /// How to end the attempts that live, by run.
    living: Mutex<HashMap<String, Canceler>>,
    /// The ids of runs that have new output, or ended.
    output: broadcast::Sender<Arc<str>>,
}

/// What a start settled of the boots before.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Attempts that are followed again, to their end.
    pub adopted: usize,
    /// Attempts that had never come to life: their runs wait again.
    pub requeued: usize,
    /// Attempts of which nothing is left to know.
    pub lost: usize,
    /// Attempts that cannot be read now, or do not end: they stay open and are asked again.
    pub unclear: usize,
    /// Files of attempts whose end was recorded already.
    pub forgotten: usize,
}

impl Scheduler {
    /// A scheduler; [`Scheduler::settle`] and [`Scheduler::run`] set it going.
    pub fn new(
        store: Store,
        executor: Executor,
        workspace: Workspace,
        settings: settings::Runs,
        stop: Stop,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (output, _) = broadcast::channel(WAKE_UPS);
        let living = Mutex::default();
        let inner = Inner {
            store,
            executor,
            workspace,
            settings,
            stop,
            metrics,
            living,
            output,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Settles every attempt whose end is not recorded: nothing of an earlier boot stays unclear.
    /// Called once, before anything is claimed.
    pub async fn settle(&self) -> Result<Settled, StoreError> {
        let mut settled = Settled::default();
        let open = self.inner.store.open_attempts().await?;
        let known: HashSet<String> = open.iter().map(|open| attempt_id(&open.run)).collect();
        for open in open {
            self.settle_one(open, &mut settled).await;
        }
        match self.inner.executor.list() {
            Ok(ids) => {
                for id in ids.into_iter().filter(|id| !known.contains(id)) {
                    settled.forgotten += 1;
                    self.clear_away(id).await;
                }
            }
            Err(error) => tracing::warn!(%error, "the attempts' files cannot be listed"),
        }
        Ok(settled)
    }

    /// Neither delays nor ends the start where the store takes nothing: what is to be recorded then is so
    /// beside it, and the run keeps its slot until then.
    async fn settle_one(&self, open: Open, settled: &mut Settled) {
        let id = attempt_id(&open.run);
        match self.inner.executor.adopt(&id, open.output_seq).await {
            Ok(Adoption::Running(attempt)) => {
                CrashPoint::AttemptAdopted.reached();
                settled.adopted += 1;
                tokio::spawn(self.clone().follow(open.run, attempt));
            }
            Ok(Adoption::Vanished { detail, unbegun }) => {
                if let Some(supervisor) = &open.supervisor {
                    // The command may have removed what would have told of it, and live on.
                    if !self.inner.executor.end_traceless(supervisor).await {
                        settled.unclear += 1;
                        tokio::spawn(self.clone().take_over_later(open));
                        return;
                    }
                    if !unbegun {
                        settled.lost += 1;
                        return self.settle_lost(open.run, id, detail).await;
                    }
                }
                settled.requeued += 1;
                self.settle_unbegun(open.run, id, detail).await;
            }
            Err(error) => {
                settled.unclear += 1;
                tracing::error!(run = open.run.id, %error, "an attempt cannot be taken over; trying again");
                tokio::spawn(self.clone().take_over_later(open));
            }
        }
    }

    async fn settle_lost(&self, run: Run, id: String, detail: String) {
        let end = outcome::lost(detail);
        match self.record_end(&run, &end).await {
            Ok(finished) => {
                self.tell_end(&run, &end, finished);
                self.clear_away(id).await;
            }
            Err(error) => {
                tracing::error!(run = run.id, %error, "the store does not take its end; trying again");
                let this = self.clone();
                tokio::spawn(async move {
                    this.finish(&run, end).await;
                    this.clear_away(id).await;
                });
            }
        }
    }

    async fn settle_unbegun(&self, run: Run, id: String, detail: String) {
        match self.unclaim(&run, &detail).await {
            Ok(_) => self.clear_away(id).await,
            Err(error) => {
                tracing::error!(run = run.id, %error, "the store does not take it back; trying again");
                let this = self.clone();
                tokio::spawn(async move {
                    this.insist(&run.id, || this.unclaim(&run, &detail)).await;
                    this.clear_away(id).await;
                });
            }
        }
    }

    /// Removes what attempts left behind whose end is recorded, ending what of them still lives: what
    /// could not be removed then.
    pub async fn clear_leftovers(&self) -> Result<(), StoreError> {
        // In this order: an attempt is recorded before it has files.
        let Ok(found) = self.inner.executor.list() else {
            return Ok(());
        };
        let open = self.inner.store.open_attempts().await?;
        let open: HashSet<String> = open.iter().map(|open| attempt_id(&open.run)).collect();
        for id in found.into_iter().filter(|id| !open.contains(id)) {
            self.clear_away(id).await;
        }
        Ok(())
    }

    /// Removes what is left of an attempt whose end is recorded, ending it first where it should
    /// still live.
    pub(super) async fn clear_away(&self, id: String) {
        match self.inner.executor.forget(&id).await {
            Ok(()) => {}
            Err(AdoptError::StillRunning(_)) => {
                tracing::warn!(
                    attempt = id,
                    "an attempt nobody knows of still runs: ending it"
                );
                tokio::spawn(self.clone().end_unknown(id));
            }
            Err(error) => tracing::warn!(attempt = id, %error, "files of an attempt stay behind"),
        }
    }

    /// Ends an attempt whose end is recorded, or that never had a record, and removes its files.
    async fn end_unknown(self, id: String) {
        match self.inner.executor.adopt(&id, u64::MAX).await {
            Ok(Adoption::Running(mut attempt)) => {
                if let Err(error) = attempt.cancel() {
                    tracing::error!(attempt = id, %error, "it cannot be ended");
                }
                while attempt.updates.recv().await.is_some() {}
            }
            Ok(Adoption::Vanished { .. }) => {}
            Err(error) => tracing::error!(attempt = id, %error, "it cannot be ended"),
        }
        if let Err(error) = self.inner.executor.forget(&id).await {
            tracing::warn!(attempt = id, %error, "files of an attempt stay behind");
        }
    }

    /// Claims and starts runs until a stop is asked for, then lets starts in flight end. Wakes
    /// when a run is queued or ends, and when a scheduled one is due; keeps the schedules meanwhile.
    pub async fn run(self) {
        let mut starts = JoinSet::new();
        tokio::join!(self.claim_and_start(&mut starts), self.keep_schedules());
        let all = async { while starts.join_next().await.is_some() {} };
        if tokio::time::timeout(STARTS, all).await.is_err() {
            tracing::warn!("some runs were being started when the backend stopped");
        }
    }

    async fn claim_and_start(&self, starts: &mut JoinSet<()>) {
        let mut newest = self.inner.store.feed().watch();
        let mut cursor = *newest.borrow();
        loop {
            let rules = Arc::clone(&self.inner.settings.rules);
            let due = match self.inner.store.claim_runs(Timestamp::now(), rules).await {
                Ok(claims) => {
                    if !claims.claimed.is_empty() {
                        CrashPoint::RunClaimed.reached();
                    }
                    for run in claims.claimed {
                        starts.spawn(self.clone().start(run));
                    }
                    claims.next_due
                }
                Err(error) => {
                    tracing::error!(%error, "no run can be claimed; trying again");
                    Some(Timestamp::now() + PAUSE)
                }
            };
            let sleep = until(due);
            tokio::pin!(sleep);
            loop {
                tokio::select! {
                    () = self.inner.stop.stopped() => return,
                    () = &mut sleep => break,
                    Some(_) = starts.join_next() => {}
                    changed = newest.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if self.concerns(&mut cursor, fills_or_frees).await {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Whether one of the events after `cursor`, which it moves on, is of a kind that counts.
    async fn concerns(&self, cursor: &mut i64, counts: impl Fn(&str) -> bool) -> bool {
        let mut concerns = false;
        loop {
            let Ok(events) = self.inner.store.events_after(*cursor, 256).await else {
                return true;
            };
            let Some(last) = events.last() else {
                return concerns;
            };
            *cursor = last.seq;
            concerns |= events.iter().any(|event| counts(&event.kind));
        }
    }

    /// Ends the processes of a run whose cancel is durable. Without any there is nothing to do:
    /// whoever starts them looks into the store first.
    pub fn end_processes(&self, run_id: &str) {
        let canceler = self.inner.living.lock().get(run_id).cloned();
        if let Some(canceler) = canceler {
            CrashPoint::TermDue.reached();
            if let Err(error) = canceler.cancel() {
                tracing::error!(run = run_id, %error, "a run cannot be ended");
            }
            CrashPoint::TermSent.reached();
        }
    }

    /// Cancels every active run and waits for their ends, for `limit` at most. What then still
    /// lives is taken over, and ended, by the next start.
    pub async fn cancel_all(&self, limit: Duration) {
        match self.inner.store.open_attempts().await {
            Ok(open) => {
                for open in open {
                    let id = open.run.id;
                    match self
                        .inner
                        .store
                        .cancel_run(Timestamp::now(), id.clone())
                        .await
                    {
                        Ok(CancelOutcome::Canceling(_)) => self.end_processes(&id),
                        Ok(
                            CancelOutcome::Unknown
                            | CancelOutcome::Ended(_)
                            | CancelOutcome::Canceled(_),
                        ) => {}
                        Err(error) => tracing::error!(run = id, %error, "a run is not canceled"),
                    }
                }
            }
            Err(error) => tracing::error!(%error, "the active runs cannot be read"),
        }
        if !self.drain(limit).await {
            tracing::warn!("some runs had not ended in time; the next start ends them");
        }
    }

    /// Waits until no run is active, for `limit` at most; whether that is so. Nothing is claimed
    /// any more when this is called.
    pub async fn drain(&self, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        let mut ended = self.inner.store.feed().watch();
        loop {
            match self.inner.store.active_runs().await {
                Ok(active) if active <= 0 => return true,
                Ok(_) => {
                    CrashPoint::Draining.reached();
                    match tokio::time::timeout_at(deadline, ended.changed()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) | Err(_) => return false,
                    }
                }
                // No answer is none.
                Err(error) => {
                    tracing::error!(%error, "the active runs cannot be counted; trying again");
                    let next = tokio::time::Instant::now() + PAUSE;
                    if next >= deadline {
                        return false;
                    }
                    tokio::time::sleep_until(next).await;
                }
            }
        }
    }

    /// How many attempts are followed at this moment.
    pub fn followed(&self) -> usize {
        self.inner.living.lock().len()
    }

    /// The isolation level that commands reach on this host.
    pub fn isolation(&self) -> Isolation {
        self.inner.executor.isolation()
    }

    /// Ids of runs with new output, as it is stored. Who lags looks into the store.
    pub fn watch_output(&self) -> broadcast::Receiver<Arc<str>> {
        self.inner.output.subscribe()
    }
}

/// Whether an event of this kind may have filled a queue or freed a slot.
fn fills_or_frees(kind: &str) -> bool {
    let state = kind.strip_prefix("run.").and_then(State::parse);
    kind == "queue.resumed" || state.is_some_and(|state| !state.is_active())
}

/// The executor's name for the newest attempt of a run.
fn attempt_id(run: &Run) -> String {
    format!("{}.{}", run.id, run.epoch)
}

async fn until(due: Option<Timestamp>) {
    match due {
        Some(due) => {
            let wait = due.duration_since(Timestamp::now());
            let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO);
            tokio::time::sleep(wait.min(CLOCK_WATCH)).await;
        }
        None => std::future::pending().await,
    }
}
