//! One task per sandbox that is not deleted: reads what is wanted from the store, looks at what is
//! there, and does what brings the two together. It holds nothing that matters; killed at any
//! point, the next start goes on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    sync::{AcquireError, Notify, OwnedSemaphorePermit},
    time::{Instant, sleep, timeout},
};

use super::{
    Sandboxes,
    driver::{Fault, SandboxDriver, Seen},
    health, ports,
    spec::Plan,
};
use crate::{
    crash_point::CrashPoint,
    sandbox_state::{Reason, State, Step},
    store::sandboxes::{Goal, Sandbox, SandboxError, ServiceState},
};

/// How often services are asked how they are.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// The same while a sandbox is being created, when everybody waits for the answer: first soon, then at twice
/// the pause each time, up to [`EAGER_PERIOD`].
const FIRST_PERIOD: Duration = Duration::from_millis(5);
/// See [`FIRST_PERIOD`].
const EAGER_PERIOD: Duration = Duration::from_millis(50);
/// Failed probes in a row that make a service unhealthy.
const PATIENCE: u32 = 3;
/// How long to wait before something that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// The same for what fails again and again; the pauses double up to it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What a start is given at least, however little of its time is left: the engine has to have its say.
const LEAST: Duration = Duration::from_secs(10);
/// How often ports that somebody took meanwhile are exchanged for others.
const MOVES: usize = 3;
/// How long released ports may take to become free.
const PORTS_FREE: Duration = Duration::from_secs(5);

/// What the task begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing of it exists yet.
    Start,
    /// An earlier process started it.
    Adopt,
    /// It is to be ended, or has ended.
    Settle,
}

type Turn = BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>;

pub(super) struct Keeper {
    sandboxes: Sandboxes,
    driver: Arc<dyn SandboxDriver>,
    plan: Plan,
    /// One of the places of those that are up.
    place: Option<OwnedSemaphorePermit>,
    /// Its turn for one.
    turn: Mutex<Option<Turn>>,
    poke: Arc<Notify>,
    failures: BTreeMap<String, u32>,
    patience_ends: Instant,
    /// When it is looked at next while it is being created.
    eager: Duration,
}

impl Keeper {
    pub(super) fn new(
        sandboxes: Sandboxes,
        driver: Arc<dyn SandboxDriver>,
        sandbox: &Sandbox,
        poke: Arc<Notify>,
        entry: Entry,
    ) -> Self {
        let places = Arc::clone(&sandboxes.inner.places);
        let (place, turn) = match entry {
            Entry::Start => {
                let mut turn: Turn = Box::pin(places.acquire_owned());
                // Asked once, here, it stands in line where it was made.
                match (&mut turn).now_or_never() {
                    Some(place) => (place.ok(), None),
                    None => (None, Some(turn)),
                }
            }
            Entry::Adopt => (places.try_acquire_owned().ok(), None),
            Entry::Settle => (None, None),
        };
        let plan = sandboxes.plan(sandbox);
        let patience_ends = Instant::now() + sandboxes.inner.settings.start_timeout;
        Self {
            sandboxes,
            driver,
            plan,
            place,
            turn: Mutex::new(turn),
            poke,
            failures: BTreeMap::new(),
            patience_ends,
            eager: FIRST_PERIOD,
        }
    }

