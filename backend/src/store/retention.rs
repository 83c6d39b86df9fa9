//! Removing what is done with, and giving its space back: a small part at a time, so that no other
//! write waits long.

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoreError;
use crate::clock::Course;

/// What is removed: whatever is older; `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cutoffs {
    /// Runs that ended before, with their attempts and output.
    pub finished_runs: Option<Timestamp>,
    /// The output of runs that ended before.
    pub logs: Option<Timestamp>,
    /// Events before it. They are removed from the oldest on, without holes.
    pub events: Option<Timestamp>,
    /// Deliveries that came before.
    pub deliveries: Option<Timestamp>,
    /// Cards that were archived before and have no run that has not ended.
    pub archived_cards: Option<Timestamp>,
    /// Records of sandboxes that were deleted before.
    pub deleted_sandboxes: Option<Timestamp>,
}

/// How much was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Runs.
    pub runs: u64,
    /// Pieces of output.
    pub logs: u64,
    /// Events.
    pub events: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Cards.
    pub cards: u64,
    /// Records of sandboxes.
    pub sandboxes: u64,
    /// Idempotency keys past their time.
    pub idempotency_keys: u64,
    /// Whether there may be more to remove.
    pub more: bool,
}

/// Removing, and giving space back.
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// Removes a part of what is older. Fine to stop after any of them.
    async fn remove_old(&self, now: Timestamp, cutoffs: Cutoffs) -> Result<Removed, StoreError>;

    /// Gives a part of the free space back to the disk; whether there is more.
    async fn shrink(&self) -> Result<bool, StoreError>;

    /// How the machine's clock went on as it was last kept; `None`: it never was.
    async fn course(&self) -> Result<Option<Course>, StoreError>;

    /// Keeps how the machine's clock goes on, for the next boot.
    async fn keep_course(&self, course: Course) -> Result<(), StoreError>;

    /// Lets the disk see what was given back. Holds nobody up.
    async fn settle_space(&self) -> Result<(), StoreError>;
}
