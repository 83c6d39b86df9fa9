//! The secrets that were revoked: refused whatever a policy says, for the life of the process and, through a file in the state
//! directory, of those that follow.
//!
//! The file has mode 0600 and one line for each: digest, key id, time. A file that cannot be read keeps the gateway from
//! starting: nobody could say which keys it should refuse. Nothing is ever taken out; a key works again by getting a new secret.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::secret::SecretDigest;

/// The file's name in the state directory.
const FILE_NAME: &str = "revoked-keys";

const HEADING: &str = "# Secrets of API keys that were revoked, by orket-gateway. A key whose secret stands here is refused; give it a new one.\n";

/// Why revocations cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file is there and cannot be read.
    #[error(
        "the list of revoked keys {} cannot be read: {source}; without it nobody knows which keys to refuse. Make it readable by the gateway's user", path.display()
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
    file: Option<PathBuf>,
    /// The file's lines without its heading.
    lines: String,
}

impl Revoked {
    /// Whether this secret was revoked.
    pub fn contains(&self, digest: &SecretDigest) -> bool {
        self.digests.load().contains(digest)
    }

    pub(super) fn keep_in(&self, dir: &Path) -> Result<(), KeepError> {
        let path = dir.join(FILE_NAME);
        let mut kept = self.kept.lock();
        match fs::read_to_string(&path) {
            Ok(text) => {
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
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(KeepError::Read { path, source }),
        }
        kept.file = Some(path);
        Ok(())
    }

    /// In force when this returns; on disk only after [`Self::keep`]. How many are new.
    pub(super) fn add(&self, id: &str, secrets: &[SecretDigest], now: Timestamp) -> usize {
        let mut kept = self.kept.lock();
        let mut digests = HashSet::clone(&self.digests.load());
        let mut added = 0;
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
        let Some(path) = &kept.file else {
            return Ok(());
        };
        write(path, &kept.lines).map_err(|source| KeepError::Write {
            path: path.clone(),
            source,
        })
    }
}

/// Writes the whole file anew: it is there whole or as it was, and flushed when this returns.
fn write(path: &Path, lines: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if !dir.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
    }
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    io::Write::write_all(&mut file, format!("{HEADING}{lines}").as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn revoked_in(dir: &Path) -> Result<Revoked, KeepError> {
        let revoked = Revoked::default();
        revoked.keep_in(dir).map(|()| revoked)
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
        fs::write(dir.path().join(FILE_NAME), "# yes\nsha256:12 ci x\n").unwrap();
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
        assert!(revoked_in(dir.path()).unwrap().contains(&a));
    }
}
