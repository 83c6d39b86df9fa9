//! The `process` driver: every service is a command under a supervisor of its own, as runs are.
//!
//! Services are told where to listen by `PORT` and `HOST` (always 127.0.0.1), and where the others
//! do by `ORKET_HOST_<NAME>` and `ORKET_PORT_<NAME>`; credentials by path only.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::DirBuilderExt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{sync::Notify, task::spawn_blocking, time::timeout};

use super::{
    credentials,
    driver::{Batch, Fault, LogSource, Parts, SandboxDriver, Seen},
    spec::{Plan, Service, variable},
};
use crate::{
    confine::Network,
    crash_point::CrashPoint,
    executor::{
        Adoption, Attempt, Canceler, Executor, Exit, Isolation, Launch, Outcome, OutputReader,
        Update,
    },
    sandbox_state::Reason,
};

/// How long beyond its grace a tree may take to be gone before `end` gives up, to be called again.
const ENDING: Duration = Duration::from_secs(10);

/// Sandboxes made of supervised commands.
#[derive(Debug)]
pub struct ProcessDriver {
    parts: Parts,
    groups: Mutex<HashMap<String, Arc<Group>>>,
}

/// The services of one sandbox that are followed.
#[derive(Debug, Default)]
struct Group {
    services: Mutex<BTreeMap<String, Life>>,
    changed: Notify,
}

/// What is known of a service.
#[derive(Debug)]
enum Life {
    /// It has not ended; how to end it.
    Alive(Canceler),
    Ended(Exit),
}

impl Group {
    fn end(&self, service: &str, exit: Exit) {
        self.services
            .lock()
            .insert(service.to_owned(), Life::Ended(exit));
        self.changed.notify_one();
    }
}

impl ProcessDriver {
    /// Its name.
    pub const NAME: &'static str = "process";

    /// A driver that follows nothing yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            groups: Mutex::default(),
        }
    }

    fn executor(&self) -> &Executor {
        &self.parts.executor
    }

    fn group(&self, id: &str) -> Arc<Group> {
        Arc::clone(self.groups.lock().entry(id.to_owned()).or_default())
    }

    /// Follows an attempt until its end. Its output stays in its file, which `logs` reads.
    fn follow(&self, plan: &Plan, service: &Service, mut attempt: Attempt) {
        let group = self.group(&plan.id);
        let life = Life::Alive(attempt.canceler.clone());
        group.services.lock().insert(service.name.clone(), life);
        let name = service.name.clone();
        tokio::spawn(async move {
            while let Some(update) = attempt.updates.recv().await {
                match update {
                    Update::Output(_) => {}
                    Update::Unbegun { detail } => {
                        group.end(&name, Exit::now(Outcome::LaunchFailed { detail }));
                    }
                    Update::Ended(exit) => group.end(&name, exit),
                }
            }
        });
    }

    fn launch(&self, plan: &Plan, at: usize) -> Result<Launch, Fault> {
        let service = &plan.services[at];
        let workdir = match &plan.workdirs[at] {
            Ok(workdir) => workdir.clone(),
            Err(text) => return Err(fault(service, Reason::LaunchFailed, text)),
        };
        Ok(Launch {
            id: attempt_id(plan, service),
            argv: service.command.clone(),
            env: environment(plan, service),
            readable: vec![credentials::dir(&plan.dir)],
            writable: vec![workdir.clone()],
            network: Network::Host,
            workdir,
            timeout: None,
            grace: self.parts.grace,
            output_cap: self.parts.output_limit,
        })
    }

    /// Makes sure that every attempt there is is followed, also those of an earlier process.
    /// One whose files are gone is ended, should it live still.
    async fn follow_all(&self, plan: &Plan) -> io::Result<Vec<String>> {
        let mut missing = Vec::new();
        let known = self.parts.store.service_supervisors(plan.id.clone());
        let known = known.await.map_err(io::Error::other)?;
        for service in &plan.services {
            let followed = self
                .group(&plan.id)
                .services
                .lock()
                .contains_key(&service.name);
            if followed {
                continue;
            }
            let adoption = self
                .executor()
                .adopt(&attempt_id(plan, service), u64::MAX)
                .await;
            match adoption.map_err(io::Error::other)? {
                Adoption::Running(attempt) => self.follow(plan, service, attempt),
                Adoption::Vanished { detail, .. } => {
                    if let Some(supervisor) = known.get(&service.name) {
                        self.executor().end_traceless(supervisor).await;
                        if supervisor.is_alive() {
                            let pid = supervisor.pid;
                            let text = format!("the supervisor, process {pid}, does not end");
                            return Err(io::Error::other(text));
                        }
                    }
                    missing.push(format!("service `{}`: {detail}", service.name));
                }
            }
        }
        Ok(missing)
    }
}

