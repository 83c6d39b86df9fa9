//! The lock that makes one backend the owner of a store: beside the database file, where it says
//! who has it, and on the file itself, whatever name it was reached by.
//!
//! It must never open the database file twice or let go of it early: closing any descriptor of a
//! file drops this process's record locks on it, which are `SQLite`'s own. The lock here is a
//! `flock`, which record locks neither see nor disturb.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::OpenError;

/// Time between two looks at a lock that someone else has.
const AGAIN: Duration = Duration::from_millis(20);

/// Held for as long as the store is open, and let go of after its last connection was closed. The
/// kernel lets go when the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _beside: File,
    _database: File,
}

/// The database file under its real name, made where it is missing: links lead to one owner.
pub(super) fn real_path(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // By us: SQLite would make it readable for everyone the umask lets in.
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)?;
            path.canonicalize()
        }
        found => found,
    }
}

impl Lock {
    /// Takes the lock of the database file at `path`, which is its real one. Whoever has it gets
    /// `patience` to let go of it: of a process that was killed the kernel clears up a moment later.
    pub(super) fn take(path: &Path, patience: Duration) -> Result<Self, OpenError> {
        let until = Instant::now() + patience;
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let name = PathBuf::from(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let beside = options.mode(0o600).open(&name);
        let mut beside = beside.map_err(|error| io_error(&name, error))?;
        if !free(&beside, &name, until)? {
            let mut holder = String::new();
            let read = beside.read_to_string(&mut holder);
            let holder = holder.trim();
            let known = read.is_ok() && !holder.is_empty();
            return Err(OpenError::Locked {
                path: path.to_owned(),
                holder: if known { holder } else { "?" }.to_owned(),
            });
        }
        let database = File::open(path).map_err(|error| io_error(path, error))?;
        if !free(&database, path, until)? {
            return Err(OpenError::Linked {
                path: path.to_owned(),
            });
        }
        let written = beside
            .set_len(0)
            .and_then(|()| beside.rewind())
            .and_then(|()| writeln!(beside, "{}", std::process::id()));
        match written {
            // It only tells others who has it: a full disk keeps nobody from reading.
            Err(error) if is_full(&error) => {}
            written => written.map_err(|error| io_error(&name, error))?,
        }
        Ok(Self {
            _beside: beside,
            _database: database,
        })
    }
}

/// Whether there was no room for it on a disk, or in the quota on it.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn io_error(path: &Path, why: io::Error) -> OpenError {
    let path = path.to_owned();
    OpenError::Io { path, why }
}

/// Whether the lock was free, or became free in time; it is ours then.
fn free(file: &File, path: &Path, until: Instant) -> Result<bool, OpenError> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(AGAIN),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(io_error(path, error)),
        }
    }
}
