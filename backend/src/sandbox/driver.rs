//! What a driver does for sandboxes, and which drivers there are.
//!
//! A driver makes and removes what a sandbox consists of and says what it sees. It decides nothing:
//! states, reasons, ports and times are its caller's. A new driver is one file and one field in
//! [`Drivers`].

use std::{fmt::Debug, io, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    docker::DockerDriver,
    process::ProcessDriver,
    spec::{Plan, Spec},
    stack::Owner,
};
use crate::{
    executor::{Executor, Isolation, OutputRecord},
    sandbox_state::Reason,
    settings,
    store::Store,
    work::Invalid,
};

/// What makes sandboxes.
///
/// **Order.** For one sandbox calls come one at a time: `prepare` and `start`, once more after a fault whose
/// reason [passes by itself](Reason::may_pass), or `adopt` once in a later process (`give_up` may
/// come while `start` goes on); then `look` any number of times; then `end`, again and again until it succeeds; then `remove` likewise. `logs`,
/// `exec`, `holdings` and `reclaim` may come at any time.
///
/// **Concurrency.** Calls for different sandboxes come at the same time.
///
/// **Idempotence.** `end`, `remove` and `reclaim` are safe for a sandbox that was never started, was
/// half started, or is gone already; `start` goes on with what an earlier `start` left.
///
/// **Restart.** The process may be killed within any call. What such a call set going must be found
/// and ended by `end` in a later process, before that says that all are gone. A driver keeps nothing
/// in memory that cannot be found again.
///
/// **Truth.** `Ok` of `end`, `remove` and `reclaim` means that it was looked and nothing was seen. A
/// driver that cannot see says so; it never takes silence for an end. It touches nothing that does
/// not carry the mark of this store.
///
/// **Time.** Every call but `changed`, `disturbed` and `attend` is bounded.
#[async_trait]
pub trait SandboxDriver: Debug + Send + Sync {
    /// Its name, as stored with each sandbox.
    fn name(&self) -> &'static str;

    /// The isolation level that services reach.
    fn isolation(&self) -> Isolation;

    /// Whether something of its own listens on the ports of services and takes connections also while
    /// a service does not.
    fn relays_ports(&self) -> bool {
        false
    }

    /// Whether a sandbox could be made now; what to do about it when not.
    async fn ready(&self) -> Result<(), Unready> {
        Ok(())
    }

    /// What it works with, for people.
    async fn describe(&self) -> Description {
        Description {
            name: self.name(),
            ..Description::default()
        }
    }

    /// Fetches and builds what making it needs. May be given up at any moment; nothing of the sandbox runs
    /// then, and `remove` finds what there is.
    async fn prepare(&self, _plan: &Plan) -> Result<(), Fault> {
        Ok(())
    }

    /// Makes everything of the plan; what is waited for in services has this long. On a fault some of it may
    /// exist: `end` follows.
    async fn start(&self, plan: &Plan, limit: Duration) -> Result<(), Fault>;

    /// A `start` that goes on now shall return soon, however it ends. May come again and again, also before
    /// it has begun anything.
    fn give_up(&self, _sandbox: &str) {}

    /// Takes over what an earlier process started. A fault says that some of it is not there.
    async fn adopt(&self, plan: &Plan) -> Result<(), Fault>;

    /// What every service of the plan is at this moment, in its order.
    async fn look(&self, plan: &Plan) -> Vec<Seen>;

    /// Returns when a service may have ended; never, if none is known.
    async fn changed(&self, id: &str);

    /// Ends all processes. `Ok` only after all were seen gone.
    async fn end(&self, plan: &Plan) -> io::Result<()>;

    /// Removes everything else. `Ok` only after it was seen gone. Called only after `end`
    /// succeeded.
    async fn remove(&self, plan: &Plan) -> io::Result<()>;

    /// The output of a service from its beginning; it may still grow.
    fn logs(&self, plan: &Plan, service: &str) -> io::Result<Box<dyn LogSource>>;

    /// All that carries the mark of this store, by sandbox, whether there is a record of it or not.
    /// Empty where nothing can outlive its record.
    async fn holdings(&self) -> io::Result<Vec<Held>> {
        Ok(Vec::new())
    }

    /// Removes whatever carries the mark of this store and of that sandbox.
    async fn reclaim(&self, _sandbox: &str) -> io::Result<()> {
        Ok(())
    }

    /// Returns when something may have happened that nobody was told of; never, if that cannot be.
    async fn disturbed(&self) {
        std::future::pending::<()>().await;
    }

    /// Follows what happens outside, for as long as it is polled.
    async fn attend(&self) {
        std::future::pending::<()>().await;
    }

    /// What each service uses at this moment; those that do not run are left out.
    async fn usage(&self, _plan: &Plan) -> io::Result<Vec<Usage>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Runs a command inside of a service.
    async fn exec(
        &self,
        _plan: &Plan,
        _service: &str,
        _command: Vec<String>,
        _limit: Duration,
    ) -> io::Result<Executed> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What a service uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its name.
    pub service: String,
    /// Processor time since its start.
    pub cpu: Duration,
    /// Bytes of memory, without what the kernel can take back.
    pub memory: u64,
    /// Bytes that it may have.
    pub memory_limit: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// Output of a service, read piece by piece.
#[async_trait]
pub trait LogSource: Send {
    /// What is complete by now and was not read yet; empty when there is nothing new at the moment. After an
    /// error that says that its source is away (`NotConnected`, `TimedOut`) it can be asked again, and nothing is
    /// lost.
    async fn next(&mut self) -> io::Result<Batch>;
}

/// A piece of output.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// What was written.
    pub records: Vec<OutputRecord>,
    /// Whether all was read that was there when it was first asked: whoever writes without a pause would never
    /// be quiet.
    pub at_end: bool,
}

