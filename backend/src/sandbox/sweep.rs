//! Compares records with what the drivers really hold, on a period and whenever something may have
//! been missed, and does what [`super::reconcile`] says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{join_all, select_all};
use tokio::time::sleep;

use super::{
    Sandboxes,
    driver::{Description, Held, SandboxDriver},
    reconcile::{Action, Holding, Record, decide},
};
use crate::{
    sandbox_state::State,
    settings,
    store::{
        StoreError,
        sandboxes::{Goal, Sandbox},
    },
};

/// Between two comparisons, however much happens.
const REST: Duration = Duration::from_millis(200);

/// What the comparisons of this boot came to.
#[derive(Debug, Clone, Default)]
pub struct Swept {
    /// What serves sandboxes.
    pub description: Description,
    /// Leaks that were removed.
    pub reclaimed: u64,
    /// Sandboxes that the engine knows of and the store does not: left alone.
    pub quarantined: BTreeSet<String>,
}

impl Sandboxes {
    /// What the comparisons so far came to.
    pub fn swept(&self) -> Swept {
        self.inner.swept.lock().clone()
    }

    /// Follows what happens outside, and compares, for as long as it is polled.
    pub async fn reconcile(&self) {
        let attended = self.inner.drivers.all().map(|driver| async {
            if self.serves(driver) {
                driver.attend().await;
            }
        });
        tokio::select! {
            () = self.compare_again_and_again() => {}
            _ = join_all(attended) => self.compare_again_and_again().await,
        }
    }

    fn serves(&self, driver: &Arc<dyn SandboxDriver>) -> bool {
        use super::{docker::DockerDriver, process::ProcessDriver};
        match self.inner.settings.driver {
            settings::SandboxDriver::Auto => true,
            settings::SandboxDriver::Docker => driver.name() == DockerDriver::NAME,
            settings::SandboxDriver::Process => driver.name() == ProcessDriver::NAME,
        }
    }

    async fn compare_again_and_again(&self) {
        loop {
            for driver in self.inner.drivers.all() {
                if let Err(error) = self.compare(driver).await {
                    tracing::warn!(%error, "sandboxes cannot be compared with what is there");
                }
            }
            let description = self.inner.drivers.describe().await;
            self.inner.swept.lock().description = description;
            let disturbed = self.inner.drivers.all().map(|driver| driver.disturbed());
            tokio::select! {
                () = sleep(self.inner.settings.reconcile) => {}
                _ = select_all(disturbed) => sleep(REST).await,
            }
        }
    }

    async fn compare(&self, driver: &Arc<dyn SandboxDriver>) -> Result<(), StoreError> {
        // The records first: what is made meanwhile is looked up below.
        let mut records = self.inner.store.active_sandboxes().await?;
        records.retain(|sandbox| sandbox.driver == driver.name());
        if records.is_empty() && !self.serves(driver) {
            return Ok(());
        }
        for sandbox in &records {
            self.keep_again(&sandbox.id).await?;
        }
        let held = match driver.holdings().await {
            Ok(held) => Some(by_sandbox(held)),
            Err(error) => {
                tracing::debug!(%error, "what the engine holds cannot be seen");
                None
            }
        };
        for sandbox in &records {
            let holding = holding(held.as_ref(), &sandbox.id, sandbox.services.len());
            match decide(record(sandbox), holding) {
                Action::Keep | Action::Wait | Action::Reclaim | Action::Quarantine => {}
                Action::GoOn => self.poke(&sandbox.id),
                action @ (Action::Fail | Action::EndAgain) => {
                    tracing::warn!(
                        event = "sandbox_reconciled",
                        sandbox = sandbox.id,
                        state = sandbox.state.as_str(),
                        holding = ?holding,
                        action = ?action,
                        "a sandbox is not what its record says"
                    );
                    self.poke(&sandbox.id);
                }
            }
        }
        let known: BTreeSet<&str> = records.iter().map(|sandbox| sandbox.id.as_str()).collect();
        let mut quarantined = BTreeSet::new();
        for (id, held) in held.iter().flatten() {
            if known.contains(id.as_str()) {
                continue;
            }
            let record = match self.inner.store.sandbox(id.clone()).await? {
                None => Record::None,
                Some(sandbox) if sandbox.state == State::Deleted => Record::Deleted,
                // Made meanwhile: the next comparison is about it.
                Some(_) => continue,
            };
            match decide(record, judge(held, 1)) {
                Action::Reclaim => self.reclaim(driver, id).await,
                Action::Quarantine => drop(quarantined.insert(id.clone())),
                Action::Keep | Action::Wait | Action::GoOn | Action::Fail | Action::EndAgain => {}
            }
        }
        if held.is_some()
            && self.serves(driver)
            && !quarantined.is_subset(&self.swept().quarantined)
        {
            tracing::warn!(
                event = "sandbox_quarantined",
                sandboxes = ?quarantined,
                "containers, networks or volumes carry this store's mark and no record is about them; they are left alone"
            );
        }
        if held.is_some() && driver.name() == super::docker::DockerDriver::NAME {
            self.inner.swept.lock().quarantined = quarantined;
        }
        Ok(())
    }

