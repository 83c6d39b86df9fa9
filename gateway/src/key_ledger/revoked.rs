//! The secrets that were revoked: refused whatever a policy says, for the life of the process and, through a file in the state
//! directory, of those that follow.
//!
//! The file has mode 0600 and one line for each: digest, key id, time. A file that cannot be read keeps the gateway from
//! starting: nobody could say which keys it should refuse. Nothing is ever taken out; a key works again by getting a new secret.

use std::{
    collections::HashSet,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{
    secret::SecretDigest,
    state::{StateDir, directory::Directory},
};

/// The file's name in the state directory.
const FILE_NAME: &str = "revoked-keys";

/// The name of the next one while it is written.
const FRESH_NAME: &str = "revoked-keys.new";

/// The largest list: about half a million secrets.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

const HEADING: &str = "# Secrets of API keys that were revoked, by orket-gateway. A key whose secret stands here is refused; give it a new one.\n";

/// Why revocations cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file is there and cannot be read.
    #[error(
        "the list of revoked keys {} cannot be read: {source}; without it nobody knows which keys to refuse. It is a plain file that only the gateway's user can read or write (chmod 600), in a directory that only that user can write", path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of it is not one.
    #[error(
        "the list of revoked keys {} is broken in line {line}: it should be `sha256:<64 hex digits> <key id> <time>`. Mend the line, or take it out if its key need not be refused", path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// There is no place for it.
    #[error(
        "the key is refused until the gateway stops, and would be taken again after that if the policy still has it: {0}"
    )]
    Nowhere(String),
    /// It cannot be written.
    #[error(
        "the list of revoked keys {} cannot be written: {source}; the key is refused until the gateway stops, and would be taken again after that if the policy still has it", path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The digests of revoked secrets.
#[derive(Debug, Default)]
pub struct Revoked {
    /// Read by every request with a key, so without a lock.
    digests: ArcSwap<HashSet<SecretDigest>>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    place: Place,
    /// The file's lines without its heading.
    lines: String,
}

#[derive(Debug, Default)]
enum Place {
    /// This process only judges.
    #[default]
    Unasked,
    /// In the directory this process owns.
    Own(Arc<StateDir>),
    /// Nowhere, for this reason.
    Nowhere(String),
}

impl Revoked {
    /// Whether this secret was revoked.
    pub fn contains(&self, digest: &SecretDigest) -> bool {
        self.digests.load().contains(digest)
    }

    /// Whether a secret of the key `id` stands there.
    pub(super) fn names(&self, id: &str) -> bool {
        let kept = self.kept.lock();
        let mut lines = kept.lines.lines();
        lines.any(|line| line.split(' ').nth(1) == Some(id))
    }

    pub(super) fn keep_in(&self, state: Arc<StateDir>) -> Result<(), KeepError> {
        self.take_in(state.directory(), state.path())?;
        self.kept.lock().place = Place::Own(state);
        Ok(())
    }

    pub(super) fn read_from(&self, path: &Path) -> Result<(), KeepError> {
        // Looking makes nothing.
        if matches!(path.symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let directory = Directory::at(path).map_err(|source| KeepError::Read {
            path: path.join(FILE_NAME),
            source,
        })?;
        self.take_in(&directory, path)
    }

    pub(super) fn keep_nowhere(&self, why: String) {
        self.kept.lock().place = Place::Nowhere(why);
    }

    fn take_in(&self, directory: &Directory, path: &Path) -> Result<(), KeepError> {
        let path = path.join(FILE_NAME);
        let text = match directory.read(FILE_NAME, MAX_BYTES) {
            Ok(bytes) => String::from_utf8(bytes).map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => Err(e),
        };
        let text = text.map_err(|source| KeepError::Read {
            path: path.clone(),
            source,
        })?;
        let mut kept = self.kept.lock();
        let mut digests = HashSet::clone(&self.digests.load());
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let digest = line.split(' ').next().and_then(SecretDigest::parse);
            digests.insert(digest.ok_or_else(|| KeepError::Broken {
                path: path.clone(),
                line: number + 1,
            })?);
            let _ = writeln!(kept.lines, "{line}");
        }
        self.digests.store(digests.into());
        Ok(())
    }

    /// In force when this returns; on disk only after [`Self::keep`]. How many are new.
    pub(super) fn add(&self, id: &str, secrets: &[SecretDigest], now: Timestamp) -> usize {
        let mut kept = self.kept.lock();
        let mut digests = HashSet::clone(&self.digests.load());
        let mut added = 0;
        // What was asked for is no line of its own.
        let id: String = id.chars().filter(|c| !c.is_control()).collect();
        for digest in secrets {
            if digests.insert(*digest) {
                added += 1;
                let written = digest.written();
                let _ = writeln!(kept.lines, "{written} {id} {now:.0}");
            }
        }
        self.digests.store(digests.into());
        added
    }

