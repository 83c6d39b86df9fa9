//! Sandboxes: short-lived environments of a few services, with ports, health, logs and an end.
//!
//! What a sandbox shall be is in the store before anything of it exists, and what is asked later is
//! written there first as well; a keeper task per sandbox makes it so through a [`driver`]. Nothing
//! is called deleted before its processes, ports and files were seen gone, and nothing is touched
//! that has no record here.
//!
//! Next: [`crate::sandbox_state`] for the states, [`driver`] for who makes them, [`reconcile`] for
//! what is done about what is found.

use std::{
    collections::HashMap,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use orket_shared::id;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    crash_point::CrashPoint,
    executor::{Executor, Isolation},
    sandbox_state::Reason,
    settings,
    store::{
        Store, StoreError,
        idempotency::{Answer, Idempotency, Once},
        sandboxes::{Goal, NewSandbox, Sandbox, SandboxError},
    },
    work::Invalid,
    workspace::{Refused, Workspace},
};

mod activity;
pub mod build;
pub mod container;
mod credentials;
pub mod docker;
pub mod driver;
mod health;
mod inside;
mod keeper;
mod kept;
pub mod ports;
pub mod process;
mod reap;
pub mod reconcile;
pub mod registry;
mod settle;
pub mod spec;
pub mod stack;
mod sweep;
mod value;

use activity::Probes;
pub use driver::Unready;
use driver::{Drivers, LogSource, Parts};
pub use inside::ExecError;
use keeper::Entry;
use kept::{Kept, to_its_end};
use ports::{NoPort, Wish};
pub use settle::Settled;
use spec::{OWN_WORKDIR, Plan, Spec};
use stack::Owner;
pub use sweep::Swept;

/// The sandboxes of this backend. Cheap to clone.
#[derive(Clone)]
pub struct Sandboxes {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    workspace: Workspace,
    settings: settings::Sandboxes,
    min_isolation: Isolation,
    drivers: Drivers,
    /// Holds one directory per sandbox.
    boxes: PathBuf,
    keepers: Mutex<HashMap<String, Kept>>,
    /// One for each sandbox that may be up.
    places: Arc<Semaphore>,
    probes: Probes,
    /// When each was last seen in use.
    used: Mutex<HashMap<String, Instant>>,
    swept: Mutex<Swept>,
    /// Held from the choice of ports to their record: they are chosen for one sandbox at a time.
    choosing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Sandboxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandboxes")
            .field("drivers", &self.inner.drivers)
            .finish_non_exhaustive()
    }
}

/// Why sandboxes cannot be served at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory cannot be used.
    #[error("cannot use {} for sandboxes: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a sandbox was not made. Nothing exists of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CreateError {
    /// It could never live.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A working directory is not in the workspace.
    #[error(transparent)]
    Workdir(#[from] Refused),
    /// The repository has no stack that could be run.
    #[error("{0}")]
    Stack(String),
    /// It asks to live longer than is allowed.
    #[error("`ttl` is more than the {0} s that are allowed ([sandboxes] max_ttl)")]
    TooLong(u64),
    /// There is no port for it.
    #[error(transparent)]
    Port(#[from] NoPort),
    /// This host cannot confine it as the configuration demands.
    #[error(
        "sandboxes need the isolation level {needed}, and this host reaches {reached}: see `min_isolation`"
    )]
    Isolation {
        /// What is configured.
        needed: &'static str,
        /// What there is.
        reached: &'static str,
    },
    /// What would make it is not there.
    #[error("A sandbox of images cannot be made now: {0}.")]
    NotReady(Unready),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] SandboxError),
}

/// What [`Sandboxes::open`] needs beside the settings.
#[derive(Debug)]
pub struct Base<'a> {
    /// The directory of everything that belongs to the store.
    pub state: &'a Path,
    /// Runs commands of our own, which are not confined.
    pub commands: Executor,
    /// Whose everything is.
    pub owner: Owner,
}