    async fn reclaim(&self, driver: &Arc<dyn SandboxDriver>, id: &str) {
        // It may have gone while its record was read.
        let Ok(held) = driver.holdings().await else {
            return;
        };
        let Some(held) = held.into_iter().find(|held| held.sandbox == *id) else {
            return;
        };
        match driver.reclaim(id).await {
            Ok(()) => {
                self.inner.swept.lock().reclaimed += 1;
                tracing::warn!(
                    event = "sandbox_leak_reclaimed",
                    sandbox = id,
                    containers = held.containers,
                    others = held.others,
                    "something of a deleted sandbox was there and is removed"
                );
            }
            Err(error) => {
                tracing::warn!(sandbox = id, %error, "what is left of a deleted sandbox cannot be removed yet");
            }
        }
    }

    /// Lets its keeper look at once.
    pub(super) fn poke(&self, id: &str) {
        if let Some(kept) = self.inner.keepers.lock().get(id) {
            kept.poke.notify_one();
        }
    }
}

fn by_sandbox(held: Vec<Held>) -> BTreeMap<String, Held> {
    held.into_iter()
        .map(|held| (held.sandbox.clone(), held))
        .collect()
}

fn holding(held: Option<&BTreeMap<String, Held>>, id: &str, services: usize) -> Holding {
    match held {
        None => Holding::Unknown,
        Some(held) => held
            .get(id)
            .map_or(Holding::Nothing, |held| judge(held, services)),
    }
}

fn judge(held: &Held, services: usize) -> Holding {
    match (held.containers, held.running, held.others) {
        (0, _, 0) => Holding::Nothing,
        (0, _, _) => Holding::Remains,
        (_, 0, _) => Holding::Down,
        (_, running, _) if running >= services => Holding::Up,
        _ => Holding::Partly,
    }
}

fn record(sandbox: &Sandbox) -> Record {
    match sandbox.state {
        State::Creating => Record::Creating,
        State::Running | State::Unhealthy => Record::Living,
        State::Stopping => Record::Ending,
        State::Failed if sandbox.ended_at.is_none() => Record::Ending,
        State::Stopped | State::Failed if sandbox.goal == Goal::Deleted => Record::Removing,
        State::Stopped | State::Failed => Record::Ended,
        State::Deleted => Record::Deleted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_judged_by_the_services_there_should_be() {
        let judged = |containers, running, others, services| {
            let held = Held {
                sandbox: String::new(),
                containers,
                running,
                others,
            };
            judge(&held, services)
        };
        assert_eq!(judged(0, 0, 0, 2), Holding::Nothing);
        assert_eq!(judged(0, 0, 1, 2), Holding::Remains);
        assert_eq!(judged(2, 0, 1, 2), Holding::Down);
        assert_eq!(
            judged(1, 0, 1, 2),
            Holding::Down,
            "a start that came half-way"
        );
        assert_eq!(judged(1, 1, 1, 2), Holding::Partly);
        assert_eq!(judged(2, 1, 1, 2), Holding::Partly);
        assert_eq!(judged(2, 2, 1, 2), Holding::Up);
    }
}