    /// Looks after the sandbox until it is deleted or another boot took it over.
    pub(super) async fn run(mut self, entry: Entry) {
        let begun = match entry {
            Entry::Start => self.begin().await,
            Entry::Adopt => self.driver.adopt(&self.plan).await,
            Entry::Settle => Ok(()),
        };
        if let Err(fault) = begun {
            self.fail(fault).await;
        }
        if entry == Entry::Start {
            CrashPoint::SandboxStarted.reached();
        }
        loop {
            let Some(sandbox) = self.load().await else {
                break;
            };
            let done = match sandbox.state {
                State::Creating | State::Running | State::Unhealthy => self.watch(sandbox).await,
                State::Stopping => self.end().await,
                State::Failed if sandbox.ended_at.is_none() => self.end().await,
                State::Stopped | State::Failed if sandbox.goal == Goal::Deleted => {
                    self.remove().await
                }
                State::Stopped | State::Failed => {
                    self.poke.notified().await;
                    // Also when somebody started something of it by hand.
                    self.see_gone().await;
                    Ok(())
                }
                State::Deleted => break,
            };
            match done {
                Ok(()) => {}
                Err(SandboxError::Superseded(_) | SandboxError::Unknown) => break,
                // It moved on meanwhile: the next round sees where to.
                Err(SandboxError::Illegal { .. }) => {}
                Err(
                    error @ (SandboxError::Store(_)
                    | SandboxError::TooMany(_)
                    | SandboxError::TooManyOfBuild(_)
                    | SandboxError::PortTaken(_)
                    | SandboxError::KeyReused(_)),
                ) => {
                    tracing::warn!(sandbox = self.plan.id, %error, "a sandbox's state was not recorded");
                    sleep(PAUSE).await;
                }
            }
        }
        self.sandboxes.inner.keepers.lock().remove(&self.plan.id);
        self.sandboxes.inner.used.lock().remove(&self.plan.id);
    }

    /// Waits for a place and starts it; what may pass is tried again for as long as a start may take.
    async fn begin(&mut self) -> Result<(), Fault> {
        // What was known of it when this was set going may be long ago.
        let sandbox = self.load().await;
        if sandbox.is_none_or(|sandbox| sandbox.state != State::Creating) {
            return Ok(());
        }
        let turn = self.turn.get_mut().take();
        if let Some(turn) = turn {
            tokio::select! {
                place = turn => self.place = place.ok(),
                () = self.unwanted() => return Ok(()),
            }
        }
        let patience = self.sandboxes.inner.settings.start_timeout;
        let mut limit = None;
        let mut moves = 0;
        loop {
            let prepared = tokio::select! {
                prepared = self.driver.prepare(&self.plan) => prepared,
                () = self.unwanted() => return Ok(()),
            };
            // What is fetched and built first has its own limits.
            let limit = *limit.get_or_insert_with(|| Instant::now() + patience);
            let started = match prepared {
                Ok(()) => {
                    let left = limit.saturating_duration_since(Instant::now());
                    match self.start(left.max(LEAST)).await {
                        Some(started) => started,
                        None => return Ok(()),
                    }
                }
                Err(fault) => Err(fault),
            };
            let Err(fault) = started else {
                self.patience_ends = Instant::now() + patience;
                return Ok(());
            };
            let moved = fault.reason == Reason::PortConflict;
            if !fault.reason.may_pass() || Instant::now() >= limit || (moved && moves == MOVES) {
                return Err(fault);
            }
            tracing::warn!(
                event = "sandbox_start_repeated",
                sandbox = self.plan.id,
                reason = fault.reason.as_str(),
                detail = fault.detail,
                "a sandbox could not be started yet"
            );
            if moved {
                moves += 1;
                self.move_ports(&fault).await?;
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = self.unwanted() => return Ok(()),
            }
        }
    }

    /// `None` when it is not wanted any more and was given up. It is told so, and never dropped: what it set
    /// going would be out of sight.
    async fn start(&self, limit: Duration) -> Option<Result<(), Fault>> {
        let started = self.driver.start(&self.plan, limit);
        tokio::pin!(started);
        tokio::select! {
            started = &mut started => return Some(started),
            () = self.unwanted() => {}
        }
        loop {
            self.driver.give_up(&self.plan.id);
            if timeout(PAUSE, &mut started).await.is_ok() {
                return None;
            }
        }
    }

    /// Returns when the sandbox shall not be started any more.
    async fn unwanted(&self) {
        loop {
            self.poke.notified().await;
            let sandbox = self.load().await;
            if sandbox.is_none_or(|sandbox| sandbox.state != State::Creating) {
                // For whoever waits for it next.
                self.poke.notify_one();
                return;
            }
        }
    }

