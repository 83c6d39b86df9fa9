//! Starting, following and ending attempts: one supervised command each.
//!
//! [`Executor::start`] writes a specification into a directory of its own and starts this very
//! program again as the attempt's supervisor (see [`crate::supervisor`]), which outlives us.
//! Everything that happens afterwards is read from the files the supervisor writes, so an attempt
//! that is [adopted](Executor::adopt) by a later process looks exactly like one that was just
//! started: output from a sequence number on, then its end.
//!
//! It must never signal a process by number alone (a pid may have been given to a stranger:
//! identity is pid, start time and boot), and never call an attempt ended whose processes may still
//! live.
//!
//! Next: [`crate::supervisor`] for the other side of the files.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::Instant,
};

use crate::{
    confine::{Plan, cgroup::Group},
    crash_point::CrashPoint,
    supervisor::{
        SUPERVISE,
        files::{AttemptDir, Claim, Spec},
        tree,
    },
};

mod attempt;
mod follow;
mod launch;
pub mod orphans;

pub use attempt::{Attempt, Canceler};
use follow::{Follower, Terms, wait_gone};
pub use launch::Launch;
use launch::{is_safe_name, specify, validate};

/// So late the backend may hear of output at most; of what is kept it hears sooner.
pub(crate) const HEARD_WITHIN: Duration = crate::supervisor::intake::TELL_PERIOD_DROPPING;

pub use crate::supervisor::{
    exit::{Exit, Outcome},
    identity::Identity,
    isolation::Isolation,
    record::{OutputRecord, RecordReader as OutputReader, Stream},
};

/// What an attempt has to report, in order. The last one, always, is [`Update::Ended`] or
/// [`Update::Unbegun`].
#[derive(Debug, Clone)]
pub enum Update {
    /// Output, in sequence. Never empty.
    Output(Vec<OutputRecord>),
    /// The whole process tree is gone and this is how it ended.
    Ended(Exit),
    /// Its supervisor has ended before it took the attempt on, as it must on a full disk: nothing was
    /// executed, and nothing of it will be.
    Unbegun {
        /// Why, for the log and the run's record.
        detail: String,
    },
}

