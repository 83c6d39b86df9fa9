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

use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use orket_shared::id;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use tokio::sync::Semaphore;

use self::{clock::Clock, lock::Lock, writer::Writer};
use super::{HealthStore, Size, StoreError, feed::Feed, optional_time, time};
use crate::{crash_point::CrashPoint, metrics::Metrics};

mod archive;
mod attempts;
mod cards;
mod claims;
mod clock;
mod deliveries;
mod failure;
mod feed;
mod idempotency;
mod lock;
mod migrate;
mod output;
mod queues;
mod replays;
mod retention;
mod runs;
mod sandboxes;
mod schedules;
mod select;
mod submissions;
mod writer;

/// Connections for reading.
const READERS: usize = 4;
/// Bytes of the write-ahead log that are kept once it was emptied.
const LOG_KEPT: i64 = 64 << 20;
/// How long to wait for another process's lock before giving up.
const BUSY: Duration = Duration::from_secs(5);

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another backend owns it.
    #[error(
        "another backend (process {holder}) has the store {} open; stop it first, or give this one its own [store] url",
        path.display()
    )]
    Locked {
        /// The database file.
        path: PathBuf,
        /// The process id the owner left in the lock file, or `?`.
        holder: String,
    },
    /// Another program has locked its tables.
    #[error(
        "another program has the store {} locked, such as a backup or a database shell: let it end, then start again",
        path.display()
    )]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// Another backend owns it under another name of the same file.
    #[error(
        "another backend has the store {} open under another name (a hard link); stop it first, or give this one its own [store] url",
        path.display()
    )]
    Linked {
        /// The database file.
        path: PathBuf,
    },
    /// A newer program made it.
    #[error(
        "the store's schema is version {found}, this program knows up to {known}: run the newer orket-backend that wrote it"
    )]
    Newer {
        /// The version found.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// The file is a database of some other program.
    #[error("the file is a database, but not Orket's: point [store] url somewhere else")]
    Foreign,
    /// A step of the schema failed.
    #[error("the schema step {name} failed: {reason}")]
    Migration {
        /// The step's name.
        name: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// The file, its directory or its lock cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// What could not be used.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The engine refused.
    #[error("the store does not open: {0}")]
    Engine(#[from] rusqlite::Error),
    /// Its content cannot be read.
    #[error(transparent)]
    Content(#[from] StoreError),
}

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
    /// Opens or creates the store at `path`, takes its lock, migrates it and raises its epoch.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_within(path, Duration::ZERO, Arc::default())
    }

    /// The same; whoever has the store open gets `patience` to end, and what is done is counted in
    /// `metrics`.
    pub fn open_within(
        path: &Path,
        patience: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|source| OpenError::Io {
                    path: dir.to_owned(),
                    source,
                })?;
        }
        let path = &lock::real_path(path).map_err(io)?;
        let lock = Lock::take(path, patience)?;
        let begun = Self::begin(path, lock, metrics);
        if let Err(OpenError::Engine(error)) = &begun
            && is_busy(error)
        {
            let path = path.to_owned();
            return Err(OpenError::InUse { path });
        }
        begun
    }

    fn begin(path: &Path, lock: Lock, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let mut conn = Connection::open(path)?;
        prepare(&conn)?;
        migrate::run(&mut conn)?;
        let_it_shrink(&conn, path)?;
        let (epoch, instance) = conn.query_row(
            "UPDATE boot SET epoch = epoch + 1, instance = coalesce(instance, ?1) \
              RETURNING epoch, instance",
            [id::new_ulid()],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )?;
        CrashPoint::BootEpochTaken.reached();
        let clock = Clock::open(&conn)?;
        let feed = Arc::new(feed::load(&conn)?);
        let readers = (0..READERS)
            .map(|_| reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        let writer = Writer::start(conn, clock, Arc::clone(&feed), metrics).map_err(io)?;
        Ok(Self {
            inner: Arc::new(Inner {
                writer,
                readers: Mutex::new(readers),
                free_readers: Arc::new(Semaphore::new(READERS)),
                feed,
                epoch,
                instance,
                path: path.to_owned(),
                _lock: lock,
            }),
        })
    }

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
        use rusqlite::ErrorCode;
        let error = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::ReadOnly(error.to_string())
            }
            Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => Self::Io(error.to_string()),
            _ if is_busy(&error) => Self::Busy(error.to_string()),
            _ => Self::Fault(error.to_string()),
        };
        failure::note(&error);
        error
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

fn prepare(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(128);
    // Before anything is written: a file that has pages keeps its way.
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "journal_size_limit", LOG_KEPT)?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", "ON")?;
    conn.pragma_update(None, "temp_store", "MEMORY")
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

