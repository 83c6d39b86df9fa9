//! How a store comes to be open: found or made, locked, brought up to this program's schema. And every
//! reason why not, each with what to do.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::Semaphore;

use super::{
    BUSY, Database, Inner, READERS, StoreError, boot::Boot, feed, lock, lock::Lock, migrate,
    reader, writer::Writer,
};
use crate::metrics::Metrics;

/// Bytes of the write-ahead log that are kept once it was emptied.
const LOG_KEPT: i64 = 64 << 20;
/// What a database file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Why a store does not open. Each ends in what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, and none is to be made.
    #[error(
        "there is no store at {}, and nothing was made: name the right one in [store] url (--config FILE); \
         `orket-backend serve` makes a new one",
        path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
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
    /// The file is of some other program.
    #[error(
        "the file of [store] url is not Orket's and was left alone: point [store] url somewhere else"
    )]
    Foreign,
    /// A step of the schema failed.
    #[error(
        "the schema step {name} failed, and nothing of it was kept: {reason}; restore a backup of the store, and report this"
    )]
    Migration {
        /// The step's name.
        name: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// The file, its directory or its lock cannot be used.
    #[error(
        "cannot use {}: {why}; let the backend's user read and write it, or choose another place in [store] url",
        path.display()
    )]
    Io {
        /// What could not be used.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The disk, or the quota on it, is full.
    #[error("the disk of the store {} is full: free some room, then start again", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// It may only be read.
    #[error(
        "the store {} may only be read ({why}): mount its disk for writing and let the backend's user write it, then start again",
        path.display()
    )]
    ReadOnly {
        /// The database file.
        path: PathBuf,
        /// What the engine said.
        why: String,
    },
    /// Its content is damaged.
    #[error(
        "the store {} is damaged ({why}): restore a backup, docs/RUNBOOK.md says how",
        path.display()
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What the engine said.
        why: String,
    },
    /// The engine refused.
    #[error(
        "the store does not open: {0}; look at its disk and at who owns its files, then start again"
    )]
    Engine(rusqlite::Error),
    /// Its content cannot be read.
    #[error("the store cannot be read: {0}; look at its disk, or restore a backup")]
    Content(StoreError),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Content(error)
    }
}

impl OpenError {
    /// The same of this file, as what it is to whoever has to do something about it.
    fn of(self, path: &Path) -> Self {
        let path = path.to_owned();
        let known = match &self {
            Self::Engine(error) => Some(StoreError::from_engine(error)),
            Self::Content(error) => Some(error.clone()),
            Self::Missing { .. }
            | Self::Locked { .. }
            | Self::InUse { .. }
            | Self::Linked { .. }
            | Self::Newer { .. }
            | Self::Foreign
            | Self::Migration { .. }
            | Self::Io { .. }
            | Self::Full { .. }
            | Self::ReadOnly { .. }
            | Self::Damaged { .. } => None,
        };
        match known {
            Some(StoreError::Busy(_)) => Self::InUse { path },
            Some(StoreError::Full) => Self::Full { path },
            Some(StoreError::ReadOnly(why)) => Self::ReadOnly { path, why },
            Some(StoreError::Fault(why)) if self.is_damage() => Self::Damaged { path, why },
            Some(StoreError::Io(_) | StoreError::Closed | StoreError::Fault(_)) | None => self,
        }
    }

    fn is_damage(&self) -> bool {
        let Self::Engine(error) = self else {
            return false;
        };
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
        )
    }
}

impl Database {
    /// Opens or creates the store at `path`, takes its lock, migrates it and raises its epoch.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_within(path, Duration::ZERO, Arc::default())
    }

    /// The same for a store that is there already: where none is, nothing is made.
    pub fn open_existing(path: &Path) -> Result<Self, OpenError> {
        let missing = || OpenError::Missing {
            path: path.to_owned(),
        };
        match begins_with(path) {
            Ok(begin) if begin.is_empty() => Err(missing()),
            Ok(begin) if begin != MAGIC => Err(OpenError::Foreign),
            Ok(_) => Self::open(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
            Err(why) => Err(OpenError::Io {
                path: path.to_owned(),
                why,
            }),
        }
    }

    /// As [`open`](Self::open); whoever has the store open gets `patience` to end, and what is done is
    /// counted in `metrics`.
    pub fn open_within(
        path: &Path,
        patience: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let io = |why| OpenError::Io {
            path: path.to_owned(),
            why,
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|why| OpenError::Io {
                    path: dir.to_owned(),
                    why,
                })?;
        }
        let path = &lock::real_path(path).map_err(io)?;
        let lock = Lock::take(path, patience)?;
        Self::begin(path, lock, metrics).map_err(|error| error.of(path))
    }

    fn begin(path: &Path, lock: Lock, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        let mut conn = Connection::open(path)?;
        prepare(&conn)?;
        migrate::run(&mut conn)?;
        let_it_shrink(&conn, path)?;
        let boot = Boot::begin(&conn)?;
        let (epoch, instance) = (boot.epoch, boot.instance.clone());
        let feed = Arc::new(feed::load(&conn)?);
        let readers = (0..READERS)
            .map(|_| reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        let writer =
            Writer::start(conn, boot, Arc::clone(&feed), metrics).map_err(|why| OpenError::Io {
                path: path.to_owned(),
                why,
            })?;
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
}

/// What a file begins with; less than 16 bytes of one that is shorter.
fn begins_with(path: &Path) -> io::Result<Vec<u8>> {
    let mut begin = Vec::new();
    let most = u64::try_from(MAGIC.len()).unwrap_or(u64::MAX);
    File::open(path)?.take(most).read_to_end(&mut begin)?;
    Ok(begin)
}

fn prepare(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(128);
    // Before anything is written: a file that has pages keeps its way. It is not said again to one that has
    // learned it: that writes, and a full disk would keep the store from being read.
    if !shrinks(conn)? {
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "journal_size_limit", LOG_KEPT)?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", "ON")?;
    conn.pragma_update(None, "temp_store", "MEMORY")
}

/// Whether the file can shrink.
fn shrinks(conn: &Connection) -> Result<bool, rusqlite::Error> {
    conn.query_row("PRAGMA auto_vacuum", [], |row| {
        Ok(row.get::<_, i64>(0)? != 0)
    })
}

/// Lets a file that was made before files could shrink do so from now on: it is written anew, once.
/// One that cannot be, on a full disk, is as good as before.
fn let_it_shrink(conn: &Connection, path: &Path) -> Result<(), rusqlite::Error> {
    if shrinks(conn)? {
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
