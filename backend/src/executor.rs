//! Starting, following and ending attempts: one supervised command each.
//!
//! [`Executor::start`] writes a specification into a directory of its own and starts this very program again as
//! the attempt's supervisor (see [`crate::supervisor`]), which outlives us. Everything that happens afterwards is
//! read from the files the supervisor writes, so an attempt that is [adopted](Executor::adopt) by a later
//! process looks exactly like one that was just started: output from a sequence number on, then its end.
//!
//! It must never signal a process by number alone (a pid may have been given to a stranger: identity is pid, start
//! time and boot), and never call an attempt ended whose processes may still live.
//!
//! Next: [`crate::supervisor`] for the other side of the files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::mpsc;

mod attempt;

pub use attempt::{Attempt, Canceler};

pub use crate::supervisor::{
    exit::{Exit, Outcome},
    identity::Identity,
    isolation::Isolation,
    record::{OutputRecord, Stream},
};

/// What to run, and within which bounds.
#[derive(Debug, Clone)]
pub struct Launch {
    /// `<run_id>.<epoch>`: names the attempt and its directory; ASCII letters, digits, `.`, `_` and `-`, at most 128, not starting with `.`.
    pub id: String,
    /// Program and arguments, never a shell string. At least one element.
    pub argv: Vec<String>,
    /// The command's environment, on top of a minimal one; nothing of the backend's own reaches it.
    pub env: BTreeMap<String, String>,
    /// Where the command starts; must exist.
    pub workdir: PathBuf,
    /// Wall-clock time after which the tree is ended and the outcome is [`Outcome::TimedOut`].
    pub timeout: Option<Duration>,
    /// Time between TERM and KILL.
    pub grace: Duration,
    /// Bytes of output kept (both streams together); what comes after is dropped and counted.
    pub output_cap: u64,
}

/// What an attempt has to report, in order. [`Update::Ended`] is the last one, always.
#[derive(Debug, Clone)]
pub enum Update {
    /// Output, in sequence. Never empty.
    Output(Vec<OutputRecord>),
    /// The whole process tree is gone and this is how it ended.
    Ended(Exit),
}

/// What was found of an attempt of an earlier process.
#[derive(Debug)]
pub enum Adoption {
    /// Its updates follow, from the sequence number asked for: it runs, or it ended while nobody looked (then the
    /// remaining output comes, then [`Update::Ended`]; [`Outcome::Lost`] when its supervisor died without a word).
    Running(Attempt),
    /// Nothing is on disk that could be followed: it was never started, or was forgotten.
    Vanished {
        /// Why, for the log and the run's record.
        detail: String,
    },
}

/// Why a launch did not even reach its supervisor. Nothing runs and nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The specification itself is wrong; starting it again cannot help.
    #[error("the launch is not valid: {0}")]
    Invalid(String),
    /// An attempt of that id exists already.
    #[error("an attempt {0} exists already; adopt it instead of starting it twice")]
    Exists(String),
    /// The machine refused: disk, processes, permissions. Trying again later may help.
    #[error("cannot start the supervisor of {id}: {source}")]
    Io {
        /// The attempt.
        id: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why an attempt could not be adopted, listed or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Its files cannot be read or removed.
    #[error("cannot read attempt {id}: {source}")]
    Io {
        /// The attempt.
        id: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It still runs, so it may not be forgotten.
    #[error("attempt {0} still runs; cancel it first")]
    StillRunning(String),
}

/// Starts attempts and finds them again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Executor {
    root: PathBuf,
    program: PathBuf,
}

impl Executor {
    /// An executor whose attempts lie under `root` (created, mode 0700) and whose supervisors are `program`, this
    /// very program (`std::env::current_exe()`).
    pub fn new(root: impl Into<PathBuf>, program: impl Into<PathBuf>) -> std::io::Result<Self> {
        Ok(Self { root: root.into(), program: program.into() })
    }

    /// The isolation level an attempt reaches on this host with this configuration.
    pub fn isolation(&self) -> Isolation {
        Isolation::reached()
    }

    /// Starts a supervisor for this launch. Returns when the supervisor runs and its identity is known.
    pub async fn start(&self, launch: Launch) -> Result<Attempt, LaunchError> {
        Err(LaunchError::Invalid(format!("{} {}: to come", self.program.display(), launch.id)))
    }

    /// Takes over an attempt that an earlier process started; output comes from `after_seq` (exclusive; 0 = all) on.
    pub async fn adopt(&self, id: &str, after_seq: u64) -> Result<Adoption, AdoptError> {
        Ok(Adoption::Vanished { detail: format!("{id} after {after_seq} in {}", self.root.display()) })
    }

    /// The ids of all attempts that have a directory, whatever became of them.
    pub fn list(&self) -> std::io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Removes the files of an ended attempt. Forgetting what is not there is fine.
    pub async fn forget(&self, id: &str) -> Result<(), AdoptError> {
        let _ = (id, Path::new("."));
        Ok(())
    }
}

/// How many updates may wait for their reader before the reading of the files pauses.
const UPDATES_WAITING: usize = 16;

/// The receiving end of an attempt's updates.
pub type Updates = mpsc::Receiver<Update>;
