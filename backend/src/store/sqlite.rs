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
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::lock::Lock;
use super::{HealthStore, StoreError, feed::Feed, optional_time, time};

mod archive;
mod attempts;
mod cards;
mod claims;
mod deliveries;
mod feed;
mod lock;
mod migrate;
mod output;
mod queues;
mod replays;
mod runs;
mod sandboxes;
mod schedules;
mod submissions;

/// Requests that may wait for the writer before a caller waits itself.
const WAITING: usize = 4096;
/// Requests of one commit at most, so that nobody waits long for the flush.
const BATCH: usize = 256;
/// Connections for reading.
const READERS: usize = 4;
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

/// A request to the writer: does its work, says whether to keep it, and how to answer. Without a
/// connection it does nothing and only answers: the transaction it was to be part of is lost.
type Job = Box<dyn FnOnce(Option<&Connection>) -> Executed + Send>;
type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Executed {
    keep: bool,
    reply: Reply,
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
    path: PathBuf,
    _lock: Lock,
}

/// The writer thread and the way to it.
struct Writer {
    jobs: mpsc::Sender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    /// Waits until what was asked for is done and the connection is closed.
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.jobs = closed;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
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
        Self::open_within(path, Duration::ZERO)
    }

    /// The same; whoever has the store open gets `patience` to end.
    pub fn open_within(path: &Path, patience: Duration) -> Result<Self, OpenError> {
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
        let mut conn = Connection::open(path)?;
        prepare(&conn)?;
        migrate::run(&mut conn)?;
        let epoch = conn.query_row(
            "UPDATE boot SET epoch = epoch + 1 RETURNING epoch",
            [],
            |r| r.get(0),
        )?;
        let feed = Arc::new(feed::load(&conn)?);
        let readers = (0..READERS)
            .map(|_| reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        let (jobs, waiting) = mpsc::channel(WAITING);
        let published = Arc::clone(&feed);
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_loop(&conn, waiting, &published))
            .map_err(io)?;
        let writer = Writer {
            jobs,
            thread: Some(thread),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                writer,
                readers: Mutex::new(readers),
                free_readers: Arc::new(Semaphore::new(READERS)),
                feed,
                epoch,
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
        let (send, receive) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            // A panic must not take the writer, and with it every other request, down.
            let result = conn.map(|conn| {
                catch_unwind(AssertUnwindSafe(|| transition(conn))).unwrap_or_else(|_| {
                    Err(StoreError::Fault("a transition panicked".to_owned()).into())
                })
            });
            let keep = matches!(result, Some(Ok(_)));
            let reply: Reply = Box::new(move |committed| {
                let answer = match (result, committed) {
                    (Some(Err(error)), _) => Err(error),
                    (_, Err(error)) => Err(error.into()),
                    (Some(Ok(value)), Ok(())) => Ok(value),
                    (None, Ok(())) => Err(StoreError::Closed.into()),
                };
                // The asker may have gone away; what it asked for holds all the same.
                let _ = send.send(answer);
            });
            Executed { keep, reply }
        });
        if self.inner.writer.jobs.send(job).await.is_err() {
            return Err(StoreError::Closed.into());
        }
        receive
            .await
            .unwrap_or_else(|_| Err(StoreError::Closed.into()))
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

    /// Which boot of a backend this is on this store, counted from 1.
    pub fn epoch(&self) -> i64 {
        self.inner.epoch
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

fn prepare(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(128);
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", "ON")?;
    conn.pragma_update(None, "temp_store", "MEMORY")
}

fn reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(128);
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

/// The writer thread: ends when the last [`Database`] is dropped.
fn write_loop(conn: &Connection, mut jobs: mpsc::Receiver<Job>, feed: &Feed) {
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        let mut replies = Vec::with_capacity(batch.len());
        let verdict = commit(conn, batch, &mut replies);
        if let Err(error) = &verdict {
            // Nothing of the batch holds; whatever is left of the transaction goes.
            if !conn.is_autocommit()
                && let Err(rollback) = conn.execute_batch("ROLLBACK")
            {
                tracing::error!(%rollback, "the store's transaction could not be rolled back");
            }
            tracing::warn!(%error, requests = replies.len(), "a commit of the store failed");
        } else if let Err(error) = feed::publish(feed, conn) {
            tracing::error!(%error, "events were stored but not published");
        }
        for reply in replies {
            reply(verdict.clone());
        }
    }
    // All readers are closed by now: the next start, and a copy of the file, need nothing else.
    let emptied = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    match emptied {
        Ok(0_i64) => {}
        Ok(_) => tracing::warn!("the store's write-ahead log is in use and stays"),
        Err(error) => tracing::warn!(%error, "the store's write-ahead log could not be emptied"),
    }
}

/// Runs a batch in one transaction. Every reply lands in `replies`, whatever happens.
fn commit(conn: &Connection, batch: Vec<Job>, replies: &mut Vec<Reply>) -> Result<(), StoreError> {
    let mut state = run(conn, "BEGIN IMMEDIATE");
    for job in batch {
        state = state.and_then(|()| run(conn, "SAVEPOINT request"));
        let executed = job(state.is_ok().then_some(conn));
        replies.push(executed.reply);
        if state.is_ok() {
            state = settle(conn, executed.keep);
        }
    }
    state.and_then(|()| run(conn, "COMMIT"))
}

/// Ends the savepoint of one request.
fn settle(conn: &Connection, keep: bool) -> Result<(), StoreError> {
    if conn.is_autocommit() {
        // The engine itself gave the whole transaction up, as it does on a full disk.
        return Err(StoreError::Full);
    }
    if !keep {
        run(conn, "ROLLBACK TO request")?;
    }
    run(conn, "RELEASE request")
}

fn run(conn: &Connection, sql: &str) -> Result<(), StoreError> {
    conn.prepare_cached(sql)?.execute([])?;
    Ok(())
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
