//! The embedded engine: `SQLite` with one writer thread and a pool of readers.
//!
//! The writer takes whatever requests are waiting into one `BEGIN IMMEDIATE … COMMIT`, each in a
//! savepoint of its own, and answers them only after the commit: one flush to disk serves many.
//! Nothing else may write. To store something:
//!
//! ```text
//! let n = db.write(move |tx| { tx.execute("UPDATE …", params)?; Ok::<_, StoreError>(n) }).await?;
//! let rows = db.read(|conn| …).await?;
//! ```
//!
//! Events are added inside a transition with `feed::append`: they are published after the commit, in
//! order, without gaps. Never hold anything across a transition that blocks: all writes wait. WAL and `synchronous = FULL`: what was answered survives power loss.
//!
//! Next: [`open`] for how a store comes to be open, [`writer`] for the one thread.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use tokio::sync::Semaphore;

use self::{lock::Lock, writer::Writer};
use super::{Engine, HealthStore, Size, StoreError, feed::Feed, optional_time, time};

mod archive;
mod attempts;
mod boot;
mod cards;
mod claims;
mod clock;
mod deliveries;
mod failure;
mod feed;
mod idempotency;
mod lock;
mod migrate;
mod open;
mod output;
mod queues;
mod replays;
mod retention;
mod runs;
mod sandboxes;
mod schedules;
mod select;
mod submissions;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use lock::is_full;
pub use open::OpenError;

/// Connections for reading.
const READERS: usize = 4;
/// How long to wait for another process's lock before giving up.
const BUSY: Duration = Duration::from_secs(5);

/// The open store. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

/// What is in it is dropped in this order: the writer's connection is the last to be closed, and
/// the lock is let go of after it.
struct Inner {
    readers: Mutex<Vec<Connection>>,
    writer: Writer,
    free_readers: Arc<Semaphore>,
    feed: Arc<Feed>,
    epoch: i64,
    instance: String,
    path: PathBuf,
    _lock: Lock,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Runs one transition and answers once it is on disk. An error undoes this one alone.
    pub async fn write<T, E, F>(&self, transition: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.inner.writer.ask(transition).await
    }

    /// Reads on a connection that sees one consistent state of the store.
    pub async fn read<T, E, F>(&self, query: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let Ok(_free) = Arc::clone(&self.inner.free_readers).acquire_owned().await else {
            return Err(StoreError::Closed.into());
        };
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || {
            let kept = inner.readers.lock().pop();
            let conn = match kept {
                Some(conn) => conn,
                None => reader(&inner.path).map_err(StoreError::from)?,
            };
            let tx = conn.unchecked_transaction().map_err(StoreError::from)?;
            let result = query(&tx);
            drop(tx);
            inner.readers.lock().push(conn);
            result
        });
        task.await
            .unwrap_or_else(|_| Err(StoreError::Fault("a query panicked".to_owned()).into()))
    }

    /// Does as when the machine's clock was found to be set by so many microseconds.
    #[cfg(test)]
    pub(crate) async fn clock_was_set(&self, by: i64) -> Result<(), StoreError> {
        self.write(move |tx| clock::move_along(tx, by)).await
    }

    /// Which boot of a backend this is on this store, counted from 1.
    pub fn epoch(&self) -> i64 {
        self.inner.epoch
    }

    /// The random id that this store has for ever.
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    fn published(&self) -> &Feed {
        &self.inner.feed
    }

    /// The directory of what belongs to this store and lies outside of it, such as the attempts of
    /// runs: the store's file name with `.d`. Another store in the same folder has another one, so
    /// that nobody settles what is not theirs.
    pub fn state_dir(&self) -> PathBuf {
        let mut name = self.inner.path.as_os_str().to_owned();
        name.push(".d");
        name.into()
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }
}

impl Engine for Database {}

#[async_trait]
impl HealthStore for Database {
    async fn probe(&self) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.prepare_cached("UPDATE boot SET probe = probe + 1")?
                .execute([])?;
            Ok(())
        })
        .await
    }

    async fn size(&self) -> Result<Size, StoreError> {
        self.read(|conn| {
            let ask = |pragma: &str| conn.query_row(pragma, [], |row| row.get::<_, i64>(0));
            let page = ask("PRAGMA page_size")?;
            Ok(Size {
                bytes: ask("PRAGMA page_count")?.saturating_mul(page),
                free_bytes: ask("PRAGMA freelist_count")?.saturating_mul(page),
            })
        })
        .await
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let error = Self::from_engine(&error);
        failure::note(&error);
        error
    }
}

impl StoreError {
    /// What the engine's error is to whoever asked.
    fn from_engine(error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::ReadOnly(error.to_string())
            }
            Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => Self::Io(error.to_string()),
            _ if is_busy(error) => Self::Busy(error.to_string()),
            _ => Self::Fault(error.to_string()),
        }
    }
}

/// Whether another process has the tables locked.
fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// The one row that a query by id finds.
fn one<T>(
    conn: &Connection,
    sql: &str,
    id: &str,
    read: fn(&rusqlite::Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    conn.prepare_cached(sql)?
        .query_row([id], |row| Ok(read(row)))
        .optional()?
        .transpose()
}

fn reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(128);
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}
