//! The state directory: what has to outlive the program, and the lock that says whose it is.
//!
//! One process owns it. Everything below is opened from the directory's own handle, never through a symlink,
//! and belongs to this user alone: what lies there was proven once and is believed later.

pub mod directory;

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use self::directory::Directory;

/// The file that is locked as long as a gateway owns the directory.
const LOCK: &str = "gateway.lock";

/// How often an owned directory is looked at before it is somebody else's, and how long between.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

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
        let mut looks = 0;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        directory,
                        _lock: lock.into(),
                    });
                }
                // A command that only looks whether anybody owns it is done in a moment.
                Err(rustix::io::Errno::WOULDBLOCK) if looks < LOOKS => {
                    looks += 1;
                    std::thread::sleep(BETWEEN_LOOKS);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(StateError::Owned {
                        path: path.to_owned(),
                    });
                }
                Err(e) => return Err(unusable(e.into())),
            }
        }
    }

    /// Whether a running gateway owns the state directory at `path`. Changes nothing.
    ///
    /// # Errors
    /// That it cannot be told; not found, where none ever did.
    pub fn is_owned(path: &Path) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let lock = rustix::fs::open(path.join(LOCK), flags, Mode::empty())?;
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(e.into()),
        }
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