    /// Writes all of it to disk, flushed when this returns. Also when nothing is new: the disk may have refused the last time.
    pub(super) fn keep(&self) -> Result<(), KeepError> {
        let kept = self.kept.lock();
        let state = match &kept.place {
            Place::Unasked => return Ok(()),
            Place::Nowhere(why) => return Err(KeepError::Nowhere(why.clone())),
            Place::Own(state) => state,
        };
        write(state.directory(), &kept.lines).map_err(|source| KeepError::Write {
            path: state.path().join(FILE_NAME),
            source,
        })
    }
}

/// Writes the whole file anew: it is there whole or as it was, and flushed when this returns.
fn write(directory: &Directory, lines: &str) -> io::Result<()> {
    directory.remove(FRESH_NAME)?;
    directory.create(FRESH_NAME, &[HEADING.as_bytes(), lines.as_bytes()])?;
    directory.rename(FRESH_NAME, directory, FILE_NAME)?;
    directory.sync()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn revoked_in(dir: &Path) -> Result<Revoked, KeepError> {
        let revoked = Revoked::default();
        let state = Arc::new(StateDir::open(dir).unwrap());
        revoked.keep_in(state).map(|()| revoked)
    }

    /// A list as somebody left it.
    fn leave(dir: &Path, text: &str, mode: u32) {
        let path = dir.join(FILE_NAME);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn it_is_kept_for_the_operator_alone_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let (a, b, c) = (
            SecretDigest::of(b"a"),
            SecretDigest::of(b"b"),
            SecretDigest::of(b"c"),
        );
        let now = Timestamp::UNIX_EPOCH;
        let first = revoked_in(&state).unwrap();
        assert_eq!(first.add("ci", &[a, b], now), 2);
        assert_eq!(first.add("ci", &[a], now), 0);
        first.keep().unwrap();
        drop(first);
        let second = revoked_in(&state).unwrap();
        assert!(second.contains(&a) && second.contains(&b) && !second.contains(&c));
        second.add("other", &[c], now);
        second.keep().unwrap();
        let text = fs::read_to_string(state.join(FILE_NAME)).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.ends_with(" other 1970-01-01T00:00:00Z\n"), "{text}");
        let mode = fs::metadata(state.join(FILE_NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_empty() {
        let dir = tempfile::tempdir().unwrap();
        leave(dir.path(), "# yes\nsha256:12 ci x\n", 0o600);
        assert!(matches!(
            revoked_in(dir.path()),
            Err(KeepError::Broken { line: 2, .. })
        ));
        fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
        fs::create_dir(dir.path().join(FILE_NAME)).unwrap();
        assert!(matches!(
            revoked_in(dir.path()),
            Err(KeepError::Read { .. })
        ));
    }

    #[test]
    fn what_others_could_have_written_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o620, 0o602, 0o640] {
            leave(dir.path(), "# none\n", mode);
            assert!(matches!(
                revoked_in(dir.path()),
                Err(KeepError::Read { .. })
            ));
        }
        leave(dir.path(), "# none\n", 0o600);
        assert!(revoked_in(dir.path()).is_ok());
    }

    #[test]
    fn without_a_place_it_is_in_force_and_said_not_to_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let a = SecretDigest::of(b"a");
        let owner = revoked_in(dir.path()).unwrap();
        owner.add("ci", &[a], Timestamp::UNIX_EPOCH);
        owner.keep().unwrap();
        let guest = Revoked::default();
        guest.read_from(dir.path()).unwrap();
        guest.keep_nowhere("another owns it".to_owned());
        assert!(guest.contains(&a), "the owner's list counts here, too");
        let b = SecretDigest::of(b"b");
        assert_eq!(guest.add("ci", &[b], Timestamp::UNIX_EPOCH), 1);
        assert!(matches!(guest.keep(), Err(KeepError::Nowhere(_))));
        assert!(guest.contains(&b));
    }

    #[test]
    fn what_cannot_be_written_is_in_force_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let revoked = revoked_in(dir.path()).unwrap();
        // A directory in its place cannot be replaced by a file.
        fs::create_dir(dir.path().join(FILE_NAME)).unwrap();
        let a = SecretDigest::of(b"a");
        assert_eq!(revoked.add("ci", &[a], Timestamp::UNIX_EPOCH), 1);
        assert!(matches!(revoked.keep(), Err(KeepError::Write { .. })));
        assert!(revoked.contains(&a));
        fs::remove_dir(dir.path().join(FILE_NAME)).unwrap();
        revoked.keep().unwrap();
        drop(revoked);
        assert!(revoked_in(dir.path()).unwrap().contains(&a));
    }
}
