//! The directory of one attempt: what backend and supervisor say to each other, and nothing else.
//!
//! | file | written by | says |
//! |---|---|---|
//! | `spec.json` | backend | what to run; nothing changes it afterwards |
//! | `wake` | both | a pipe; a byte in it means "look again" |
//! | `claim.json` | whoever is first | the supervisor's identity, or that the attempt was given up before it began |
//! | `cancel` | backend | end the tree |
//! | `output` | supervisor | records, see [`super::record`] |
//! | `exit.json` | supervisor | the end; the last thing written, once, durable |
//! | `supervisor.log` | supervisor | its own complaints |
//! | `tmp/` | the command | its temporary directory; emptied at the end |
//! | `root/` | nobody | what the command sees is built on it, in a mount namespace of its own |
//!
//! At the level `group` a command that runs as our user can write here, too; from `confined` on it
//! reaches nothing but `tmp/`. So nothing is opened that is not a plain file, of our own user, that no
//! other may change; an exit counts only once its supervisor is gone, and whose supervisor is our own
//! child must have ended well, besides. What remains at `group`: a command whose supervisor an earlier
//! process started can kill it and leave an exit of its own.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{exit::Exit, identity::Identity};
use crate::confine::Plan;

/// The largest file that is read; far more than a specification can be.
const READ_MAX: u64 = 64 * 1024 * 1024;

/// What the supervisor is to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// Unique among all attempts of all backends: the marker in the command's environment.
    pub(crate) nonce: String,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) workdir: PathBuf,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) grace_ms: u64,
    pub(crate) output_cap: u64,
    /// How the command is confined.
    #[serde(default = "Plan::open")]
    pub(crate) plan: Plan,
}

/// Who has the attempt: exactly one of the two can ever be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Claim {
    /// A supervisor, which from now on reports the end.
    Supervisor(Identity),
    /// A backend that found no supervisor: whoever comes later must not start the command.
    Abandoned,
}

/// Why the launcher could not become the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LaunchRefusal {
    NotFound(String),
    Failed(String),
}

/// The paths of one attempt.
#[derive(Debug, Clone)]
pub(crate) struct AttemptDir {
    dir: PathBuf,
}

impl AttemptDir {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.dir.join("output")
    }

    pub(crate) fn wake(&self) -> PathBuf {
        self.dir.join("wake")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("supervisor.log")
    }

    /// The end of what the supervisor complained about, for a person.
    pub(crate) fn last_words(&self) -> String {
        const LENGTH: u64 = 500;
        let read = || -> io::Result<Vec<u8>> {
            let mut file = open_regular(&self.log())?;
            let start = file.metadata()?.len().saturating_sub(LENGTH);
            file.seek(io::SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(LENGTH).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// Where the root that the command sees is built.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Makes the directory (mode 0700, unless another user has to get through it) with everything a
    /// supervisor needs. `AlreadyExists` when there is one.
    pub(crate) fn create(&self, spec: &Spec) -> io::Result<()> {
        private_dir(&self.dir)?;
        let prepare = || {
            let way = fs::Permissions::from_mode(spec.plan.way());
            fs::set_permissions(&self.dir, way)?;
            private_dir(&self.tmp())?;
            if let Some(user) = spec.plan.user {
                chown(self.tmp(), Some(user.uid), Some(user.gid))?;
            }
            if spec.plan.namespaces.is_some() {
                private_dir(&self.root())?;
            }
            rustix::fs::mkfifoat(
                rustix::fs::CWD,
                self.wake(),
                rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            )?;
            private_file(&self.output())?;
            let mut file = private_file(&self.dir.join("spec.json"))?;
            file.write_all(&serde_json::to_vec(spec)?)
        };
        prepare().inspect_err(|_| {
            // Best effort: the attempt is reported as not started either way.
            let _ = fs::remove_dir_all(&self.dir);
        })
    }

    pub(crate) fn spec(&self) -> io::Result<Spec> {
        read_json(&self.dir.join("spec.json"))?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the attempt has no spec.json"))
    }

    /// Who has the attempt. A claim appears whole, so one that cannot be understood was torn by the
    /// fall of a machine, and whoever wrote it fell with it.
    pub(crate) fn claim(&self) -> io::Result<Option<Claim>> {
        match read_json(&self.dir.join("claim.json")) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(Claim::Abandoned)),
            other => other,
        }
    }

    /// Writes the claim if there is none; returns the one that stands.
    pub(crate) fn stake(&self, claim: &Claim) -> io::Result<Claim> {
        let (draft, mut file) = self.draft("claim")?;
        file.write_all(&serde_json::to_vec(claim)?)?;
        // A link appears whole or not at all, and only where there is none.
        let linked = fs::hard_link(&draft, self.dir.join("claim.json"));
        fs::remove_file(&draft)?;
        match linked {
            Ok(()) => Ok(claim.clone()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self
                .claim()?
                .ok_or_else(|| io::Error::other("the claim vanished")),
            Err(error) => Err(error),
        }
    }

    /// A file that nobody else writes to: neither another process, nor another thread of this one,
    /// nor a command that put something in its place.
    fn draft(&self, name: &str) -> io::Result<(PathBuf, File)> {
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
            let path = self
                .dir
                .join(format!("{name}.{}.{number}", std::process::id()));
            match private_file(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for the end. Survives us; not fsynced, for a request need not survive the machine on
    /// which the tree dies.
    pub(crate) fn request_cancel(&self) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(WARY)
            .open(self.dir.join("cancel"))
            .map(drop)
    }

    /// Whatever lies there asks for the end.
    pub(crate) fn cancel_requested(&self) -> bool {
        self.dir.join("cancel").symlink_metadata().is_ok()
    }

    /// Whether nothing was written here since a supervisor was started: no output, no end.
    pub(crate) fn is_untouched(&self) -> bool {
        let empty = |path: PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.len() == 0);
        empty(self.output()) && matches!(self.exit(), Ok(None))
    }

    /// Removes what the command left in its temporary directory, and the directory.
    pub(crate) fn clear_tmp(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.tmp()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The end, if there was one. It is replaced whole and synced before; anything else is none.
    pub(crate) fn exit(&self) -> io::Result<Option<Exit>> {
        match read_json(&self.dir.join("exit.json")) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            other => other,
        }
    }

    /// Writes the end: durable once this returns.
    pub(crate) fn write_exit(&self, exit: &Exit) -> io::Result<()> {
        let (draft, mut file) = self.draft("exit")?;
        let place = self.dir.join("exit.json");
        let written = file
            .write_all(&serde_json::to_vec(exit)?)
            .and_then(|()| file.sync_all())
            .and_then(|()| match fs::rename(&draft, &place) {
                // Only the command can have put a directory there.
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                    fs::remove_dir_all(&place)?;
                    fs::rename(&draft, &place)
                }
                renamed => renamed,
            });
        if let Err(error) = written {
            // What a full disk did not take whole must not fill it further.
            let _ = fs::remove_file(&draft);
            return Err(error);
        }
        File::open(&self.dir)?.sync_all()
    }
}

