//! Orket's inside: what work is there, and where does it run?
//!
//! The way of a request: `listen` admits a peer → `api` reads it strictly → one method of
//! [`store::Store`] makes the whole transition durable → the `scheduler` claims what is queued and
//! hands it to the `executor`, whose supervisors outlive this process.
//!
//! Dependencies point one way: `api`, `webhook` and `scheduler` use `sandbox`, `executor` and
//! `store`; those use the pure cores `card`, `run` and `sandbox_state`. This file alone knows all.
//! Nothing here knows a caller's credential: the gateway has judged those before.

// `orket_shared::say` does not panic when nobody reads any more.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod api;
pub mod card;
pub mod cli;
pub mod clock;
pub mod config;
pub mod confine;
pub mod crash_point;
pub mod executor;
pub mod listen;
pub mod metrics;
pub mod plan;
pub mod retention;
pub mod run;
pub mod sandbox;
pub mod sandbox_state;
pub mod schedule;
pub mod scheduler;
pub mod settings;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod supervisor;
pub mod webhook;
pub mod work;
pub mod workspace;

use std::{io, sync::Arc, time::Duration};

use listen::{BindError, Listener, Stop, peer};
use settings::{Address, OnStop, Settings};

/// How long a start waits for the former owner of the store: one that was just killed may take a
/// moment to be gone.
const STORE_PATIENCE: Duration = Duration::from_millis(1500);