/// Lets a file that was made before files could shrink do so from now on: it is written anew, once.
/// One that cannot be, on a full disk, is as good as before.
fn let_it_shrink(conn: &Connection, path: &Path) -> Result<(), rusqlite::Error> {
    if conn.query_row("PRAGMA auto_vacuum", [], |row| row.get::<_, i64>(0))? != 0 {
        return Ok(());
    }
    tracing::info!(
        event = "store_rewritten",
        path = %path.display(),
        "the store is written anew, once, so that it can shrink"
    );
    let written = conn
        .pragma_update(None, "auto_vacuum", "INCREMENTAL")
        .and_then(|()| conn.execute_batch("VACUUM"));
    if let Err(error) = written {
        tracing::warn!(%error, "the store could not be written anew: it will not shrink");
    }
    Ok(())
}

fn reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(128);
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test may fail"
    )]
    use super::*;
    use crate::store::feed::EventStore as _;

    fn now() -> jiff::Timestamp {
        jiff::Timestamp::from_second(1).unwrap()
    }

    #[tokio::test]
    async fn an_error_undoes_one_request_alone() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(&dir.path().join("o.db")).unwrap();
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let db = db.clone();
                tokio::spawn(async move {
                    db.write(move |tx| {
                        feed::append(tx, now(), "test", &n.to_string(), &serde_json::json!({}))?;
                        assert!(n % 7 != 0, "a panic is one request's own");
                        if n % 2 == 0 {
                            Err(StoreError::Fault("no".into()))
                        } else {
                            Ok(n)
                        }
                    })
                    .await
                })
            })
            .collect();
        let mut kept = Vec::new();
        for task in tasks {
            kept.extend(task.await.unwrap().ok());
        }
        let events = db.events_after(0, 1000).await.unwrap();
        assert_eq!(events.len(), kept.len());
        assert!(kept.iter().all(|n| n % 2 == 1 && n % 7 != 0));
        assert_eq!(db.feed().newest(), events.last().unwrap().seq);
    }

    #[derive(Debug, PartialEq)]
    enum Refusal {
        Taken,
        Store(StoreError),
    }

    impl From<StoreError> for Refusal {
        fn from(error: StoreError) -> Self {
            Self::Store(error)
        }
    }

    #[tokio::test]
    async fn what_ends_a_transaction_is_told_to_all_of_it_as_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(&dir.path().join("o.db")).unwrap();
        // All three go into one transaction: they are asked while the writer is held up.
        let (begun, held) = (
            Arc::new(std::sync::Barrier::new(2)),
            Arc::new(std::sync::Barrier::new(2)),
        );
        let hold = {
            let (db, begun, held) = (db.clone(), begun.clone(), held.clone());
            tokio::spawn(async move {
                db.write(move |_| {
                    begun.wait();
                    held.wait();
                    Ok::<_, StoreError>(())
                })
                .await
            })
        };
        tokio::task::spawn_blocking(move || begun.wait())
            .await
            .unwrap();
        let refused = db.write(|_| Err::<(), _>(Refusal::Taken));
        let failing = db.write(|tx| {
            // As the engine does itself on an I/O error.
            tx.execute_batch("ROLLBACK").map_err(StoreError::from)?;
            let io = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
            Err::<(), _>(Refusal::Store(
                rusqlite::Error::SqliteFailure(io, None).into(),
            ))
        });
        let kept = db.write(|_| Ok::<_, Refusal>(()));
        let release = async {
            tokio::task::spawn_blocking(move || held.wait())
                .await
                .unwrap();
        };
        let (refused, failing, kept, ()) = tokio::join!(refused, failing, kept, release);
        hold.await.unwrap().unwrap();
        for answer in [refused, failing, kept] {
            let answer = answer.unwrap_err();
            assert!(
                matches!(answer, Refusal::Store(StoreError::Io(_))),
                "{answer:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_second_owner_is_refused_and_a_new_boot_has_a_higher_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/o.db");
        let first = Database::open(&path).unwrap();
        let refused = Database::open(&path).unwrap_err();
        assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
        assert!(
            refused
                .to_string()
                .contains(&std::process::id().to_string()),
            "{refused}"
        );
        assert_eq!(first.epoch(), 1);
        drop(first);
        assert_eq!(Database::open(&path).unwrap().epoch(), 2);
    }

    #[test]
    fn newer_and_foreign_files_are_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.db");
        drop(Database::open(&path).unwrap());
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            Database::open(&path),
            Err(OpenError::Newer { found: 99, .. })
        ));
        let path = dir.path().join("f.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t (x)")
            .unwrap();
        assert!(matches!(Database::open(&path), Err(OpenError::Foreign)));
    }
}
