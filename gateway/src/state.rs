//! The state directory: what has to outlive the program, and the lock that says whose it is.
//!
//! One process owns it; one that runs beside it owns nothing there, and shows that it runs. Everything below is opened from the directory's own handle, never through a symlink,
//! and belongs to this user alone: what lies there was proven once and is believed later.

pub mod directory;

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use self::directory::Directory;
use crate::{
    file_lock::{self, Lock, MOMENT},
    presence::{self, Mark},
};

/// The file that is locked as long as a gateway owns the directory.
const LOCK: &str = "gateway.lock";

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or opened, or is somebody else's.
    #[error(
        "the state directory {path} cannot be used: {source}; give [state] dir (ORKET_STATE_DIR) a directory that belongs to this gateway's user and that nobody else can write"
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another gateway owns it.
    #[error(
        "another gateway owns the state directory {path}; stop it, or give this one a directory of its own in [state] dir (ORKET_STATE_DIR)"
    )]
    Owned {
        /// The directory.
        path: PathBuf,
    },
}

/// The state directory, owned by this process until this is dropped or the process ends.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    directory: Directory,
    /// Released by the kernel, however the process ends.
    _lock: OwnedFd,
}

impl StateDir {
    /// Opens the directory, makes it where it is missing (mode 0700), and takes its lock.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let unusable = |source: io::Error| StateError::Unusable {
            path: path.to_owned(),
            source,
        };
        let directory = Directory::at(path).map_err(unusable)?;
        let lock = directory.append_to(LOCK).map_err(unusable)?;
        // A command that only looks whether anybody owns it is done in a moment.
        if !file_lock::take(&lock, Lock::Alone, MOMENT).map_err(unusable)? {
            return Err(StateError::Owned {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            directory,
            _lock: lock.into(),
        })
    }

    /// Shows that a gateway runs with the state directory at `path` without owning it.
    ///
    /// # Errors
    /// That it cannot be shown, so that `keys revoke` could not see it.
    pub fn lodge(path: &Path) -> Result<Mark, StateError> {
        Mark::in_directory(path).map_err(|source| StateError::Unusable {
            path: path.to_owned(),
            source,
        })
    }

    /// Whether a gateway runs with the state directory at `path` without owning it. Changes nothing.
    ///
    /// # Errors
    /// That it cannot be told.
    pub fn has_lodger(path: &Path) -> io::Result<bool> {
        match presence::is_shown_in(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            told => told,
        }
    }

    /// Whether a running gateway owns the state directory at `path`. Changes nothing.
    ///
    /// # Errors
    /// That it cannot be told; not found, where none ever did.
    pub fn is_owned(path: &Path) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let lock = rustix::fs::open(path.join(LOCK), flags, Mode::empty())?;
        let free = file_lock::take(&lock, Lock::Shared, std::time::Duration::ZERO)?;
        Ok(!free)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn it_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::open(&path).unwrap();
        assert!(matches!(
            StateDir::open(&path),
            Err(StateError::Owned { .. })
        ));
        assert!(StateDir::is_owned(&path).unwrap());
        drop(first);
        assert!(!StateDir::is_owned(&path).unwrap());
        let none = StateDir::is_owned(dir.path()).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
        assert!(StateDir::open(&path).is_ok());
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn one_that_runs_beside_the_owner_is_seen_and_the_owner_is_not_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert!(!StateDir::has_lodger(&path).unwrap(), "nothing is there");
        let owner = StateDir::open(&path).unwrap();
        assert!(!StateDir::has_lodger(&path).unwrap());
        let lodger = StateDir::lodge(&path).unwrap();
        drop(owner);
        assert!(!StateDir::is_owned(&path).unwrap());
        assert!(StateDir::has_lodger(&path).unwrap());
        drop(lodger);
        assert!(!StateDir::has_lodger(&path).unwrap());
    }

    #[test]
    fn what_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o770)).unwrap();
        let told = StateDir::open(&path).unwrap_err().to_string();
        assert!(told.contains("others can write"), "{told}");
    }

    #[test]
    fn a_symlink_in_it_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        symlink(&elsewhere, path.join(LOCK)).unwrap();
        assert!(StateDir::open(&path).is_err());
        assert!(!elsewhere.exists());
        std::fs::remove_file(path.join(LOCK)).unwrap();
        let state = StateDir::open(&path).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, path.join("below")).unwrap();
        assert!(state.directory().below("below").is_err());
    }
}
