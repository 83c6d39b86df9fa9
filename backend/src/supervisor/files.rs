//! The directory of one attempt: what backend and supervisor say to each other, and nothing else.
//!
//! | file | written by | says |
//! |---|---|---|
//! | `spec.json` | backend | what to run; nothing changes it afterwards |
//! | `wake` | both | a pipe; a byte in it means "look again" |
//! | `claim.json` | whoever is first | the supervisor's identity, or that the attempt was given up before it began |
//! | `cancel` | backend | end the tree |
//! | `output` | supervisor | records, see [`super::record`] |
//! | `launch_error.json` | launcher | why the command could not be executed |
//! | `exit.json` | supervisor | the end; the last thing written, once, durable |
//! | `supervisor.log` | supervisor | its own complaints |
//! | `tmp/` | the command | its temporary directory |

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{exit::Exit, identity::Identity};

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
#[derive(Debug, Clone, Serialize, Deserialize)]
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

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// Makes the directory (mode 0700) with everything a supervisor needs. `AlreadyExists` when
    /// there is one.
    pub(crate) fn create(&self, spec: &Spec) -> io::Result<()> {
        private_dir(&self.dir)?;
        let prepare = || {
            private_dir(&self.tmp())?;
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
        let draft = self.draft("claim");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
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

    /// A name that nobody else writes to, neither another process nor another thread of this one.
    fn draft(&self, name: &str) -> PathBuf {
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
        self.dir
            .join(format!("{name}.{}.{number}", std::process::id()))
    }

    /// Asks for the end. Survives us; not fsynced, for a request need not survive the machine on
    /// which the tree dies.
    pub(crate) fn request_cancel(&self) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join("cancel"))
            .map(drop)
    }

    pub(crate) fn cancel_requested(&self) -> bool {
        self.dir.join("cancel").exists()
    }

    pub(crate) fn refuse_launch(&self, refusal: &LaunchRefusal) -> io::Result<()> {
        let mut file = private_file(&self.dir.join("launch_error.json"))?;
        file.write_all(&serde_json::to_vec(refusal)?)
    }

    pub(crate) fn launch_refusal(&self) -> io::Result<Option<LaunchRefusal>> {
        read_json(&self.dir.join("launch_error.json"))
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
        let draft = self.draft("exit");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&serde_json::to_vec(exit)?)?;
        file.sync_all()?;
        fs::rename(&draft, self.dir.join("exit.json"))?;
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

/// Parses a file that appears whole; `None` when it is not there.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

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
