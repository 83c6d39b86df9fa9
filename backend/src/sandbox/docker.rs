//! The `docker` driver: every service is a container of an engine that is asked over its socket.
//!
//! The compose command makes and unmakes a sandbox, from a file that [`super::stack`] rendered. All
//! that is known of it is read from the engine, by label; what carries no label of this store is
//! never touched.
//!
//! Next: [`super::reconcile`] for what is done about what is found.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, future::join_all};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::spawn_blocking, time::sleep};

use super::{
    credentials,
    driver::{Description, Fault, Held, LogSource, Parts, SandboxDriver, Seen, Unready, Usage},
    spec::{Plan, Service},
    stack::{self, Limits, Owner, Rendered, label},
};
use crate::{
    executor::{Isolation, Outcome},
    sandbox_state::Reason,
    settings,
};

mod build;
mod compose;
mod engine;
mod exec;
mod failure;
mod logs;
mod readers;
mod restarts;
mod sight;
mod things;
mod usage;
mod users;
mod volumes;

use compose::{Compose, Ran, Verb};
use engine::{Engine, EngineError};
use restarts::Restarts;
use sight::{fault, judge};

/// The rendered file in a sandbox's directory.
const FILE: &str = "compose.json";
/// How long the compose command may take to take down, beyond the time that containers are given.
const COMPOSE: Duration = Duration::from_mins(2);
/// How long to wait before the engine's events are asked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// Sandboxes made of containers.
#[derive(Debug)]
pub struct DockerDriver {
    engine: Arc<Engine>,
    compose: Compose,
    settings: settings::Docker,
    owner: Owner,
    limits: Limits,
    grace: Duration,
    changes: Mutex<HashMap<String, Arc<Notify>>>,
    disturbed: Notify,
    known: Mutex<Known>,
    restarts: Mutex<Restarts>,
}

/// What the engine last said of itself.
#[derive(Debug, Default)]
struct Known {
    isolation: Option<Isolation>,
    version: Option<String>,
}

impl DockerDriver {
    /// Its name.
    pub const NAME: &'static str = "docker";

    /// A driver that has asked nothing yet.
    pub fn new(parts: Parts) -> Self {
        let engine = Engine::new(&parts.docker.socket, parts.docker.answer_timeout);
        let words = parts.docker.compose.clone();
        Self {
            compose: Compose::new(parts.commands, words, engine.host()),
            engine: Arc::new(engine),
            limits: Limits {
                memory: parts.docker.memory,
                cpus: parts.docker.cpus,
                processes: parts.docker.processes,
                open_files: parts.docker.open_files,
                output: parts.output_limit,
            },
            settings: parts.docker,
            owner: parts.owner,
            grace: parts.grace,
            changes: Mutex::default(),
            disturbed: Notify::new(),
            known: Mutex::default(),
            restarts: Mutex::default(),
        }
    }

    fn change(&self, id: &str) -> Arc<Notify> {
        Arc::clone(self.changes.lock().entry(id.to_owned()).or_default())
    }

    fn rendered(&self, plan: &Plan) -> Rendered {
        stack::render(plan, &self.owner, &self.limits)
    }

    async fn images(&self, images: &[String]) -> Result<(), Fault> {
        for image in images {
            if self
                .engine
                .has_image(image)
                .await
                .map_err(|error| away(&error))?
            {
                continue;
            }
            let missing = |text: &str| Fault {
                reason: Reason::ImageNotFound,
                detail: format!("The image `{image}` is not on the engine{text}."),
            };
            // It may be one of before the list was changed.
            if let Some(fault) = self.settings.registries.fault(image) {
                return Err(missing(&format!(" and {fault}")));
            }
            if !self.settings.pull {
                return Err(missing(" and [sandboxes.docker] pull is off"));
            }
            let pulled = self.engine.pull(image, self.settings.pull_timeout).await;
            pulled.map_err(|error| missing(&format!(" and cannot be pulled: {error}")))?;
        }
        Ok(())
    }

    /// Why the services were not all there in time, or not at all: what the engine says of them, since the
    /// command only waited.
    async fn late(&self, plan: &Plan, ran: &Ran) -> Fault {
        let states = match self.states(&plan.id).await {
            Ok(states) => states,
            Err(error) => return away(&error),
        };
        let mut unwell = None;
        let mut waits = None;
        for service in &plan.services {
            let state = states.get(&service.name);
            match state.map(|(state, restarts)| judge(service, state, *restarts)) {
                Some(Seen::Ended(fault)) => return fault,
                Some(Seen::Unwell(text)) => unwell = unwell.or(Some(text)),
                Some(Seen::Unbegun(text)) => waits = waits.or(Some(text)),
                None => waits = waits.or(Some(format!("service `{}` was not made", service.name))),
                Some(Seen::Alive) => {}
            }
        }
        match unwell.or(waits) {
            Some(text) => Fault {
                reason: Reason::NotHealthyInTime,
                detail: format!("{text}, and the start waited for it; its logs may tell why"),
            },
            None => failure::explain(ran),
        }
    }