/// What was found of an attempt of an earlier process.
#[derive(Debug)]
pub enum Adoption {
    /// Its updates follow, from the sequence number asked for: it runs, or it ended while nobody
    /// looked (then the remaining output comes, then [`Update::Ended`]; [`Outcome::Lost`] when its
    /// supervisor died without a word).
    Running(Attempt),
    /// Nothing is on disk that could be followed: it was never started, or was forgotten.
    Vanished {
        /// Whether it is certain that nothing of it was executed, and that nothing will be: it was
        /// given up just now, before its supervisor took it on.
        unbegun: bool,
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
    plan: Arc<Plan>,
    level: Isolation,
}

impl Executor {
    /// An executor whose attempts lie under `root` (created, mode 0700) and whose supervisors are
    /// `program`, this very program: `/proc/self/exe`, which stays right when the file is replaced
    /// by an upgrade.
    ///
    /// Marks every descriptor of this process, but the standard three, to be closed in children:
    /// one that we inherited ourselves must not reach a command.
    pub fn new(root: impl Into<PathBuf>, program: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700))?;
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        Ok(Self {
            root: root.canonicalize()?,
            program: program.into(),
            plan: Arc::new(Plan::open()),
            level: Isolation::Group,
        })
    }

    /// The same executor, whose attempts from now on are confined by this plan, which is known to
    /// reach this level.
    pub fn confining(self, plan: Plan, level: Isolation) -> io::Result<Self> {
        fs::set_permissions(&self.root, fs::Permissions::from_mode(plan.way()))?;
        Ok(Self {
            plan: Arc::new(plan),
            level,
            ..self
        })
    }

    /// The isolation level an attempt reaches on this host with this configuration.
    pub fn isolation(&self) -> Isolation {
        self.level
    }

    /// Makes these, which lie in `dir`, the property of the user that commands become, if they become
    /// another one.
    pub(crate) fn hand_over(&self, dir: &Path, paths: &[PathBuf]) -> io::Result<()> {
        let Some(user) = self.plan.user else {
            return Ok(());
        };
        fs::set_permissions(dir, fs::Permissions::from_mode(self.plan.way()))?;
        for path in paths {
            lchown(path, Some(user.uid), Some(user.gid))?;
        }
        Ok(())
    }

    /// Starts a supervisor for this launch. Returns when the supervisor exists and its identity is
    /// known; whether the command could be executed is reported by [`Update::Ended`].
    pub async fn start(&self, launch: Launch) -> Result<Attempt, LaunchError> {
        validate(&launch)?;
        let dir = AttemptDir::new(self.root.join(&launch.id));
        let id = launch.id.clone();
        let spec = specify(launch, &self.plan);
        let program = self.program.clone();
        let prepared = spawn_blocking({
            let dir = dir.clone();
            move || spawn(&program, &dir, spec)
        });
        let (child, identity, reader, terms) =
            match prepared.await.map_err(io::Error::other).flatten() {
                Ok(started) => started,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(LaunchError::Exists(id));
                }
                Err(source) => return Err(LaunchError::Io { id, source }),
            };
        Ok(self.follow(id, dir, identity, Some(child), reader, terms))
    }

    /// Takes over an attempt that an earlier process started; output comes from `after_seq`
    /// (exclusive; 0 = all) on. May be called again for an attempt that ended: it reports the same
    /// end until it is forgotten.
    pub async fn adopt(&self, id: &str, after_seq: u64) -> Result<Adoption, AdoptError> {
        let failed = |source| AdoptError::Io {
            id: id.to_owned(),
            source,
        };
        let vanished = |unbegun, detail: &str| {
            Ok(Adoption::Vanished {
                unbegun,
                detail: detail.to_owned(),
            })
        };
        let Some(dir) = self.dir(id).filter(|dir| dir.path().is_dir()) else {
            return vanished(false, "no trace of it is on disk: it was never started");
        };
        let look = spawn_blocking({
            let dir = dir.clone();
            move || {
                // One that is there is read even where nothing can be written.
                let (claim, is_first) = match dir.claim()? {
                    Some(claim) => (claim, false),
                    // Without a claim nothing has run yet, and with ours standing nothing will.
                    None => (dir.stake(&Claim::Abandoned)?, true),
                };
                match claim {
                    Claim::Supervisor(identity) => {
                        let reader = unless_gone(OutputReader::open(&dir.output(), after_seq))?
                            .map_or_else(OutputReader::nothing, Ok)?;
                        let spec = unless_gone(dir.spec())?;
                        let terms = Terms::new(spec, &identity);
                        Ok(Ok((identity, reader, terms)))
                    }
                    // A command that removed the claim has left traces.
                    Claim::Abandoned => Ok(Err(is_first && dir.is_untouched())),
                }
            }
        });
        match look
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(failed)?
        {
            Ok((identity, reader, terms)) => Ok(Adoption::Running(self.follow(
                id.to_owned(),
                dir,
                identity,
                None,
                reader,
                terms,
            ))),
            Err(unbegun) => vanished(unbegun, "it was given up before its supervisor began"),
        }
    }

    /// Ends a supervisor of which nothing but its identity is left, and all that is below it; whether
    /// it is gone. Gives up, and says so in the log, on one that the kernel does not let go.
    pub async fn end_traceless(&self, supervisor: &Identity) -> bool {
        let limit = Instant::now() + LEAVING;
        while supervisor.is_alive() {
            if Instant::now() >= limit {
                tracing::error!(pid = supervisor.pid, "a supervisor does not end");
                return false;
            }
            let root = supervisor.clone();
            let killed = spawn_blocking(move || match tree::kill_below(&root)? {
                0 => root.signal(Signal::KILL).map(drop),
                _ => Ok(()),
            });
            if let Err(error) = killed.await.map_err(io::Error::other).flatten() {
                tracing::error!(pid = supervisor.pid, %error, "a supervisor cannot be ended");
            }
            wait_gone(supervisor, TRACELESS_PERIOD).await;
        }
        true
    }

    /// The output of an attempt from its beginning, for whoever wants to read it beside its
    /// updates.
    pub fn output(&self, id: &str) -> io::Result<OutputReader> {
        let dir = self.dir(id).ok_or(io::ErrorKind::NotFound)?;
        OutputReader::open(&dir.output(), 0)
    }

    /// The ids of all attempts that have a directory, whatever became of them.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            ids.extend(
                entry?
                    .file_name()
                    .into_string()
                    .ok()
                    .filter(|name| is_safe_name(name)),
            );
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Removes the files of an ended attempt. Forgetting what is not there is fine.
    pub async fn forget(&self, id: &str) -> Result<(), AdoptError> {
        let failed = |source| AdoptError::Io {
            id: id.to_owned(),
            source,
        };
        let Some(dir) = self.dir(id).filter(|dir| dir.path().is_dir()) else {
            return Ok(());
        };
        // A claim that is there needs no room on a disk that has none.
        let claim = match dir.claim().map_err(failed)? {
            Some(claim) => claim,
            None => match dir.stake(&Claim::Abandoned) {
                // Whoever comes later finds no folder to claim.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => Claim::Abandoned,
                staked => staked.map_err(failed)?,
            },
        };
        if let Claim::Supervisor(supervisor) = claim {
            // One that has written its end is on its way out; one that has not still has a command.
            let limit = if dir.exit().map_err(failed)?.is_some() {
                LEAVING
            } else {
                Duration::ZERO
            };
            if supervisor.is_alive() && !wait_gone(&supervisor, limit).await {
                return Err(AdoptError::StillRunning(id.to_owned()));
            }
        }
        let plan = Arc::clone(&self.plan);
        let removed = spawn_blocking(move || {
            // One that never had a supervisor has left its group.
            let nonce = dir.spec().map(|spec| spec.nonce);
            if let (Some(base), Ok(nonce)) = (&plan.cgroups, nonce)
                && is_safe_name(&nonce)
            {
                base.group(&nonce).remove();
            }
            fs::remove_dir_all(dir.path())
        })
        .await;
        match removed.map_err(io::Error::other).flatten() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn dir(&self, id: &str) -> Option<AttemptDir> {
        is_safe_name(id).then(|| AttemptDir::new(self.root.join(id)))
    }

    fn follow(
        &self,
        id: String,
        dir: AttemptDir,
        identity: Identity,
        child: Option<Child>,
        reader: OutputReader,
        terms: Terms,
    ) -> Attempt {
        let (sender, updates) = mpsc::channel(UPDATES_WAITING);
        let (asked, asked_of) = watch::channel(None);
        let (heard, heard_of) = watch::channel(Instant::now());
        let follower = Follower {
            dir: dir.clone(),
            identity: identity.clone(),
            child,
            reader,
            updates: sender,
            heard,
            terms,
            asked: asked_of,
            forced: false,
        };
        tokio::spawn(follower.run());
        Attempt {
            id,
            identity: identity.clone(),
            isolation: self.isolation(),
            updates,
            heard: heard_of,
            canceler: Canceler {
                dir,
                supervisor: identity,
                asked: Arc::new(asked),
            },
        }
    }
}

