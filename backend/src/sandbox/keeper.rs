//! One task per sandbox that is not deleted: reads what is wanted from the store, looks at what is
//! there, and does what brings the two together. It holds nothing that matters; killed at any
//! point, the next start goes on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    Sandboxes,
    driver::{Fault, Seen},
    health, ports,
    spec::Plan,
};
use crate::{
    sandbox_state::{Reason, State, Step},
    store::sandboxes::{Goal, Sandbox, SandboxError, ServiceState},
};

/// How often services are asked how they are.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// The same while a sandbox is being created, when everybody waits for the answer.
const EAGER_PERIOD: Duration = Duration::from_millis(50);
/// Failed probes in a row that make a service unhealthy.
const PATIENCE: u32 = 3;
/// How long to wait before something that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);
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

pub(super) struct Keeper {
    sandboxes: Sandboxes,
    plan: Plan,
    poke: Arc<Notify>,
    failures: BTreeMap<String, u32>,
    patience_ends: Instant,
}

impl Keeper {
    pub(super) fn new(sandboxes: Sandboxes, sandbox: &Sandbox, poke: Arc<Notify>) -> Self {
        let plan = sandboxes.plan(sandbox);
        let patience_ends = Instant::now() + sandboxes.inner.settings.start_timeout;
        Self {
            sandboxes,
            plan,
            poke,
            failures: BTreeMap::new(),
            patience_ends,
        }
    }

    /// Looks after the sandbox until it is deleted or another boot took it over.
    pub(super) async fn run(mut self, entry: Entry) {
        let driver = Arc::clone(&self.sandboxes.inner.driver);
        let begun = match entry {
            Entry::Start => driver.start(&self.plan).await,
            Entry::Adopt => driver.adopt(&self.plan).await,
            Entry::Settle => Ok(()),
        };
        if let Err(fault) = begun {
            self.fail(fault).await;
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
                    | SandboxError::PortTaken(_)),
                ) => {
                    tracing::warn!(sandbox = self.plan.id, %error, "a sandbox's state was not recorded");
                    sleep(PAUSE).await;
                }
            }
        }
        self.sandboxes.inner.keepers.lock().remove(&self.plan.id);
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
        let seen = self.sandboxes.inner.driver.look(&self.plan).await;
        let ended = |seen: &Seen| match seen {
            Seen::Alive => None,
            Seen::Ended(fault) => Some(fault.clone()),
        };
        if let Some(fault) = seen.iter().find_map(ended) {
            self.fail(fault).await;
            return Ok(());
        }
        let health = self.probe(&sandbox).await;
        let all = |state| health.values().all(|seen| *seen == state);
        if sandbox.state == State::Creating
            && !all(ServiceState::Healthy)
            && Instant::now() >= self.patience_ends
        {
            let late = health
                .iter()
                .find(|(_, state)| **state != ServiceState::Healthy);
            let name = late.map_or("", |(name, _)| name);
            self.fail(Fault {
                reason: Reason::NotHealthyInTime,
                detail: format!(
                    "service `{name}` did not become well within {} s; its logs may tell why",
                    self.sandboxes.inner.settings.start_timeout.as_secs()
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
            EAGER_PERIOD
        } else {
            PROBE_PERIOD
        };
        tokio::select! {
            () = self.poke.notified() => {}
            () = self.sandboxes.inner.driver.changed(&self.plan.id) => {}
            () = sleep(period) => {}
        }
        Ok(())
    }

    /// Asks every service how it is. A single failure of one that was well changes nothing yet.
    async fn probe(&mut self, sandbox: &Sandbox) -> BTreeMap<String, ServiceState> {
        let answers = join_all(self.plan.services.iter().map(health::is_well)).await;
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
    async fn end(&self) -> Result<(), SandboxError> {
        while let Err(error) = self.sandboxes.inner.driver.end(&self.plan).await {
            tracing::warn!(sandbox = self.plan.id, %error, "a sandbox does not end yet");
            sleep(PAUSE).await;
        }
        self.see_ports_free().await;
        let store = &self.sandboxes.inner.store;
        store
            .sandbox_gone(Timestamp::now(), self.plan.id.clone())
            .await
            .map(drop)
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
        while let Err(error) = self.sandboxes.inner.driver.remove(&self.plan).await {
            tracing::warn!(sandbox = self.plan.id, %error, "a sandbox's files cannot be removed yet");
            sleep(PAUSE).await;
        }
        let store = &self.sandboxes.inner.store;
        store
            .sandbox_removed(Timestamp::now(), self.plan.id.clone())
            .await
            .map(drop)
    }
}
