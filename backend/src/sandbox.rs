//! Sandboxes: short-lived environments of a few services, with ports, health, logs and an end.
//!
//! What a sandbox shall be is in the store before anything of it exists, and what is asked later is
//! written there first as well; a keeper task per sandbox makes it so through a [`driver`]. Nothing
//! is called deleted before its processes, ports and files were seen gone, and nothing is touched
//! that has no record here.
//!
//! Next: [`crate::sandbox_state`] for the states, [`process`] for how services run.

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
use tokio::{sync::Notify, time::sleep};

use crate::{
    executor::{Executor, Isolation},
    sandbox_state::Reason,
    settings,
    store::{
        Store, StoreError,
        sandboxes::{Goal, NewSandbox, Sandbox, SandboxError},
    },
    work::Invalid,
    workspace::{Refused, Workspace},
};

mod credentials;
pub mod driver;
mod health;
mod keeper;
pub mod ports;
pub mod process;
mod settle;
pub mod spec;

use driver::{LogSource, NoDriver, Parts, SandboxDriver};
use keeper::{Entry, Keeper};
use ports::NoPort;
pub use settle::Settled;
use spec::{OWN_WORKDIR, Plan, Spec};

/// How often it is looked for sandboxes whose time is up.
const REAP_PERIOD: Duration = Duration::from_millis(500);

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
    driver: Arc<dyn SandboxDriver>,
    /// Holds one directory per sandbox.
    boxes: PathBuf,
    keepers: Mutex<HashMap<String, Arc<Notify>>>,
    /// Held from the choice of ports to their record: they are chosen for one sandbox at a time.
    choosing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Sandboxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandboxes")
            .field("driver", &self.inner.driver)
            .finish_non_exhaustive()
    }
}

/// Why sandboxes cannot be served at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configured driver is not there.
    #[error(transparent)]
    Driver(#[from] NoDriver),
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
    /// The store refused.
    #[error(transparent)]
    Store(#[from] SandboxError),
}

impl Sandboxes {
    /// Prepares everything under `state/sandboxes`; [`Self::settle`] and [`Self::reap`] set it
    /// going. `confine` makes the executor of services in a folder.
    pub fn open(
        store: Store,
        workspace: Workspace,
        settings: settings::Sandboxes,
        min_isolation: Isolation,
        state: &Path,
        confine: impl FnOnce(&Path) -> io::Result<Executor>,
    ) -> Result<Self, OpenError> {
        let root = state.join("sandboxes");
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
            executor,
            grace: settings.grace,
            output_limit: settings.output_limit,
        };
        let driver = driver::choose(settings.driver, parts)?;
        let keepers = Mutex::default();
        let inner = Inner {
            store,
            workspace,
            settings,
            min_isolation,
            driver,
            boxes,
            keepers,
            choosing: tokio::sync::Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Removes sandboxes whose time is up, for as long as it is polled.
    pub async fn reap(&self) {
        loop {
            match self.inner.store.expired_sandboxes(Timestamp::now()).await {
                Ok(ids) => {
                    for id in ids {
                        let asked = self.ask_end(&id, Goal::Deleted, Reason::TtlExpired).await;
                        if let Err(error) = asked {
                            tracing::warn!(sandbox = id, %error, "an expired sandbox stays for now");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "expired sandboxes cannot be read"),
            }
            sleep(REAP_PERIOD).await;
        }
    }

    /// Records a sandbox with its ports and begins to start it.
    pub async fn create(
        &self,
        spec: Spec,
        actor: String,
        request_id: String,
    ) -> Result<Sandbox, CreateError> {
        spec.check()?;
        let settings = &self.inner.settings;
        if spec.ttl > settings.max_ttl {
            return Err(CreateError::TooLong(settings.max_ttl.as_secs()));
        }
        for service in &spec.services {
            self.inner.workspace.place(service.workdir.as_deref())?;
        }
        let isolation = self.inner.driver.isolation();
        if isolation < self.inner.min_isolation {
            let needed = self.inner.min_isolation.name();
            return Err(CreateError::Isolation {
                needed,
                reached: isolation.name(),
            });
        }
        let choosing = self.inner.choosing.lock().await;
        let services = self.with_ports(&spec).await?;
        let now = Timestamp::now();
        let new = NewSandbox {
            id: format!("sbx_{}", id::new_ulid()),
            name: spec.name,
            driver: self.inner.driver.name(),
            isolation,
            actor,
            request_id,
            services,
            secrets: spec.secrets,
            expires_at: now.saturating_add(spec.ttl).unwrap_or(Timestamp::MAX),
            limit: settings.limit,
            cool_down: settings.cool_down,
        };
        let sandbox = self.inner.store.create_sandbox(now, new).await?;
        drop(choosing);
        self.keep(&sandbox, Entry::Start);
        Ok(sandbox)
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
            services[at].port = Some(port);
        }
        Ok(services)
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
        let asked = self
            .inner
            .store
            .ask_sandbox_end(Timestamp::now(), id.to_owned(), goal, why);
        let sandbox = asked.await?;
        if let Some(poke) = self.inner.keepers.lock().get(id) {
            poke.notify_one();
        }
        Ok(sandbox)
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
        Ok(self
            .inner
            .store
            .extend_sandbox(now, id.to_owned(), expires_at)
            .await?)
    }

    /// How long a sandbox lives that says nothing itself.
    pub fn default_ttl(&self) -> Duration {
        self.inner.settings.ttl
    }

    /// The output of one of its services.
    pub fn logs(&self, sandbox: &Sandbox, service: &str) -> io::Result<Box<dyn LogSource>> {
        self.inner.driver.logs(&self.plan(sandbox), service)
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
        Plan {
            id: sandbox.id.clone(),
            services: sandbox.services.clone(),
            workdirs: sandbox.services.iter().map(place).collect(),
            secrets: sandbox.secrets.clone(),
            dir,
        }
    }

    fn keep(&self, sandbox: &Sandbox, entry: Entry) {
        let poke = Arc::new(Notify::new());
        self.inner
            .keepers
            .lock()
            .insert(sandbox.id.clone(), Arc::clone(&poke));
        tokio::spawn(Keeper::new(self.clone(), sandbox, poke).run(entry));
    }
}
