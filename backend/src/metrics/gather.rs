//! What is not counted as it happens but looked up when someone asks.

use jiff::Timestamp;

use super::{BuildLabels, Metrics, QueueLabels, QueueStateLabels, StateLabels};
use crate::store::{Store, StoreError};

impl Metrics {
    /// Brings the numbers that are looked up to what they are now.
    pub(crate) async fn gather(&self, store: &Store, followed: usize) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.attempts_followed.set(number(followed));
        self.events_newest.set(store.feed().newest());
        let version = env!("CARGO_PKG_VERSION");
        self.build.set(&BuildLabels { version }, 1);
        let read = self.gather_stored(store).await;
        self.store_readable.set(i64::from(read.is_ok()));
        if let Err(error) = read {
            tracing::warn!(%error, "the page of metrics lacks what the store would say");
        }
    }

    async fn gather_stored(&self, store: &Store) -> Result<(), StoreError> {
        let now = Timestamp::now();
        // Everything is read before anything is stated: half of it would mislead.
        let queues = store.queues().await?;
        let active = store.active_runs().await?;
        let sandboxes = store.sandboxes_by_state().await?;
        let size = store.size().await?;
        let amount = |n: i64| usize::try_from(n).unwrap_or(0);
        // No page is written meanwhile.
        let _registry = self.registry.lock();
        self.runs_active.set(active);
        self.store_size.set(size.bytes);
        self.store_free.set(size.free_bytes);
        // A queue that is gone is no longer shown.
        self.runs_unfinished.clear();
        self.queue_oldest.clear();
        for (queue, state) in queues {
            for (name, count) in [
                ("queued", state.queued),
                ("scheduled", state.scheduled),
                ("active", state.active),
            ] {
                let labels = QueueStateLabels {
                    queue: queue.clone(),
                    state: name,
                };
                self.runs_unfinished.set(&labels, amount(count));
            }
            if let Some(since) = state.oldest_queued_at {
                let age = now.duration_since(since).as_secs();
                self.queue_oldest.set(&QueueLabels { queue }, amount(age));
            }
        }
        self.sandboxes.clear();
        for (state, count) in sandboxes {
            let state = state.as_str();
            self.sandboxes.set(&StateLabels { state }, amount(count));
        }
        Ok(())
    }
}
