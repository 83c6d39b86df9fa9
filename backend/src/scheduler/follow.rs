//! One attempt, from its claim to its recorded end.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{PAUSE, Scheduler, attempt_id, outcome};
use crate::{
    confine::Network,
    crash_point::CrashPoint,
    executor::{
        Adoption, Attempt, Exit, HEARD_WITHIN, Identity, Launch, LaunchError, Outcome, Update,
    },
    plan::deadline::{self, Bound},
    run::{Ending, State},
    store::{
        StoreError,
        attempts::{Finished, Open, Verdict},
        runs::{Cause, Run},
    },
};

/// How often a machine that refuses to start a process is asked, and how long in between.
const LAUNCHES: u32 = 5;
const LAUNCH_PAUSE: Duration = Duration::from_millis(200);
/// How often the files of an attempt whose supervisor is gone are looked for, a [`PAUSE`] apart.
const UNREADABLE: u32 = 60;

/// The most [`PAUSE`]s between a start that is taken back and the next one.
const PAUSES: i64 = 8;

/// How many [`PAUSE`]s a run waits whose newest start is taken back: twice as many each time.
fn pauses(run: &Run) -> i64 {
    // The newest one counts as one that came to life until it is taken back.
    let before = (run.epoch - run.attempts).clamp(0, 16);
    (1 << before).min(PAUSES)
}

/// Why there is no attempt to follow.
enum Unstarted {
    /// It has ended before it began.
    Ended(Box<(Exit, Verdict)>),
    /// Nothing was executed, and nothing speaks against another start.
    TakenBack(String),
}

/// An attempt has written nothing for as long as it may.
struct Silent;

/// Whether it is the disk's fault, which does not last for ever and is no run's.
fn is_disk(error: &LaunchError) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error {
        LaunchError::Io { source, .. } => {
            let kind = source.kind();
            [StorageFull, QuotaExceeded, ReadOnlyFilesystem].contains(&kind)
        }
        LaunchError::Invalid(_) | LaunchError::Exists(_) => false,
    }
}

impl From<(Exit, Verdict)> for Unstarted {
    fn from(end: (Exit, Verdict)) -> Self {
        Self::Ended(Box::new(end))
    }
}

impl Scheduler {
    /// Starts the attempt a run was claimed for; from then on it is followed by a task of its own.
    pub(super) async fn start(self, run: Run) {
        match self.launch(&run).await {
            Ok(attempt) => {
                CrashPoint::SupervisorSpawned.reached();
                // Who cancels from now on finds it, and who did before is looked for: it may not have
                // begun yet.
                let canceler = attempt.canceler.clone();
                self.inner.living.lock().insert(run.id.clone(), canceler);
                if self.is_canceled(&run).await {
                    self.end_processes(&run.id);
                }
                tokio::spawn(self.follow(run, attempt));
            }
            Err(Unstarted::Ended(end)) => self.finish(&run, *end).await,
            Err(Unstarted::TakenBack(detail)) => self.take_back(&run, detail).await,
        }
    }