/// Why the backend does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// What earlier boots left cannot be settled.
    #[error("the store cannot be read: {0}")]
    Settle(#[from] store::StoreError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// Sandboxes cannot be served.
    #[error(transparent)]
    Sandboxes(#[from] sandbox::OpenError),
    /// Commands are not confined as they have to be.
    #[error(transparent)]
    Confine(#[from] confine::selftest::ConfineError),
    /// This process cannot be kept from others of its user.
    #[error("this process cannot be made unreadable for others: {0}")]
    Hide(io::Error),
    /// Runs could reach the store.
    #[error("{0}")]
    NotApart(String),
    /// A directory cannot be used.
    #[error("cannot use the {what} {}: {source}", path.display())]
    Directory {
        /// What it is for.
        what: &'static str,
        /// Where it is.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A backend that listens.
pub struct Backend {
    listener: Listener,
    router: axum::Router,
    scheduler: scheduler::Scheduler,
    sandboxes: sandbox::Sandboxes,
    keeper: retention::Keeper,
    stop: Stop,
    settings: Settings,
}

impl Backend {
    /// Opens the store, settles what earlier boots left, and listens.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let failed = |what, path: &std::path::Path| {
            let path = path.to_owned();
            move |source| StartError::Directory { what, path, source }
        };
        let workspace = workspace::Workspace::open(&settings.workspace)
            .map_err(failed("workspace", &settings.workspace))?;
        // The lock first: what follows may only be done by the one owner.
        let metrics = Arc::new(metrics::Metrics::new());
        let counted = Arc::clone(&metrics);
        let store = store::Database::open_within(&settings.store, STORE_PATIENCE, counted)?;
        settings::apart(store.path(), workspace.root()).map_err(StartError::NotApart)?;
        let (file, state, epoch) = (store.path().to_owned(), store.state_dir(), store.epoch());
        let owner = sandbox::stack::Owner {
            instance: store.instance().to_owned(),
            epoch,
        };
        let store: store::Store = Arc::new(store);
        private_dir(&state).map_err(failed("state directory", &state))?;
        let attempts = state.join("attempts");
        if let Err(error) = executor::orphans::take_in() {
            tracing::warn!(%error, "what outlives a killed supervisor cannot be taken in");
        }
        let posture = posture(&settings, &file, &state, &workspace).await?;
        std::fs::set_permissions(&state, way(&posture.runs))
            .map_err(failed("state directory", &state))?;
        let confined = |plan: &confine::Plan, level| {
            let plan = plan.clone();
            move |dir: &std::path::Path| {
                executor::Executor::new(dir, PROGRAM)?.confining(plan, level)
            }
        };
        let executor = confined(&posture.runs, posture.report.level)(&attempts)
            .map_err(failed("attempts' directory", &attempts))?;
        let stop = Stop::default();
        let scheduler = scheduler::Scheduler::new(
            store.clone(),
            executor,
            workspace.clone(),
            settings.runs.clone(),
            stop.clone(),
            Arc::clone(&metrics),
        );
        let commands = state.join("sandboxes/commands");
        let base = sandbox::Base {
            state: &state,
            commands: executor::Executor::new(&commands, PROGRAM)
                .map_err(failed("directory of commands", &commands))?,
            owner,
        };
        let sandboxes = sandbox::Sandboxes::open(
            store.clone(),
            workspace.clone(),
            settings.sandboxes.clone(),
            settings.runs.min_isolation,
            base,
            confined(&posture.services, posture.report.services),
        )?;
        settle(&scheduler, &sandboxes, epoch).await?;
        let rule = peer::Rule::new(settings.listen.peers.clone());
        let cut_off = metrics.readers_cut_off.clone();
        let listener = Listener::bind(&settings.listen, rule, cut_off).await?;
        tracing::info!(
            event = "posture",
            isolation = scheduler.isolation().name(),
            min_isolation = settings.runs.min_isolation.name(),
            concurrency = settings.runs.rules.concurrency,
            services = posture.report.services.name(),
            confinement = serde_json::to_string(&posture.report).unwrap_or_default(),
            "the backend is ready"
        );
        // From now on others of our user do not read or trace us, at the level `group` either.
        confine::hide().map_err(StartError::Hide)?;
        let keeper = retention::Keeper::new(
            store.clone(),
            scheduler.clone(),
            settings.retention,
            Arc::clone(&metrics),
            stop.clone(),
        );
        let app = api::App::new(api::Parts {
            settings: settings.clone(),
            store,
            scheduler: scheduler.clone(),
            sandboxes: sandboxes.clone(),
            workspace,
            stop: stop.clone(),
            confinement: posture.report,
            metrics: Arc::clone(&metrics),
        });
        Ok(Self {
            listener,
            router: api::router(app),
            scheduler,
            sandboxes,
            keeper,
            stop,
            settings,
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> io::Result<Address> {
        self.listener.address()
    }

    /// The signal that stops it.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Works until a stop is asked for. Runs that are active then are left to their supervisors,
    /// which the next start takes over, or canceled, as configured.
    pub async fn serve(self) {
        let claiming = tokio::spawn(self.scheduler.clone().run());
        let sandboxes = self.sandboxes.clone();
        let keeping = tokio::spawn(self.keeper.run());
        let reaping = tokio::spawn(async move {
            tokio::join!(sandboxes.reap(), sandboxes.reconcile());
        });
        self.listener.serve(self.router, self.stop.watch()).await;
        reaping.abort();
        keeping.abort();
        if let Err(error) = claiming.await {
            tracing::error!(%error, "the scheduler broke");
        }
        match self.settings.runs.on_stop {
            OnStop::Leave => {}
            OnStop::Drain => {
                if !self.scheduler.drain(self.settings.runs.drain_timeout).await {
                    tracing::warn!(
                        "some runs had not ended in time; the next start takes them over"
                    );
                }
            }
            OnStop::Cancel => {
                let limit = self.settings.runs.grace + Duration::from_secs(10);
                self.scheduler.cancel_all(limit).await;
            }
        }
    }
}

/// Settles what earlier boots left, and says what that was.
async fn settle(
    scheduler: &scheduler::Scheduler,
    sandboxes: &sandbox::Sandboxes,
    epoch: i64,
) -> Result<(), StartError> {
    let settled = scheduler.settle().await?;
    tracing::info!(
        event = "settled",
        epoch,
        adopted = settled.adopted,
        requeued = settled.requeued,
        lost = settled.lost,
        unclear = settled.unclear,
        forgotten = settled.forgotten,
        "attempts of earlier boots are settled"
    );
    sandboxes.announce().await;
    let settled = sandboxes.settle().await?;
    tracing::info!(
        event = "sandboxes_settled",
        adopted = settled.adopted,
        interrupted = settled.interrupted,
        waiting = settled.waiting,
        ending = settled.ending,
        unclear = settled.unclear,
        "sandboxes of earlier boots are settled"
    );
    Ok(())
}

/// The program of supervisors: this very one, also after the file was replaced by an upgrade.
const PROGRAM: &str = "/proc/self/exe";

fn way(plan: &confine::Plan) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(plan.way())
}

/// Finds out how commands are confined here, and hands the workspace to the user they become.
async fn posture(
    settings: &Settings,
    store: &std::path::Path,
    state: &std::path::Path,
    workspace: &workspace::Workspace,
) -> Result<confine::selftest::Posture, StartError> {
    let failed = |source| StartError::Directory {
        what: "workspace",
        path: workspace.root().to_owned(),
        source,
    };
    if let Some(user) = settings.confinement.run_as {
        workspace.hand_over(user).map_err(failed)?;
    }
    let ours = confine::selftest::Ours {
        address: &settings.listen.address,
        store,
        state,
        workspace: workspace.root(),
        program: std::path::Path::new(PROGRAM),
    };
    let posture = confine::selftest::establish(&settings.confinement, &ours).await?;
    for note in &posture.report.notes {
        tracing::warn!(
            event = "confinement",
            note,
            "commands could be confined better"
        );
    }
    Ok(posture)
}

/// What [`Backend::start`] would find out about confinement, without starting one: in folders of its
/// own, which are removed.
pub async fn rehearse(settings: &Settings) -> Result<confine::report::Report, StartError> {
    let place = std::env::temp_dir().join(format!("orket-self-test-{}", std::process::id()));
    let failed = |source| StartError::Directory {
        what: "temporary directory",
        path: place.clone(),
        source,
    };
    private_dir(&place).map_err(failed)?;
    let store = place.join("orket.db");
    std::fs::write(&store, "").map_err(failed)?;
    let state = place.join("orket.db.d");
    let made =
        private_dir(&state).and_then(|()| workspace::Workspace::open(&place.join("workspace")));
    let posture = posture(settings, &store, &state, &made.map_err(failed)?).await;
    std::fs::remove_dir_all(&place).map_err(failed)?;
    Ok(posture?.report)
}

/// Makes a directory that is closed to everyone else, also where it exists.
pub(crate) fn private_dir(dir: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}
