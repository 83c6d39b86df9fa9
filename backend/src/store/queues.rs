//! Queues: what waits and runs in each, and whether they are paused.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoreError;

/// A queue as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Since when it is paused.
    pub paused_at: Option<Timestamp>,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// Runs that wait for a slot.
    pub queued: i64,
    /// Runs that wait for their time or for other runs.
    pub scheduled: i64,
    /// Runs that are running or canceling.
    pub active: i64,
    /// Since when the run that waits longest for a slot does, by the clock as it is now: it is moved along
    /// when that is set.
    pub oldest_queued_at: Option<Timestamp>,
}

/// Queues and their pauses.
#[async_trait]
pub trait QueueStore: Send + Sync {
    /// The queues that have runs which have not ended, or were ever paused, by name.
    async fn queues(&self) -> Result<BTreeMap<String, QueueState>, StoreError>;

    /// Keeps the runs of a queue from being started; what runs, runs on. Since when it is paused:
    /// asking again changes nothing.
    async fn pause_queue(
        &self,
        now: Timestamp,
        name: String,
        actor: String,
    ) -> Result<(), StoreError>;

    /// Lets the runs of a queue be started again. Asking again changes nothing.
    async fn resume_queue(
        &self,
        now: Timestamp,
        name: String,
        actor: String,
    ) -> Result<(), StoreError>;
}