    async fn listen(&self) -> Result<(), EngineError> {
        let events = self.engine.events(&self.owner.instance).await?;
        // What happened before somebody listened is looked for.
        self.disturbed.notify_one();
        tokio::pin!(events);
        while let Some(Ok(event)) = events.next().await {
            let labels = event.actor.and_then(|actor| actor.attributes);
            let sandbox = labels.and_then(|mut labels| labels.remove(label::SANDBOX));
            let changed = sandbox.and_then(|id| self.changes.lock().get(&id).cloned());
            if let Some(changed) = changed {
                changed.notify_one();
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SandboxDriver for DockerDriver {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn isolation(&self) -> Isolation {
        self.known.lock().isolation.unwrap_or(Isolation::None)
    }

    fn relays_ports(&self) -> bool {
        true
    }

    async fn ready(&self) -> Result<(), Unready> {
        let engine = |error: EngineError| Unready::Engine(error.to_string());
        self.engine.ping().await.map_err(engine)?;
        self.compose.find().await.map_err(Unready::Compose)?;
        if self.known.lock().isolation.is_none() {
            let info = self.engine.info().await.map_err(engine)?;
            let options = info.security_options.unwrap_or_default();
            let filtered = options.iter().any(|option| option.contains("seccomp"));
            let isolation = if filtered {
                Isolation::Contained
            } else {
                Isolation::Group
            };
            *self.known.lock() = Known {
                isolation: Some(isolation),
                version: info.server_version,
            };
        }
        Ok(())
    }

    async fn describe(&self) -> Description {
        let fault = self.ready().await.err().map(|unready| unready.to_string());
        let compose = self.compose.find().await.ok();
        Description {
            name: Self::NAME,
            fault,
            version: self.known.lock().version.clone(),
            compose: compose.map(|words| words.join(" ")),
        }
    }

    async fn prepare(&self, plan: &Plan) -> Result<(), Fault> {
        self.engine.ping().await.map_err(|error| away(&error))?;
        self.builds(plan).await?;
        self.images(&self.rendered(plan).images).await
    }

    async fn start(&self, plan: &Plan, limit: Duration) -> Result<(), Fault> {
        let until = Instant::now() + limit;
        let mut rendered = self.rendered(plan);
        let strangers = self
            .strangers(&plan.id)
            .await
            .map_err(|error| away(&error))?;
        if let Some(name) = strangers.first() {
            return Err(Fault {
                reason: Reason::NameConflict,
                detail: format!(
                    "`{name}` is there already and is not Orket's: remove or rename it."
                ),
            });
        }
        // Made again from what an earlier try left, a container would lose its nameless volumes.
        self.remove_containers(&plan.id)
            .await
            .map_err(|error| away(&error))?;
        self.give_to_readers(plan, &mut rendered, until).await?;
        let file = plan.dir.join(FILE);
        let launch_failed = |detail: String| Fault {
            reason: Reason::LaunchFailed,
            detail,
        };
        let laid = spawn_blocking({
            let (dir, file, rendered) = (plan.dir.clone(), file.clone(), rendered.clone());
            move || lay_out(&dir, &file, &rendered)
        });
        laid.await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| {
                launch_failed(format!("The sandbox's directory cannot be made: {error}."))
            })?;
        let project = stack::project(&plan.id);
        let left = until.saturating_duration_since(Instant::now());
        let ran = self
            .compose
            .run(Verb::Up, &plan.id, &project, &file, left)
            .await
            .map_err(launch_failed)?;
        if ran.is_well() {
            // Now, since somebody may remove a container by hand, and its volumes have no label.
            if let Err(error) = self.note_nameless(plan).await {
                tracing::warn!(sandbox = plan.id, %error, "volumes without a name are not noted yet");
            }
            return Ok(());
        }
        if ran.outcome == Outcome::TimedOut || failure::is_about_a_service(&ran) {
            return Err(self.late(plan, &ran).await);
        }
        Err(failure::explain(&ran))
    }

    fn give_up(&self, sandbox: &str) {
        self.compose.give_up(Verb::Up, sandbox);
    }

    async fn adopt(&self, _plan: &Plan) -> Result<(), Fault> {
        // All there is to know is the engine's: the next look sees it.
        Ok(())
    }

    async fn look(&self, plan: &Plan) -> Vec<Seen> {
        let states = match self.states(&plan.id).await {
            Ok(states) => states,
            Err(error) => {
                let unseen = Seen::Unwell(error.to_string());
                return vec![unseen; plan.services.len()];
            }
        };
        let see = |service: &Service| match states.get(&service.name) {
            Some((state, restarts)) => judge(service, state, *restarts),
            None => Seen::Ended(fault(
                service,
                Reason::ServiceVanished,
                "its container is not there any more",
            )),
        };
        plan.services.iter().map(see).collect()
    }

    async fn changed(&self, id: &str) {
        self.change(id).notified().await;
    }

    async fn end(&self, plan: &Plan) -> io::Result<()> {
        self.compose
            .end_all(&plan.id)
            .await
            .map_err(io::Error::other)?;
        let labels = self.labels(&plan.id);
        let containers = self.engine.containers(&labels).await?;
        let stops = containers
            .iter()
            .map(|container| self.engine.stop(&container.id, self.grace));
        for stopped in join_all(stops).await {
            stopped?;
        }
        let containers = self.engine.containers(&labels).await?;
        if containers.iter().any(|container| container.runs) {
            return Err(io::Error::other("some of its containers still run"));
        }
        Ok(())
    }

    async fn remove(&self, plan: &Plan) -> io::Result<()> {
        let nameless = self.note_nameless(plan).await?;
        let file = plan.dir.join(FILE);
        if file.exists() && self.strangers(&plan.id).await?.is_empty() {
            let project = stack::project(&plan.id);
            let limit = COMPOSE + self.grace;
            let ran = self
                .compose
                .run(Verb::Down, &plan.id, &project, &file, limit)
                .await;
            let said = match ran {
                Ok(ran) if ran.is_well() => None,
                Ok(ran) => Some(failure::explain(&ran).detail),
                Err(said) => Some(said),
            };
            if let Some(said) = said {
                tracing::warn!(sandbox = plan.id, said, "a sandbox is removed by label");
            }
        }
        self.compose
            .end_all(&plan.id)
            .await
            .map_err(io::Error::other)?;
        self.clear(&plan.id).await?;
        self.clear_nameless(&nameless).await?;
        let dir = plan.dir.clone();
        spawn_blocking(move || super::remove_dir(&dir))
            .await
            .map_err(io::Error::other)
            .flatten()?;
        self.changes.lock().remove(&plan.id);
        self.restarts.lock().forget(&plan.id);
        Ok(())
    }

    fn logs(&self, plan: &Plan, service: &str) -> io::Result<Box<dyn LogSource>> {
        let engine = Arc::clone(&self.engine);
        Ok(Box::new(logs::Output::new(
            engine,
            self.labels(&plan.id),
            service,
        )))
    }

    async fn holdings(&self) -> io::Result<Vec<Held>> {
        self.held().await
    }

    async fn reclaim(&self, sandbox: &str) -> io::Result<()> {
        self.clear(sandbox).await
    }

    async fn disturbed(&self) {
        self.disturbed.notified().await;
    }

    async fn attend(&self) {
        loop {
            match self.listen().await {
                // Who stopped listening has missed what came then.
                Ok(()) => self.disturbed.notify_one(),
                Err(error) => tracing::debug!(%error, "the engine's events cannot be followed"),
            }
            // Another engine may answer next time.
            self.engine.renew();
            sleep(PAUSE).await;
        }
    }

    async fn usage(&self, plan: &Plan) -> io::Result<Vec<Usage>> {
        Ok(self.used(&plan.id).await?)
    }

    async fn exec(
        &self,
        plan: &Plan,
        service: &str,
        command: Vec<String>,
        limit: Duration,
    ) -> io::Result<super::driver::Executed> {
        let mut labels = self.labels(&plan.id);
        labels.push(format!("{}={service}", label::SERVICE));
        exec::run(&self.engine, &labels, command, limit).await
    }
}

fn away(error: &EngineError) -> Fault {
    let reason = if error.is_away() {
        Reason::EngineUnreachable
    } else {
        Reason::LaunchFailed
    };
    Fault {
        reason,
        detail: error.to_string(),
    }
}

/// Makes what the compose command and the containers read; what is there already stays.
fn lay_out(dir: &Path, file: &Path, rendered: &Rendered) -> io::Result<()> {
    let credentials = credentials::dir(dir);
    let mut private = fs::DirBuilder::new();
    private.mode(0o700).recursive(true).create(&credentials)?;
    let mut values: HashMap<&str, String> = HashMap::new();
    for secret in &rendered.secrets {
        let value = values
            .entry(&secret.name)
            .or_insert_with(credentials::random);
        credentials::write(&secret.path, value, secret.owner)?;
    }
    let mut to = PathBuf::from(file);
    to.set_extension("new");
    let mut open = fs::OpenOptions::new();
    let open = open.write(true).create(true).truncate(true).mode(0o600);
    io::Write::write_all(&mut open.open(&to)?, rendered.compose.as_bytes())?;
    fs::rename(&to, file)
}