#[async_trait]
impl SandboxDriver for ProcessDriver {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn isolation(&self) -> Isolation {
        self.executor().isolation()
    }

    async fn start(&self, plan: &Plan, _limit: Duration) -> Result<(), Fault> {
        let made = spawn_blocking({
            let (plan, executor) = (plan.clone(), self.executor().clone());
            move || make_dirs(&plan, &executor)
        });
        made.await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| Fault {
                reason: Reason::LaunchFailed,
                detail: format!("The sandbox's directory cannot be made: {error}."),
            })?;
        for (at, service) in plan.services.iter().enumerate() {
            let launch = self.launch(plan, at)?;
            let attempt = self.executor().start(launch).await;
            let attempt = attempt
                .map_err(|error| fault(service, Reason::LaunchFailed, &error.to_string()))?;
            CrashPoint::ServiceSpawned.reached();
            let supervisor = attempt.identity.clone();
            self.follow(plan, service, attempt);
            let recorded = self.parts.store.service_supervised(
                plan.id.clone(),
                service.name.clone(),
                supervisor,
            );
            recorded
                .await
                .map_err(|error| fault(service, Reason::LaunchFailed, &error.to_string()))?;
        }
        Ok(())
    }

    async fn adopt(&self, plan: &Plan) -> Result<(), Fault> {
        let vanished = |detail| Fault {
            reason: Reason::ServiceVanished,
            detail,
        };
        let missing = self
            .follow_all(plan)
            .await
            .map_err(|error| vanished(error.to_string()))?;
        if missing.is_empty() {
            Ok(())
        } else {
            Err(vanished(missing.join("; ")))
        }
    }

    async fn look(&self, plan: &Plan) -> Vec<Seen> {
        let group = self.group(&plan.id);
        let services = group.services.lock();
        let see = |service: &Service| match services.get(&service.name) {
            Some(Life::Alive(_)) => Seen::Alive,
            Some(Life::Ended(exit)) => Seen::Ended(explain(service, &exit.outcome)),
            None => Seen::Ended(fault(
                service,
                Reason::ServiceVanished,
                "it was never started",
            )),
        };
        plan.services.iter().map(see).collect()
    }

    async fn changed(&self, id: &str) {
        self.group(id).changed.notified().await;
    }

    async fn end(&self, plan: &Plan) -> io::Result<()> {
        self.follow_all(plan).await?;
        let group = self.group(&plan.id);
        let alive = || -> Vec<Canceler> {
            let services = group.services.lock();
            let alive = services.values().filter_map(|life| match life {
                Life::Alive(canceler) => Some(canceler.clone()),
                Life::Ended(_) => None,
            });
            alive.collect()
        };
        for canceler in alive() {
            canceler.cancel()?;
        }
        let all_ended = async {
            while !alive().is_empty() {
                group.changed.notified().await;
            }
        };
        timeout(self.parts.grace + ENDING, all_ended)
            .await
            .map_err(|_| {
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    "some of its processes are still there",
                )
            })
    }

    async fn remove(&self, plan: &Plan) -> io::Result<()> {
        for service in &plan.services {
            self.executor()
                .forget(&attempt_id(plan, service))
                .await
                .map_err(io::Error::other)?;
        }
        let dir = plan.dir.clone();
        spawn_blocking(move || super::remove_dir(&dir))
            .await
            .map_err(io::Error::other)
            .flatten()?;
        self.groups.lock().remove(&plan.id);
        Ok(())
    }

    fn logs(&self, plan: &Plan, service: &str) -> io::Result<Box<dyn LogSource>> {
        let reader = self.executor().output(&format!("{}.{service}", plan.id))?;
        Ok(Box::new(Files(Some(reader))))
    }
}