/// Why no sandbox could be made now; what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unready {
    /// The engine does not serve.
    #[error("{0}")]
    Engine(String),
    /// There is no compose command.
    #[error("{0}")]
    Compose(String),
}

/// What a driver works with, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// Why it serves nothing at the moment.
    pub fault: Option<String>,
    /// The version of its engine.
    pub version: Option<String>,
    /// Its compose command.
    pub compose: Option<String>,
}

/// What carries the mark of this store and of one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The sandbox, as the mark says.
    pub sandbox: String,
    /// Containers.
    pub containers: usize,
    /// Those of them that run.
    pub running: usize,
    /// Networks and volumes.
    pub others: usize,
}

/// A command that was run inside of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Executed {
    /// Its exit code, where it has one.
    pub exit_code: Option<i64>,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it wrote about it.
    pub stderr: Vec<u8>,
    /// Whether it wrote more than is kept.
    pub truncated: bool,
}

/// Why a sandbox cannot live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For programs.
    pub reason: Reason,
    /// For people; names the service.
    pub detail: String,
}

/// A service as a driver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Its process lives.
    Alive,
    /// It was made, and never started.
    Unbegun(String),
    /// It is not well, or cannot be seen; why, for people.
    Unwell(String),
    /// It is gone.
    Ended(Fault),
}

/// What drivers are made from.
#[derive(Clone)]
pub struct Parts {
    /// Remembers what has to be found again when files are gone.
    pub store: Store,
    /// Runs services that are commands.
    pub executor: Executor,
    /// Runs commands of our own, which are not confined.
    pub commands: Executor,
    /// Time between TERM and KILL.
    pub grace: Duration,
    /// Bytes of output kept of one service.
    pub output_limit: u64,
    /// The container engine.
    pub docker: settings::Docker,
    /// The mark of what is made.
    pub owner: Owner,
}

impl Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("executor", &self.executor)
            .finish_non_exhaustive()
    }
}

/// All drivers. Each sandbox stays with the one that made it, whatever is configured later.
#[derive(Debug)]
pub struct Drivers {
    process: Arc<dyn SandboxDriver>,
    docker: Arc<dyn SandboxDriver>,
    wanted: settings::SandboxDriver,
}

impl Drivers {
    /// Makes all of them; none has done anything yet.
    pub fn new(wanted: settings::SandboxDriver, parts: Parts) -> Self {
        Self {
            process: Arc::new(ProcessDriver::new(parts.clone())),
            docker: Arc::new(DockerDriver::new(parts)),
            wanted,
        }
    }

    /// The driver of that name.
    pub fn named(&self, name: &str) -> Option<&Arc<dyn SandboxDriver>> {
        self.all().into_iter().find(|driver| driver.name() == name)
    }

    /// All of them.
    pub fn all(&self) -> [&Arc<dyn SandboxDriver>; 2] {
        [&self.docker, &self.process]
    }

    /// The one that serves a new sandbox: images by the engine, commands as processes, as far as the
    /// configuration lets them.
    pub fn of(&self, spec: &Spec) -> Result<&Arc<dyn SandboxDriver>, Invalid> {
        use settings::SandboxDriver::{Auto, Docker, Process};
        let refused = |text: &str| Err(Invalid(text.to_owned()));
        match (self.wanted, spec.is_of_images()) {
            (Docker | Auto, true) => Ok(&self.docker),
            (Process | Auto, false) => Ok(&self.process),
            (Process, true) => refused(
                "`image` needs a container engine, and [sandboxes] driver is \"process\": give a `command` alone",
            ),
            (Docker, false) => refused(
                "a service without `image` runs as a process, and [sandboxes] driver is \"docker\": name an `image`",
            ),
        }
    }

    /// Which driver is the first choice here, and what it works with; `auto` takes the engine where
    /// one answers.
    pub async fn describe(&self) -> Description {
        use settings::SandboxDriver::{Auto, Docker, Process};
        match self.wanted {
            Process => self.process.describe().await,
            Docker => self.docker.describe().await,
            Auto => {
                let docker = self.docker.describe().await;
                match docker.fault {
                    None => docker,
                    Some(fault) => Description {
                        fault: Some(fault),
                        ..self.process.describe().await
                    },
                }
            }
        }
    }

    /// Says in the log which driver serves.
    pub async fn announce(&self) -> Description {
        let found = self.describe().await;
        let Description {
            name,
            fault,
            version,
            compose,
        } = &found;
        let wanted = self.wanted.as_str();
        if let Some(fault) = fault {
            tracing::warn!(
                event = "sandbox_engine_missing",
                wanted,
                fault,
                "sandboxes of images cannot be made until an engine answers"
            );
        }
        tracing::info!(
            event = "sandbox_driver",
            driver = name,
            wanted,
            version,
            compose,
            "sandboxes are served by the `{name}` driver"
        );
        found
    }
}