/// How many updates may wait for their reader before the reading of the files pauses.
const UPDATES_WAITING: usize = 16;
/// How long what was killed may take to be gone before it is looked for again.
const TRACELESS_PERIOD: Duration = Duration::from_millis(20);
/// How long a supervisor that has written its end may take to leave.
const LEAVING: Duration = Duration::from_secs(5);

/// The receiving end of an attempt's updates.
pub type Updates = mpsc::Receiver<Update>;

/// What was read of a file, if it is there and whole: it may have been torn by the fall of a machine,
/// or removed by the command.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The control group of an attempt.
fn group_of(spec: &Spec) -> Option<Group> {
    let base = spec.plan.cgroups.as_ref();
    base.map(|base| base.group(&spec.nonce))
}

/// Makes the attempt's directory and its supervisor. On failure neither is left behind.
fn spawn(
    program: &Path,
    dir: &AttemptDir,
    spec: Spec,
) -> io::Result<(Child, Identity, OutputReader, Terms)> {
    dir.create(&spec)?;
    CrashPoint::AttemptPrepared.reached();
    let group = group_of(&spec);
    let start = || {
        if let Some(base) = &spec.plan.cgroups {
            base.create(&spec.nonce, &spec.plan.limits)?;
        }
        let log = fs::OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.log())?;
        let reader = OutputReader::open(&dir.output(), 0)?;
        let mut command = Command::new(program);
        command
            .arg0("orket-supervisor")
            .arg(SUPERVISE)
            .arg(dir.path())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = orphans::start(&mut command)?;
        // It is our child and not reaped: its number cannot belong to anyone else.
        let identity = Identity::of(child.id())?;
        Ok((child, identity, reader))
    };
    let started = start().map(|(child, identity, reader)| {
        let terms = Terms::new(Some(spec), &identity);
        (child, identity, reader, terms)
    });
    started.inspect_err(|_: &io::Error| {
        if let Some(group) = &group {
            group.remove();
        }
        let _ = dir.stake(&Claim::Abandoned);
        let _ = fs::remove_dir_all(dir.path());
    })
}
