//! What a start does about the sandboxes of the boots before: each is looked after again or brought
//! to its end.

use jiff::Timestamp;

use super::{Sandboxes, keeper::Entry, kept::is_kept};
use crate::{
    sandbox_state::{Reason, State, Step},
    store::{
        StoreError,
        sandboxes::{Sandbox, SandboxError},
    },
};

/// What a start found of the boots before.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Sandboxes that live and are looked after again.
    pub adopted: usize,
    /// Sandboxes that had not come to life: they end.
    pub interrupted: usize,
    /// Sandboxes of which nothing had been made yet: they are started.
    pub waiting: usize,
    /// Sandboxes that are being ended, or have ended.
    pub ending: usize,
    /// Directories without a record: left alone.
    pub unclear: usize,
}

impl Sandboxes {
    /// Takes every sandbox of the boots before under this one. Called once, before anything is
    /// created.
    pub async fn settle(&self) -> Result<Settled, StoreError> {
        let mut settled = Settled::default();
        let sandboxes = self.inner.store.take_over_sandboxes().await?;
        // Before any of them is looked after: where the store refuses, all of this is done again.
        for sandbox in &sandboxes {
            if sandbox.state == State::Creating && !self.is_fresh(sandbox) {
                let why = "The backend was restarted before all of it was started.";
                self.interrupt(sandbox, why).await?;
            }
        }
        let mut fresh = Vec::new();
        for sandbox in &sandboxes {
            match sandbox.state {
                State::Running | State::Unhealthy => {
                    settled.adopted += 1;
                    self.keep(sandbox, Entry::Adopt);
                }
                State::Creating if self.is_fresh(sandbox) => {
                    settled.waiting += 1;
                    fresh.push(sandbox);
                }
                State::Creating => {
                    settled.interrupted += 1;
                    self.keep(sandbox, Entry::Settle);
                }
                State::Stopping | State::Stopped | State::Failed | State::Deleted => {
                    settled.ending += 1;
                    self.keep(sandbox, Entry::Settle);
                }
            }
        }
        // The oldest first, after those that live have taken their places.
        for sandbox in fresh.into_iter().rev() {
            self.keep(sandbox, Entry::Start);
        }
        settled.unclear = self.report_unclear(&sandboxes);
        Ok(settled)
    }

    /// Whether nothing was made of it yet: a directory is the first thing.
    fn is_fresh(&self, sandbox: &Sandbox) -> bool {
        !self.plan(sandbox).dir.exists()
    }

    /// Finds a keeper for one that has none: who began it failed, or was gone before it was begun.
    pub(super) async fn keep_again(&self, id: &str) -> Result<(), StoreError> {
        let has_one = || is_kept(&self.inner.keepers.lock(), id);
        if has_one() {
            return Ok(());
        }
        // Read now: a keeper that came to its end has recorded why.
        let sandbox = self.inner.store.sandbox(id.to_owned()).await?;
        let Some(sandbox) = sandbox.filter(|sandbox| sandbox.state.is_active()) else {
            return Ok(());
        };
        let is_fresh = self.is_fresh(&sandbox);
        // It was only just recorded.
        if has_one() {
            return Ok(());
        }
        tracing::warn!(
            event = "sandbox_kept_again",
            sandbox = id,
            state = sandbox.state.as_str(),
            "nobody looked after a sandbox"
        );
        let entry = match sandbox.state {
            State::Running | State::Unhealthy => Entry::Adopt,
            State::Creating if is_fresh => Entry::Start,
            State::Creating => {
                let why = "Who started it failed before all of it was started.";
                self.interrupt(&sandbox, why).await?;
                Entry::Settle
            }
            State::Stopping | State::Stopped | State::Failed | State::Deleted => Entry::Settle,
        };
        self.keep(&sandbox, entry);
        Ok(())
    }

    async fn interrupt(&self, sandbox: &Sandbox, why: &str) -> Result<(), StoreError> {
        let why = Some((Reason::Interrupted, why.to_owned()));
        let (id, health) = (sandbox.id.clone(), sandbox.health.clone());
        let failed = self
            .inner
            .store
            .observe_sandbox(Timestamp::now(), id, health, Step::Fail, why)
            .await;
        match failed {
            Err(SandboxError::Store(error)) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Only what has a record is ours to remove; anything else is named for a person to look at.
    fn report_unclear(&self, known: &[Sandbox]) -> usize {
        let Ok(entries) = std::fs::read_dir(&self.inner.boxes) else {
            return 0;
        };
        let unclear: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !known.iter().any(|sandbox| sandbox.id == *name))
            .collect();
        for name in &unclear {
            let path = self.inner.boxes.join(name);
            tracing::warn!(path = %path.display(), "no active sandbox belongs to this directory; it is left alone");
        }
        unclear.len()
    }
}