/// Away while it is being read.
struct Files(Option<OutputReader>);

#[async_trait]
impl LogSource for Files {
    async fn next(&mut self) -> io::Result<Batch> {
        let mut reader = self.0.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let read = spawn_blocking(move || (reader.read_batch(), reader)).await;
        let (batch, reader) = read.map_err(io::Error::other)?;
        self.0 = Some(reader);
        // A file is read far faster than it is written, and it is bounded.
        batch.map(|records| Batch {
            at_end: records.is_empty(),
            records,
        })
    }
}

fn attempt_id(plan: &Plan, service: &Service) -> String {
    format!("{}.{}", plan.id, service.name)
}

fn make_dirs(plan: &Plan, executor: &Executor) -> io::Result<()> {
    let mut private = fs::DirBuilder::new();
    private.mode(0o700).create(&plan.dir)?;
    private.create(plan.own_workdir())?;
    credentials::make(&plan.dir, &plan.secrets)?;
    let credentials = credentials::dir(&plan.dir);
    executor.hand_over(&plan.dir, &[plan.own_workdir(), credentials.clone()])?;
    let secrets = plan.secrets.iter().map(|secret| credentials.join(secret));
    executor.hand_over(&plan.dir, &secrets.collect::<Vec<_>>())
}

fn environment(plan: &Plan, service: &Service) -> BTreeMap<String, String> {
    let mut env = service.env.clone();
    let mut set = |name: String, value: String| drop(env.insert(name, value));
    let credentials = credentials::dir(&plan.dir);
    set("ORKET_SANDBOX_ID".into(), plan.id.clone());
    set(
        "ORKET_CREDENTIALS_DIR".into(),
        credentials.to_string_lossy().into_owned(),
    );
    for secret in &plan.secrets {
        let path = credentials.join(secret).to_string_lossy().into_owned();
        set(format!("{}_FILE", variable(secret)), path);
    }
    for other in &plan.services {
        if let Some(port) = other.port {
            let name = variable(&other.name);
            set(format!("ORKET_HOST_{name}"), "127.0.0.1".into());
            set(format!("ORKET_PORT_{name}"), port.to_string());
        }
    }
    if let Some(port) = service.port {
        set("HOST".into(), "127.0.0.1".into());
        set("PORT".into(), port.to_string());
    }
    env
}

fn fault(service: &Service, reason: Reason, text: &str) -> Fault {
    Fault {
        reason,
        detail: format!("service `{}`: {text}", service.name),
    }
}

fn explain(service: &Service, outcome: &Outcome) -> Fault {
    let ended = |text: &str| fault(service, Reason::ServiceExited, text);
    match outcome {
        Outcome::Exited { code } => ended(&format!("it ended by itself with exit code {code}")),
        Outcome::Signaled { signal } => ended(&format!("it was ended by signal {signal}")),
        Outcome::TimedOut | Outcome::Canceled => ended("it was ended"),
        Outcome::Interrupted => ended("its supervisor was told to stop by somebody else"),
        Outcome::CommandNotFound { detail } => fault(service, Reason::CommandNotFound, detail),
        Outcome::LaunchFailed { detail } => fault(service, Reason::LaunchFailed, detail),
        Outcome::Lost { detail } => fault(service, Reason::ServiceVanished, detail),
    }
}