/// Makes a directory only we can enter.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// A command that runs as our user can put anything in the place of a file: opening it must neither
/// block nor lead elsewhere.
const WARY: i32 = OFlags::NONBLOCK
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .bits()
    .cast_signed();

/// Opens a regular file of our own user for reading that nobody else may write to. `InvalidData`
/// when it is anything else.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let other = || io::Error::new(io::ErrorKind::InvalidData, "not a regular file");
    let opened = OpenOptions::new().read(true).custom_flags(WARY).open(path);
    let file = opened.map_err(|error| {
        let kinds = [rustix::io::Errno::LOOP, rustix::io::Errno::NXIO];
        if kinds
            .iter()
            .any(|kind| error.raw_os_error() == Some(kind.raw_os_error()))
        {
            other()
        } else {
            error
        }
    })?;
    let found = file.metadata()?;
    let ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if found.is_file() && ours {
        Ok(file)
    } else {
        Err(other())
    }
}

/// Parses a file that appears whole; `None` when it is not there, `InvalidData` when it is not what
/// was written there.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(READ_MAX).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn what_is_not_a_plain_file_is_not_read_and_holds_nobody_up() {
        let dir = AttemptDir::new(tempfile::tempdir().unwrap().keep());
        let place = dir.path().join("exit.json");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &place, mode).unwrap();
        assert_eq!(dir.exit().unwrap(), None);
        fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &place).unwrap();
        assert_eq!(dir.exit().unwrap(), None);
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        fs::write(place.join("full"), "").unwrap();
        assert_eq!(dir.exit().unwrap(), None);
        let exit = Exit {
            outcome: super::super::exit::Outcome::Canceled,
            cpu_ms: 0,
            memory_peak_bytes: 0,
            dropped_bytes: 0,
            ended_at: jiff::Timestamp::UNIX_EPOCH,
        };
        dir.write_exit(&exit).unwrap();
        assert_eq!(dir.exit().unwrap(), Some(exit));
        fs::remove_dir_all(dir.path()).unwrap();
    }

    #[test]
    fn what_others_may_write_to_is_not_believed() {
        let dir = AttemptDir::new(tempfile::tempdir().unwrap().keep());
        dir.stake(&Claim::Abandoned).unwrap();
        let claim = dir.path().join("claim.json");
        fs::set_permissions(&claim, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(open_regular(&claim).is_err());
        fs::set_permissions(&claim, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(open_regular(&claim).is_ok());
        if rustix::process::geteuid().is_root() {
            chown(&claim, Some(65_534), None).unwrap();
            assert!(open_regular(&claim).is_err());
        }
        fs::remove_dir_all(dir.path()).unwrap();
    }

    #[test]
    fn of_two_claims_the_first_stands() {
        let dir = AttemptDir::new(tempfile::tempdir().unwrap().keep());
        assert_eq!(dir.claim().unwrap(), None);
        assert_eq!(dir.stake(&Claim::Abandoned).unwrap(), Claim::Abandoned);
        let late = Claim::Supervisor(Identity::own().unwrap());
        assert_eq!(dir.stake(&late).unwrap(), Claim::Abandoned);
        assert_eq!(dir.claim().unwrap(), Some(Claim::Abandoned));
        fs::remove_dir_all(dir.path()).unwrap();
    }
}
