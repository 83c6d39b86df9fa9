//! The durable truth: every state is derived from here, never counted beside it.
//!
//! What is stored, and what can be done with it, is one file for each subject: its types and a
//! trait whose methods are whole transitions. A transition sees everything that was answered before
//! it, is done whole or not at all, and is answered only after it is on disk; what an attempt says
//! is taken in under its epoch only. An engine is one folder that holds all traits ([`Engine`]);
//! `story` is what every engine is held to, and what it decides it asks [`crate::plan`].
//!
//! Next: [`Database`], the embedded engine.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;

pub mod archive;
pub mod attempts;
pub mod cards;
pub mod claims;
pub mod deliveries;
pub mod feed;
pub mod idempotency;
pub mod output;
pub mod queues;
pub mod replays;
pub mod retention;
pub mod runs;
pub mod sandboxes;
pub mod schedules;
mod sqlite;
#[cfg(test)]
mod story;
pub mod submissions;

pub(crate) use sqlite::is_full;
pub use sqlite::{Database, OpenError};

/// Whether a store can be used.
#[async_trait]
pub trait HealthStore: Send + Sync {
    /// Whether it takes writes: it makes one, through to the disk.
    async fn probe(&self) -> Result<(), StoreError>;

    /// What it takes on the disk.
    async fn size(&self) -> Result<Size, StoreError>;
}

/// What a store takes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// All of it, in bytes.
    pub bytes: i64,
    /// What of it is free, in bytes: used again, or given back.
    pub free_bytes: i64,
}

/// All that a store can do.
pub trait Engine:
    HealthStore
    + archive::ArchiveStore
    + attempts::AttemptStore
    + cards::CardStore
    + claims::ClaimStore
    + deliveries::DeliveryStore
    + feed::EventStore
    + output::OutputStore
    + queues::QueueStore
    + replays::ReplayStore
    + retention::RetentionStore
    + runs::RunStore
    + sandboxes::SandboxStore
    + schedules::ScheduleStore
    + submissions::SubmissionStore
{
}

/// A store, whatever its engine. Cheap to clone; the last clone closes it.
pub type Store = Arc<dyn Engine>;

/// Opens or creates the embedded store at `path`.
pub fn open(path: &Path) -> Result<Store, OpenError> {
    Ok(Arc::new(Database::open(path)?))
}

/// Opens the embedded store at `path` for a command that needs it for a moment; where none is, nothing is
/// made.
pub fn open_existing(path: &Path) -> Result<Store, OpenError> {
    Ok(Arc::new(Database::open_existing(path)?))
}

/// A part of a list, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// What is in it: at most as much as was asked for, and no more once it has [`LISTING_BYTES`].
    pub rows: Vec<T>,
    /// Whether there is more behind it.
    pub more: bool,
}

/// After so many bytes of texts a part of a list ends, however much was asked for: some rows are as
/// large as a request may be.
pub const LISTING_BYTES: usize = 1 << 20;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk, or the quota on it, is full. Reads go on.
    #[error("the store's disk is full")]
    Full,
    /// The store may only be read: a read-only disk, or permissions.
    #[error("the store may only be read: {0}")]
    ReadOnly(String),
    /// The disk failed, or a file of the store is not there any more.
    #[error("the store's disk failed: {0}")]
    Io(String),
    /// Another process holds the store's lock for too long.
    #[error("the store is locked by another process: {0}")]
    Busy(String),
    /// The store was closed, or its writer thread ended.
    #[error("the store is closed")]
    Closed,
    /// A statement failed or a row cannot be understood: a fault of ours.
    #[error("the store failed: {0}")]
    Fault(String),
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Fault(format!("a stored document cannot be read: {error}"))
    }
}

/// A stored time back into a timestamp.
pub fn time(microseconds: i64) -> Result<jiff::Timestamp, StoreError> {
    jiff::Timestamp::from_microsecond(microseconds)
        .map_err(|error| StoreError::Fault(format!("a stored time is out of range: {error}")))
}

/// A stored time that may be absent.
pub fn optional_time(microseconds: Option<i64>) -> Result<Option<jiff::Timestamp>, StoreError> {
    microseconds.map(time).transpose()
}