    /// Exchanges the ports that somebody else holds by now.
    async fn move_ports(&mut self, fault: &Fault) -> Result<(), Fault> {
        // What of it was started holds ports itself.
        self.see_gone().await;
        for service in &mut self.plan.services {
            let Some(port) = service.port else { continue };
            let named = fault.detail.contains(&format!(":{port}"));
            if !named && ports::is_free(port) {
                continue;
            }
            if service.pinned {
                return Err(fault.clone());
            }
            let moved = self
                .sandboxes
                .move_port(&self.plan.id, &service.name, port)
                .await;
            match moved {
                Ok(to) => service.port = Some(to),
                Err(detail) => {
                    return Err(Fault {
                        reason: Reason::PortConflict,
                        detail,
                    });
                }
            }
        }
        Ok(())
    }

    async fn load(&self) -> Option<Sandbox> {
        loop {
            match self
                .sandboxes
                .inner
                .store
                .sandbox(self.plan.id.clone())
                .await
            {
                Ok(sandbox) => return sandbox,
                Err(error) => {
                    tracing::warn!(sandbox = self.plan.id, %error, "a sandbox cannot be read");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn fail(&self, fault: Fault) {
        tracing::warn!(
            event = "sandbox_failed",
            sandbox = self.plan.id,
            reason = fault.reason.as_str(),
            detail = fault.detail,
            "a sandbox failed"
        );
        loop {
            let health = self
                .load()
                .await
                .map(|sandbox| sandbox.health)
                .unwrap_or_default();
            let why = Some((fault.reason, fault.detail.clone()));
            match self.observe(health, Step::Fail, why).await {
                Err(SandboxError::Store(_)) => sleep(PAUSE).await,
                // Anything else says that it is being ended already.
                Ok(()) | Err(_) => return,
            }
        }
    }

    async fn observe(
        &self,
        health: BTreeMap<String, ServiceState>,
        step: Step,
        why: Option<(Reason, String)>,
    ) -> Result<(), SandboxError> {
        let (store, id) = (&self.sandboxes.inner.store, self.plan.id.clone());
        store
            .observe_sandbox(Timestamp::now(), id, health, step, why)
            .await
            .map(drop)
    }

    /// One look at a sandbox that is meant to live.
    async fn watch(&mut self, sandbox: Sandbox) -> Result<(), SandboxError> {
        let seen = self.driver.look(&self.plan).await;
        let ended = |seen: &Seen| match seen {
            Seen::Alive | Seen::Unwell(_) => None,
            Seen::Unbegun(_) if sandbox.state == State::Creating => None,
            // What it was is not there any more.
            Seen::Unbegun(text) => Some(Fault {
                reason: Reason::ServiceVanished,
                detail: text.clone(),
            }),
            Seen::Ended(fault) => Some(fault.clone()),
        };
        if let Some(fault) = seen.iter().find_map(ended) {
            self.fail(fault).await;
            return Ok(());
        }
        let health = self.probe(&sandbox, &seen).await;
        let all = |state| health.values().all(|seen| *seen == state);
        if sandbox.state == State::Creating
            && !all(ServiceState::Healthy)
            && Instant::now() >= self.patience_ends
        {
            let late = health
                .iter()
                .find(|(_, state)| **state != ServiceState::Healthy);
            let name = late.map_or("", |(name, _)| name);
            let why = seen.iter().find_map(|seen| match seen {
                Seen::Unwell(text) | Seen::Unbegun(text) => Some(format!(" ({text})")),
                Seen::Alive | Seen::Ended(_) => None,
            });
            self.fail(Fault {
                reason: Reason::NotHealthyInTime,
                detail: format!(
                    "service `{name}` did not become well within {} s{}; its logs may tell why",
                    self.sandboxes.inner.settings.start_timeout.as_secs(),
                    why.unwrap_or_default(),
                ),
            })
            .await;
            return Ok(());
        }
        let (step, to) = if all(ServiceState::Healthy) {
            (Step::Well, State::Running)
        } else if sandbox.state == State::Creating {
            (Step::Unwell, State::Creating)
        } else {
            (Step::Unwell, State::Unhealthy)
        };
        if health != sandbox.health || to != sandbox.state {
            self.observe(health, step, None).await?;
        }
        let period = if to == State::Creating {
            let period = self.eager;
            self.eager = EAGER_PERIOD.min(period * 2);
            period
        } else {
            PROBE_PERIOD
        };
        tokio::select! {
            () = self.poke.notified() => {}
            () = self.driver.changed(&self.plan.id) => {}
            () = sleep(period) => {}
        }
        Ok(())
    }

    /// Asks every service how it is. A single failure of one that was well changes nothing yet.
    async fn probe(&mut self, sandbox: &Sandbox, seen: &[Seen]) -> BTreeMap<String, ServiceState> {
        let (relayed, probes) = (self.driver.relays_ports(), &self.sandboxes.inner.probes);
        let asked = self.plan.services.iter().zip(seen);
        let asked = asked.map(|(service, seen)| async move {
            *seen == Seen::Alive && health::is_well(service, relayed, probes).await
        });
        let answers = join_all(asked).await;
        let services = self.plan.services.iter().zip(answers);
        let judged = services.map(|(service, well)| {
            let failures = self.failures.entry(service.name.clone()).or_default();
            *failures = if well { 0 } else { failures.saturating_add(1) };
            let before = sandbox
                .health
                .get(&service.name)
                .copied()
                .unwrap_or(ServiceState::Starting);
            let state = match before {
                _ if well => ServiceState::Healthy,
                ServiceState::Healthy if *failures < PATIENCE => ServiceState::Healthy,
                ServiceState::Healthy | ServiceState::Unhealthy | ServiceState::Ended => {
                    ServiceState::Unhealthy
                }
                ServiceState::Starting => ServiceState::Starting,
            };
            (service.name.clone(), state)
        });
        judged.collect()
    }

    /// Ends all processes, sees them gone, sees the ports free, and only then says so.
    async fn end(&mut self) -> Result<(), SandboxError> {
        self.see_gone().await;
        self.place = None;
        self.see_ports_free().await;
        CrashPoint::SandboxEnded.reached();
        let store = &self.sandboxes.inner.store;
        store
            .sandbox_gone(Timestamp::now(), self.plan.id.clone())
            .await
            .map(drop)
    }

    async fn see_gone(&self) {
        let mut pause = PAUSE;
        while let Err(error) = self.driver.end(&self.plan).await {
            tracing::warn!(sandbox = self.plan.id, %error, "a sandbox does not end yet");
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Nothing of ours is left to hold them; one that stays in use was taken by a stranger at once.
    async fn see_ports_free(&self) {
        let ports: Vec<u16> = self
            .plan
            .services
            .iter()
            .filter_map(|service| service.port)
            .collect();
        let all_free = async {
            while !ports.iter().all(|port| ports::is_free(*port)) {
                sleep(EAGER_PERIOD).await;
            }
        };
        if timeout(PORTS_FREE, all_free).await.is_err() {
            tracing::warn!(
                sandbox = self.plan.id,
                ?ports,
                "a port of an ended sandbox is in use by a process that is not Orket's"
            );
        }
    }

    async fn remove(&self) -> Result<(), SandboxError> {
        let mut pause = PAUSE;
        while let Err(error) = self.driver.remove(&self.plan).await {
            tracing::warn!(sandbox = self.plan.id, %error, "a sandbox cannot be removed yet");
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        CrashPoint::SandboxCleared.reached();
        let store = &self.sandboxes.inner.store;
        store
            .sandbox_removed(Timestamp::now(), self.plan.id.clone())
            .await
            .map(drop)
    }
}
