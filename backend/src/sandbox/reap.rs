//! The end of sandboxes that nobody asked for: their time is up, or nobody uses them.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::{Sandboxes, activity};
use crate::{
    sandbox_state::{Reason, State},
    store::sandboxes::{Goal, Sandbox, SandboxError},
};

/// How often it is looked for them.
const PERIOD: Duration = Duration::from_millis(500);

impl Sandboxes {
    /// Removes sandboxes whose time is up, and those that nobody uses where that is configured, for
    /// as long as it is polled.
    pub async fn reap(&self) {
        loop {
            match self.inner.store.expired_sandboxes(Timestamp::now()).await {
                Ok(ids) => self.remove_all(&ids, Reason::TtlExpired).await,
                Err(error) => tracing::warn!(%error, "expired sandboxes cannot be read"),
            }
            if let Some(limit) = self.inner.settings.idle_timeout {
                match self.idle(limit).await {
                    Ok(ids) => self.remove_all(&ids, Reason::Idle).await,
                    Err(error) => tracing::warn!(%error, "it cannot be seen who uses sandboxes"),
                }
            }
            sleep(PERIOD).await;
        }
    }

    async fn remove_all(&self, ids: &[String], why: Reason) {
        for id in ids {
            if let Err(error) = self.ask_end(id, Goal::Deleted, why).await {
                tracing::warn!(sandbox = id, %error, "a sandbox stays for now");
            }
        }
    }

    /// Notes that somebody uses it, if it is one that is looked after: anybody can name any id.
    pub(super) fn touch(&self, id: &str) {
        let keepers = self.inner.keepers.lock();
        if keepers.contains_key(id) {
            self.inner.used.lock().insert(id.to_owned(), Instant::now());
        }
    }

    /// Those that have been up and unused for that long, as far as this boot has seen.
    async fn idle(&self, limit: Duration) -> Result<Vec<String>, SandboxError> {
        let mut sandboxes = self.inner.store.active_sandboxes().await?;
        sandboxes.retain(|sandbox| matches!(sandbox.state, State::Running | State::Unhealthy));
        let busy = activity::used_ports(&self.inner.probes)
            .map_err(|error| crate::store::StoreError::Fault(error.to_string()))?;
        let mut used = self.inner.used.lock();
        let up: BTreeSet<&str> = sandboxes
            .iter()
            .map(|sandbox| sandbox.id.as_str())
            .collect();
        used.retain(|id, _| up.contains(id.as_str()));
        let is_busy = |sandbox: &Sandbox| {
            let mut ports = sandbox.services.iter().filter_map(|service| service.port);
            ports.any(|port| busy.contains(&port))
        };
        let mut idle = Vec::new();
        for sandbox in &sandboxes {
            let last = used.entry(sandbox.id.clone()).or_insert_with(Instant::now);
            if is_busy(sandbox) {
                *last = Instant::now();
            } else if last.elapsed() >= limit {
                idle.push(sandbox.id.clone());
            }
        }
        Ok(idle)
    }
}