    /// Lets a run wait again whose newest attempt has executed nothing. Nothing is spent.
    async fn take_back(&self, run: &Run, detail: String) {
        tracing::warn!(
            run = run.id,
            detail,
            "a start is taken back; the run waits again"
        );
        self.inner.metrics.attempts_taken_back.inc();
        let store = &self.inner.store;
        // It keeps its slot meanwhile: another run would fail like it.
        for _ in 0..pauses(run) {
            tokio::select! {
                () = self.inner.stop.stopped() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
            let now = self.insist(&run.id, || store.run(run.id.clone())).await;
            let Some(now) = now.filter(|now| now.state == State::Running) else {
                break;
            };
            let waits =
                deadline::given_up(State::Queued, now.since, now.counted_from, &now.work.bounds);
            if waits.is_some_and(|(at, _)| at <= Timestamp::now()) {
                break;
            }
        }
        self.insist(&run.id, || self.unclaim(run, &detail)).await;
    }

    /// Asks the store once to let a run wait again.
    pub(super) async fn unclaim(&self, run: &Run, detail: &str) -> Result<Finished, StoreError> {
        let (id, detail) = (run.id.clone(), detail.to_owned());
        let store = &self.inner.store;
        store
            .unclaim_run(Timestamp::now(), id, run.epoch, detail)
            .await
    }

    /// Whether a cancel of it is on record. Where nobody knows, whoever follows it looks again.
    async fn is_canceled(&self, run: &Run) -> bool {
        let now = self.inner.store.run(run.id.clone()).await;
        matches!(now, Ok(Some(now)) if now.state == State::Canceling)
    }

    /// What may still be kept of a run's output.
    async fn output_left(&self, run: &Run) -> u64 {
        let limit = self.inner.settings.output_limit;
        if run.epoch <= 1 {
            return limit;
        }
        let store = &self.inner.store;
        let kept = self.insist(&run.id, || store.output_kept(run.id.clone()));
        limit.saturating_sub(kept.await)
    }

    async fn launch(&self, run: &Run) -> Result<Attempt, Unstarted> {
        let inner = &self.inner;
        // One that was canceled since it was claimed does not begin.
        if self.is_canceled(run).await {
            let exit = Exit::now(Outcome::Canceled);
            let verdict = outcome::judge(&exit);
            return Err((exit, verdict).into());
        }
        let reached = inner.executor.isolation();
        if run.cause == Cause::Review && reached < inner.settings.min_isolation {
            let detail = format!(
                "this host reaches the isolation level {}, and work from webhooks needs {}",
                reached.name(),
                inner.settings.min_isolation.name()
            );
            return Err(outcome::not_started("isolation_below_minimum", detail, true).into());
        }
        let workdir = inner
            .workspace
            .resolve(run.work.workdir.as_deref())
            .map_err(|refused| outcome::not_started("workdir", refused.to_string(), true))?;
        // The supervisor ends it at the nearer bound, also while no backend runs.
        let (timeout, _) = self.longest(run);
        let launch = Launch {
            id: attempt_id(run),
            argv: run.work.argv(),
            env: run.work.env.clone(),
            readable: Vec::new(),
            network: run.work.network.unwrap_or(Network::Host),
            writable: vec![inner.workspace.project(&workdir)],
            workdir,
            timeout: Some(timeout),
            grace: inner.settings.grace,
            output_cap: self.output_left(run).await,
        };
        let mut tries = 1;
        loop {
            match inner.executor.start(launch.clone()).await {
                Ok(attempt) => return Ok(attempt),
                Err(error @ LaunchError::Io { .. }) if is_disk(&error) => {
                    return Err(Unstarted::TakenBack(error.to_string()));
                }
                Err(LaunchError::Io { source, .. }) if tries < LAUNCHES => {
                    tracing::warn!(run = run.id, error = %source, "a start failed; trying again");
                    tokio::time::sleep(LAUNCH_PAUSE * tries).await;
                    tries += 1;
                }
                Err(error @ LaunchError::Io { .. }) => {
                    let detail = error.to_string();
                    return Err(outcome::not_started("launch_failed", detail, false).into());
                }
                Err(error @ LaunchError::Invalid(_)) => {
                    let detail = error.to_string();
                    return Err(outcome::not_started("launch_failed", detail, true).into());
                }
                // What an earlier try left behind, or the attempt itself.
                Err(LaunchError::Exists(_)) => return self.resume(&launch.id).await,
            }
        }
    }

    /// How long the newest attempt of a run may last, and which bound that is.
    fn longest(&self, run: &Run) -> (Duration, Bound) {
        let timeout = run
            .work
            .timeout_ms
            .map_or(self.inner.settings.timeout, Duration::from_millis);
        deadline::attempt(run.since, run.counted_from, timeout, &run.work.bounds)
    }

    /// Takes over an attempt that is there already, or sees to it that it never begins.
    async fn resume(&self, id: &str) -> Result<Attempt, Unstarted> {
        let executor = &self.inner.executor;
        let mut tries = 1;
        loop {
            match executor.adopt(id, 0).await {
                Ok(Adoption::Running(attempt)) => return Ok(attempt),
                Ok(Adoption::Vanished { detail, .. }) => {
                    if let Err(error) = executor.forget(id).await {
                        tracing::warn!(attempt = id, %error, "files of an attempt stay behind");
                    }
                    return Err(Unstarted::TakenBack(detail));
                }
                // Without an answer it may live: then another start would run its work twice.
                Err(error) => {
                    tracing::warn!(attempt = id, %error, "it cannot be read; trying again");
                    tokio::time::sleep(LAUNCH_PAUSE * tries).await;
                    tries = LAUNCHES.min(tries + 1);
                }
            }
        }
    }

    /// Takes over an attempt of an earlier boot that could not be read then, as soon as it can be.
    /// Until its tree is known to be gone it stays open: a retry beside it would run its work twice.
    pub(super) async fn take_over_later(self, open: Open) {
        let Open {
            run,
            supervisor,
            output_seq,
        } = open;
        let executor = &self.inner.executor;
        let store = &self.inner.store;
        let id = attempt_id(&run);
        let mut unreadable = 0;
        // Once it was given up, it is not so for the first time any more.
        let mut never_began = false;
        loop {
            tokio::time::sleep(PAUSE).await;
            let detail = match executor.adopt(&id, output_seq).await {
                Ok(Adoption::Running(attempt)) => return self.follow(run, attempt).await,
                Ok(Adoption::Vanished { detail, unbegun }) => {
                    never_began |= unbegun || supervisor.is_none();
                    detail
                }
                Err(error) => {
                    tracing::warn!(attempt = id, %error, "it cannot be read; trying again");
                    let now = self.insist(&run.id, || store.run(run.id.clone())).await;
                    let is_wanted = now.is_some_and(|now| now.state != State::Canceling);
                    let lives = supervisor.as_ref().is_none_or(Identity::is_alive);
                    unreadable += 1;
                    // Its end may still be read.
                    if is_wanted && (lives || unreadable < UNREADABLE) {
                        continue;
                    }
                    error.to_string()
                }
            };
            let is_gone = match &supervisor {
                Some(supervisor) => executor.end_traceless(supervisor).await,
                None => never_began,
            };
            if is_gone {
                if never_began {
                    self.take_back(&run, detail).await;
                } else {
                    self.finish(&run, outcome::lost(detail)).await;
                }
                return self.clear_away(id).await;
            }
        }
    }

    /// Takes in what an attempt reports until it has ended.
    pub(super) async fn follow(self, run: Run, mut attempt: Attempt) {
        let store = &self.inner.store;
        let id: Arc<str> = run.id.as_str().into();
        let identity = attempt.identity.clone();
        let isolation = attempt.isolation;
        self.insist(&run.id, || {
            store.attempt_started(
                Timestamp::now(),
                run.id.clone(),
                run.epoch,
                identity.clone(),
                isolation,
            )
        })
        .await;
        CrashPoint::AttemptStarted.reached();
        self.inner
            .living
            .lock()
            .insert(run.id.clone(), attempt.canceler.clone());
        // A cancel that came before we were listed has found nobody to tell.
        let now = self.insist(&run.id, || store.run(run.id.clone())).await;
        if now.is_some_and(|now| now.state == State::Canceling) {
            self.end_processes(&run.id);
        }
        let end = loop {
            let update = match self.heard(&run, &mut attempt).await {
                Ok(update) => update,
                Err(Silent) => {
                    // Asked for again each time: the first request may have failed.
                    self.end_silent(&run).await;
                    continue;
                }
            };
            match update {
                Some(Update::Output(records)) => {
                    self.insist(&run.id, || {
                        store.take_output(run.id.clone(), run.epoch, records.clone())
                    })
                    .await;
                    CrashPoint::OutputTaken.reached();
                    // Nobody listening is fine.
                    let _ = self.inner.output.send(Arc::clone(&id));
                }
                Some(Update::Ended(exit)) => {
                    let mut verdict = outcome::judge(&exit);
                    if verdict.ending == Ending::TimedOut {
                        verdict = Verdict::over(self.longest(&run).1);
                    }
                    break (exit, verdict);
                }
                Some(Update::Unbegun { detail }) => {
                    self.inner.living.lock().remove(&run.id);
                    self.clear_away(attempt.id).await;
                    return self.take_back(&run, detail).await;
                }
                None => break outcome::lost("its updates broke off".to_owned()),
            }
        };
        CrashPoint::ExitRead.reached();
        self.finish(&run, end).await;
        CrashPoint::AttemptSettled.reached();
        self.inner.living.lock().remove(&run.id);
        let _ = self.inner.output.send(id);
        if let Err(error) = self.inner.executor.forget(&attempt.id).await {
            tracing::warn!(attempt = attempt.id, %error, "files of an attempt stay behind");
        }
    }

    /// What an attempt reports next, within the time that it may be silent.
    async fn heard(&self, run: &Run, attempt: &mut Attempt) -> Result<Option<Update>, Silent> {
        let Some(ms) = run.work.bounds.silence_ms else {
            return Ok(attempt.updates.recv().await);
        };
        // What was written in time may be heard of later.
        let limit = Duration::from_millis(ms).saturating_add(HEARD_WITHIN);
        let mut wait = limit;
        loop {
            if let Ok(update) = tokio::time::timeout(wait, attempt.updates.recv()).await {
                return Ok(update);
            }
            // What is beyond the limit of its output is no update.
            let silent = attempt.heard.borrow().elapsed();
            wait = limit.saturating_sub(silent);
            if wait.is_zero() {
                return Err(Silent);
            }
        }
    }

    /// Ends an attempt that is silent for too long: first on record, so that whoever takes its end
    /// in knows why. One whose end was asked for already is left to that.
    async fn end_silent(&self, run: &Run) {
        let store = &self.inner.store;
        let recorded = self
            .insist(&run.id, || {
                store.attempt_overstepped(run.id.clone(), run.epoch, Bound::Silence)
            })
            .await;
        if recorded {
            tracing::info!(
                event = "attempt_silent",
                run = run.id,
                epoch = run.epoch,
                "it is ended"
            );
            self.end_processes(&run.id);
        }
    }

    /// Records the end of a run's newest attempt.
    pub(super) async fn finish(&self, run: &Run, end: (Exit, Verdict)) {
        let finished = self.insist(&run.id, || self.record_end(run, &end)).await;
        self.tell_end(run, &end, finished);
    }

    /// Asks the store once to record the end of a run's newest attempt.
    pub(super) async fn record_end(
        &self,
        run: &Run,
        (exit, verdict): &(Exit, Verdict),
    ) -> Result<Finished, StoreError> {
        let (exit, verdict) = (exit.clone(), verdict.clone());
        let store = &self.inner.store;
        store
            .finish_attempt(Timestamp::now(), run.id.clone(), run.epoch, exit, verdict)
            .await
    }

    /// Counts and logs an end that is recorded.
    pub(super) fn tell_end(
        &self,
        run: &Run,
        (exit, verdict): &(Exit, Verdict),
        finished: Finished,
    ) {
        if let Finished::Run(state) = finished {
            self.inner.metrics.attempt_ended(&exit.outcome);
            if state == State::Scheduled {
                CrashPoint::RetryPlanned.reached();
            }
        }
        match finished {
            Finished::Run(state) => tracing::info!(
                event = "attempt_ended",
                run = run.id,
                epoch = run.epoch,
                state = state.as_str(),
                reason = verdict.why.reason.as_deref().unwrap_or("-"),
                "an attempt ended"
            ),
            Finished::Stale => tracing::warn!(
                event = "attempt_stale",
                run = run.id,
                epoch = run.epoch,
                "the end of an attempt that is not the newest was refused"
            ),
        }
    }

    /// Asks the store again until it answers: what happened must be recorded, however long its
    /// disk is full. The process at the other end waits meanwhile, or has ended.
    pub(super) async fn insist<T, F>(&self, run: &str, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match ask().await {
                Ok(value) => return value,
                Err(error) => {
                    tracing::error!(run, %error, "the store does not take it; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}
