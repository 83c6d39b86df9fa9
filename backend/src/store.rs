//! The durable truth: every state is derived from here, never counted beside it.
//!
//! [`Database`] is the engine underneath: one writer thread that commits many requests at once,
//! a pool of readers, an exclusive lock and an epoch per boot. To store something:
//!
//! ```text
//! let n = db.write(move |tx| { tx.execute("UPDATE …", params)?; Ok::<_, StoreError>(n) }).await?;
//! let rows = db.read(|conn| …).await?;
//! ```
//!
//! A closure given to [`Database::write`] is one transition: it sees everything committed before
//! it, is undone alone when it returns an error, and its answer is given only after the commit
//! reached the disk. Add events inside it with [`feed::append`]: they are published after the
//! commit, in order, without gaps. Never hold anything across it that blocks: all writes wait.

pub mod archive;
pub mod attempts;
pub mod cards;
pub mod claims;
pub mod deliveries;
pub mod feed;
mod lock;
mod migrate;
pub mod output;
pub mod queues;
pub mod replays;
pub mod runs;
pub mod sandboxes;
pub mod schedules;
mod sqlite;
pub mod submissions;

pub use sqlite::{Database, OpenError};

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk, or the quota on it, is full. Reads go on.
    #[error("the store's disk is full")]
    Full,
    /// The store cannot be written: read-only disk, permissions, an I/O error.
    #[error("the store cannot be written: {0}")]
    NotWritable(String),
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

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(
                ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure
                | ErrorCode::PermissionDenied,
            ) => Self::NotWritable(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Busy(error.to_string())
            }
            _ => Self::Fault(error.to_string()),
        }
    }
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