impl Sandboxes {
    /// Prepares everything under `state/sandboxes`; [`Self::settle`], [`Self::reap`] and
    /// [`Self::reconcile`] set it going. `confine` makes the executor of services in a folder.
    pub fn open(
        store: Store,
        workspace: Workspace,
        settings: settings::Sandboxes,
        min_isolation: Isolation,
        base: Base<'_>,
        confine: impl FnOnce(&Path) -> io::Result<Executor>,
    ) -> Result<Self, OpenError> {
        let root = base.state.join("sandboxes");
        let prepare = || {
            let boxes = root.join("boxes");
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&boxes)?;
            let executor = confine(&root.join("attempts"))?;
            executor.hand_over(&root, &[])?;
            executor.hand_over(&boxes, &[])?;
            Ok((boxes.canonicalize()?, executor))
        };
        let (boxes, executor) = prepare().map_err(|source| OpenError::Io {
            dir: root.clone(),
            source,
        })?;
        let parts = Parts {
            store: store.clone(),
            executor,
            commands: base.commands,
            grace: settings.grace,
            output_limit: settings.output_limit,
            docker: settings.docker.clone(),
            owner: base.owner,
        };
        let inner = Inner {
            store,
            workspace,
            drivers: Drivers::new(settings.driver, parts),
            places: Arc::new(Semaphore::new(settings.running)),
            settings,
            min_isolation,
            boxes,
            keepers: Mutex::default(),
            probes: Probes::default(),
            used: Mutex::default(),
            swept: Mutex::default(),
            choosing: tokio::sync::Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Finds out which driver serves, and says so in the log.
    pub async fn announce(&self) {
        let description = self.inner.drivers.announce().await;
        self.inner.swept.lock().description = description;
    }

    /// The stack of a repository in the workspace. Blocks on files.
    pub fn stack_of(&self, dir: &str) -> Result<stack::compose::Stack, CreateError> {
        let root = self.inner.workspace.resolve(Some(dir))?;
        let found = stack::repository::load(&root, &self.inner.settings.docker.registries);
        let mut stack = found
            .map_err(|refused| CreateError::Stack(refused.0))?
            .stack;
        for service in &mut stack.services {
            if let Some(build) = &mut service.container.build {
                dir.clone_into(&mut build.repository);
            }
        }
        Ok(stack)
    }

    /// Records a sandbox with its ports and begins to start it, once for each idempotency key.
    pub async fn create(
        &self,
        spec: Spec,
        actor: String,
        request_id: String,
        once: Option<(Idempotency, Answer<Sandbox>)>,
    ) -> Result<Once<Sandbox>, CreateError> {
        spec.check()?;
        let settings = &self.inner.settings;
        settings.docker.registries.check(&spec)?;
        if spec.ttl > settings.max_ttl {
            return Err(CreateError::TooLong(settings.max_ttl.as_secs()));
        }
        for service in &spec.services {
            self.inner.workspace.place(service.workdir.as_deref())?;
        }
        self.may_build(&spec)?;
        let driver = self.inner.drivers.of(&spec)?;
        driver.ready().await.map_err(CreateError::NotReady)?;
        let isolation = driver.isolation();
        if isolation < self.inner.min_isolation {
            let needed = self.inner.min_isolation.name();
            return Err(CreateError::Isolation {
                needed,
                reached: isolation.name(),
            });
        }
        let (this, driver) = (self.clone(), driver.name());
        to_its_end(async move {
            this.record(spec, driver, isolation, (actor, request_id), once)
                .await
        })
        .await
    }

    /// Takes the ports, writes the record and begins with it.
    async fn record(
        &self,
        spec: Spec,
        driver: &'static str,
        isolation: Isolation,
        (actor, request_id): (String, String),
        once: Option<(Idempotency, Answer<Sandbox>)>,
    ) -> Result<Once<Sandbox>, CreateError> {
        let settings = &self.inner.settings;
        let choosing = self.inner.choosing.lock().await;
        let mut services = self.with_ports(&spec).await?;
        let id = format!("sbx_{}", id::new_ulid());
        stack::name_builds(&id, &mut services);
        let now = Timestamp::now();
        let new = NewSandbox {
            id,
            name: spec.name,
            build_id: spec.build_id,
            driver,
            isolation,
            actor,
            request_id,
            services,
            secrets: spec.secrets,
            expires_at: now.saturating_add(spec.ttl).unwrap_or(Timestamp::MAX),
            limit: settings.limit,
            build_limit: settings.build_limit,
            cool_down: settings.cool_down,
        };
        let store = &self.inner.store;
        let made = match once {
            None => Once::New(store.create_sandbox(now, new).await?),
            Some((key, answer)) => store.create_sandbox_once(now, new, key, answer).await?,
        };
        drop(choosing);
        if let Once::New(sandbox) = &made {
            CrashPoint::SandboxRecorded.reached();
            self.keep(sandbox, Entry::Start);
        }
        Ok(made)
    }

    fn may_build(&self, spec: &Spec) -> Result<(), CreateError> {
        let mut builds = spec.services.iter().filter(|s| s.container.build.is_some());
        match builds.next() {
            Some(service) if !self.inner.settings.docker.build => Err(CreateError::Stack(format!(
                "service `{}`: images are not built here ([sandboxes.docker] build): name one under `image`",
                service.name
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// The services with a port for each that wants one, free at this moment and in the store.
    async fn with_ports(&self, spec: &Spec) -> Result<Vec<spec::Service>, CreateError> {
        let settings = &self.inner.settings;
        let held = self
            .inner
            .store
            .held_ports(Timestamp::now(), settings.cool_down)
            .await;
        let held = held.map_err(SandboxError::from)?;
        let (at, wishes): (Vec<_>, Vec<_>) = spec.wishes().into_iter().unzip();
        let chosen = ports::choose(&settings.ports, &wishes, &held, ports::is_free)?;
        let mut services = spec.services.clone();
        for (at, port) in at.into_iter().zip(chosen) {
            services[at].pinned = services[at].port.is_some();
            services[at].port = Some(port);
        }
        Ok(services)
    }

    /// Takes another port of the same role for a service in place of one that a stranger took.
    async fn move_port(&self, id: &str, service: &str, port: u16) -> Result<u16, String> {
        let (settings, store) = (&self.inner.settings, &self.inner.store);
        let _choosing = self.inner.choosing.lock().await;
        let held = store.held_ports(Timestamp::now(), settings.cool_down).await;
        let mut held = held.map_err(|error| error.to_string())?;
        held.insert(port);
        let role = settings.ports.role_of(port);
        let role = role.ok_or_else(|| NoPort::OutOfRange(port).to_string())?;
        let chosen = ports::choose(&settings.ports, &[Wish::Any(role)], &held, ports::is_free);
        let to = chosen.map_err(|error| error.to_string())?;
        let to = to.first().copied().unwrap_or(port);
        let (id, service) = (id.to_owned(), service.to_owned());
        store
            .move_sandbox_port(Timestamp::now(), id, service, to, settings.cool_down)
            .await
            .map_err(|error| error.to_string())?;
        Ok(to)
    }

    /// All sandboxes but the deleted ones, newest first.
    pub async fn list_active(&self) -> Result<Vec<Sandbox>, StoreError> {
        self.inner.store.active_sandboxes().await
    }

    /// The sandbox of that id, deleted or not.
    pub async fn find(&self, id: &str) -> Result<Sandbox, SandboxError> {
        self.inner
            .store
            .sandbox(id.to_owned())
            .await?
            .ok_or(SandboxError::Unknown)
    }

    /// Asks for its end; its files stay. Repeating it is fine.
    pub async fn stop(&self, id: &str) -> Result<Sandbox, SandboxError> {
        self.ask_end(id, Goal::Stopped, Reason::StopRequested).await
    }

    /// Asks for its end and the removal of all of it. Repeating it is fine.
    pub async fn delete(&self, id: &str) -> Result<Sandbox, SandboxError> {
        self.ask_end(id, Goal::Deleted, Reason::DeleteRequested)
            .await
    }

    async fn ask_end(&self, id: &str, goal: Goal, why: Reason) -> Result<Sandbox, SandboxError> {
        let (this, id) = (self.clone(), id.to_owned());
        to_its_end(async move {
            let store = &this.inner.store;
            let asked = store.ask_sandbox_end(Timestamp::now(), id.clone(), goal, why);
            let sandbox = asked.await?;
            this.poke(&id);
            Ok(sandbox)
        })
        .await
    }

    /// Lets it live for `ttl` from now on; without one, for as long as a new one would.
    pub async fn extend(&self, id: &str, ttl: Option<Duration>) -> Result<Sandbox, CreateError> {
        let settings = &self.inner.settings;
        let ttl = ttl.unwrap_or(settings.ttl);
        if ttl > settings.max_ttl {
            return Err(CreateError::TooLong(settings.max_ttl.as_secs()));
        }
        if ttl.is_zero() {
            return Err(Invalid("`ttl` must be more than 0 seconds".into()).into());
        }
        let now = Timestamp::now();
        let expires_at = now.saturating_add(ttl).unwrap_or(Timestamp::MAX);
        let store = &self.inner.store;
        let extended = store.extend_sandbox(now, id.to_owned(), expires_at);
        let extended = extended.await?;
        self.touch(id);
        Ok(extended)
    }

    /// How long a sandbox lives that says nothing itself.
    pub fn default_ttl(&self) -> Duration {
        self.inner.settings.ttl
    }

    /// The output of one of its services.
    pub fn logs(&self, sandbox: &Sandbox, service: &str) -> io::Result<Box<dyn LogSource>> {
        self.touch(&sandbox.id);
        let driver = self.inner.drivers.named(&sandbox.driver);
        let driver = driver.ok_or(io::ErrorKind::NotFound)?;
        driver.logs(&self.plan(sandbox), service)
    }

    fn plan(&self, sandbox: &Sandbox) -> Plan {
        let dir = self.inner.boxes.join(&sandbox.id);
        let place = |service: &spec::Service| match &service.workdir {
            None => Ok(dir.join(OWN_WORKDIR)),
            Some(workdir) => {
                let place = self.inner.workspace.place(Some(workdir));
                place.map_err(|refused| refused.to_string())
            }
        };
        let repository = |service: &spec::Service| {
            let build = service.container.build.as_ref()?;
            let root = self.inner.workspace.resolve(Some(&build.repository));
            let root = root.map_err(|refused| refused.to_string());
            Some((service.name.clone(), root))
        };
        Plan {
            id: sandbox.id.clone(),
            services: sandbox.services.clone(),
            workdirs: sandbox.services.iter().map(place).collect(),
            repositories: sandbox.services.iter().filter_map(repository).collect(),
            secrets: sandbox.secrets.clone(),
            dir,
        }
    }
}

/// Removes a directory; `Ok` only after it was seen gone.
fn remove_dir(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) if dir.symlink_metadata().is_ok() => {
            Err(io::Error::other("its directory is still there"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
