//! The state directory: what has to outlive the program, and the lock that says whose it is.
//!
//! One process owns it. Everything below is opened from the directory's own handle, never through a symlink,
//! and belongs to this user alone: what lies there was proven once and is believed later.

pub mod directory;

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use self::directory::Directory;

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
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                directory,
                _lock: lock.into(),
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::Owned {
                path: path.to_owned(),
            }),
            Err(e) => Err(unusable(e.into())),
        }
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
        drop(first);
        assert!(StateDir::open(&path).is_ok());
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
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
