//! How the backend starts, in this order: the store with its lock, confinement, what earlier boots
//! left, the listener. And how it stops.
//!
//! Where the store's disk is full it listens at once and waits for room: [`room`].

use std::{io, path::Path, sync::Arc, time::Duration};

use axum::Router;

use crate::{
    api, confine, executor,
    listen::{Listener, Stop, peer},
    metrics::Metrics,
    retention, sandbox, scheduler,
    settings::{self, Address, OnStop, Settings},
    store::{Database, Store},
    workspace::Workspace,
};

mod error;
mod room;

pub use error::StartError;
use room::Waiting;

/// How long a start waits for the former owner of the store: one that was just killed may take a
/// moment to be gone.
const STORE_PATIENCE: Duration = Duration::from_millis(1500);
/// The program of supervisors: this very one, also after the file was replaced by an upgrade.
const PROGRAM: &str = "/proc/self/exe";

/// A backend that listens.
pub struct Backend {
    listener: Listener,
    stop: Stop,
    phase: Phase,
}

/// How far a start has come.
enum Phase {
    /// All is settled.
    Begun(Box<Works>),
    /// The store's disk is full.
    Waiting(Box<Waiting>),
}

impl Backend {
    /// Opens the store, settles what earlier boots left, and listens. Where the store's disk is full it
    /// listens only: [`Backend::serve`] does the rest when there is room.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let opened = Opened::new(settings)?;
        let phase = match opened.store() {
            Ok(store) if room::is_there(store.path()) => {
                match Works::begin(&opened, store.clone()).await {
                    Ok(works) => Phase::Begun(Box::new(works)),
                    Err(error) if error.lacks_room(store.path()) => {
                        tracing::warn!(%error, "the disk of the store is full again");
                        Phase::Waiting(Box::new(Waiting::new(opened.clone(), Some(store))?))
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(store) => Phase::Waiting(Box::new(Waiting::new(opened.clone(), Some(store))?)),
            Err(StartError::Store(error)) if room::lacks_room(&error, &opened.settings.store) => {
                Phase::Waiting(Box::new(Waiting::new(opened.clone(), None)?))
            }
            Err(error) => return Err(error),
        };
        let listen = &opened.settings.listen;
        let rule = peer::Rule::new(listen.peers.clone());
        let cut_off = opened.metrics.readers_cut_off.clone();
        let listener = Listener::bind(listen, rule, cut_off).await?;
        if let Phase::Begun(works) = &phase {
            works.is_ready()?;
        }
        Ok(Self {
            listener,
            stop: opened.stop,
            phase,
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
    /// which the next start takes over, or canceled, as configured. An error: there was room at last,
    /// and the backend could not begin.
    pub async fn serve(self) -> Result<(), StartError> {
        let stop = self.stop.watch();
        match self.phase {
            Phase::Begun(works) => {
                let served = self.listener.serve(works.router(), stop);
                works.work(served).await;
            }
            Phase::Waiting(waiting) => {
                let router = waiting.front().router();
                let mut served = tokio::spawn(self.listener.serve(router, stop));
                match waiting.over().await? {
                    Some(works) => {
                        works.is_ready()?;
                        let served = async { ended("listener", served.await) };
                        works.work(served).await;
                    }
                    None => ended("listener", (&mut served).await),
                }
            }
        }
        Ok(())
    }
}

/// Says that a part broke.
fn ended(part: &str, joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined {
        tracing::error!(%error, "the {part} broke");
    }
}

/// What every start needs before the store.
#[derive(Clone)]
struct Opened {
    settings: Settings,
    workspace: Workspace,
    metrics: Arc<Metrics>,
    stop: Stop,
}

impl Opened {
    fn new(settings: Settings) -> Result<Self, StartError> {
        let workspace = Workspace::open(&settings.workspace)
            .map_err(StartError::workspace(&settings.workspace))?;
        Ok(Self {
            settings,
            workspace,
            metrics: Arc::new(Metrics::new()),
            stop: Stop::default(),
        })
    }

    /// The store with its lock: what follows may only be done by the one owner.
    fn store(&self) -> Result<Database, StartError> {
        let metrics = Arc::clone(&self.metrics);
        let store = Database::open_within(&self.settings.store, STORE_PATIENCE, metrics)?;
        settings::apart(store.path(), self.workspace.root()).map_err(StartError::NotApart)?;
        let state = store.state_dir();
        crate::private_dir(&state)
            .map_err(StartError::beside_the_store("state directory", &state))?;
        Ok(store)
    }

    fn scheduler(
        &self,
        store: &Database,
        executor: executor::Executor,
        stop: Stop,
    ) -> scheduler::Scheduler {
        scheduler::Scheduler::new(
            Arc::new(store.clone()),
            executor,
            self.workspace.clone(),
            self.settings.runs.clone(),
            stop,
            Arc::clone(&self.metrics),
        )
    }

    fn sandboxes(
        &self,
        store: &Database,
        base: sandbox::Base<'_>,
        confine: impl FnOnce(&Path) -> io::Result<executor::Executor>,
    ) -> Result<sandbox::Sandboxes, StartError> {
        Ok(sandbox::Sandboxes::open(
            Arc::new(store.clone()),
            self.workspace.clone(),
            self.settings.sandboxes.clone(),
            self.settings.runs.min_isolation,
            base,
            confine,
        )?)
    }
}

/// Whose everything is that carries this store's mark.
fn owner(store: &Database) -> sandbox::stack::Owner {
    sandbox::stack::Owner {
        instance: store.instance().to_owned(),
        epoch: store.epoch(),
    }
}

/// All that works.
struct Works {
    router: Router,
    scheduler: scheduler::Scheduler,
    sandboxes: sandbox::Sandboxes,
    keeper: retention::Keeper,
    settings: Settings,
    report: confine::report::Report,
    epoch: i64,
}

impl Works {
    /// Puts everything together and settles what earlier boots left.
    async fn begin(opened: &Opened, store: Database) -> Result<Self, StartError> {
        let works = Self::prepare(opened, store).await?;
        works.settle().await?;
        Ok(works)
    }

    /// Finds out how commands are confined, and puts everything together. Nothing is set going.
    async fn prepare(opened: &Opened, store: Database) -> Result<Self, StartError> {
        let settings = &opened.settings;
        let state = store.state_dir();
        if let Err(error) = executor::orphans::take_in() {
            tracing::warn!(%error, "what outlives a killed supervisor cannot be taken in");
        }
        let posture = posture(settings, store.path(), &state, &opened.workspace).await?;
        std::fs::set_permissions(&state, way(&posture.runs))
            .map_err(StartError::beside_the_store("state directory", &state))?;
        let confined = |plan: &confine::Plan, level| {
            let plan = plan.clone();
            move |dir: &Path| executor::Executor::new(dir, PROGRAM)?.confining(plan, level)
        };
        let attempts = state.join("attempts");
        let executor = confined(&posture.runs, posture.report.level)(&attempts).map_err(
            StartError::beside_the_store("directory of attempts", &attempts),
        )?;
        let scheduler = opened.scheduler(&store, executor, opened.stop.clone());
        let commands = state.join("sandboxes/commands");
        let base = sandbox::Base {
            state: &state,
            commands: executor::Executor::new(&commands, PROGRAM).map_err(
                StartError::beside_the_store("directory of commands", &commands),
            )?,
            owner: owner(&store),
        };
        let services = confined(&posture.services, posture.report.services);
        let sandboxes = opened.sandboxes(&store, base, services)?;
        let epoch = store.epoch();
        let store: Store = Arc::new(store);
        let keeper = retention::Keeper::new(
            store.clone(),
            scheduler.clone(),
            settings.retention,
            Arc::clone(&opened.metrics),
            opened.stop.clone(),
        );
        let app = api::App::new(api::Parts {
            settings: settings.clone(),
            store,
            scheduler: scheduler.clone(),
            sandboxes: sandboxes.clone(),
            workspace: opened.workspace.clone(),
            stop: opened.stop.clone(),
            confinement: posture.report.clone(),
            metrics: Arc::clone(&opened.metrics),
            reads_only: false,
        });
        Ok(Self {
            router: api::router(app),
            scheduler,
            sandboxes,
            keeper,
            settings: settings.clone(),
            report: posture.report,
            epoch,
        })
    }

    fn router(&self) -> Router {
        self.router.clone()
    }

    /// Settles what earlier boots left, and says what that was.
    async fn settle(&self) -> Result<(), StartError> {
        // First, as only this can be refused by the store, and then nothing was set going.
        self.sandboxes.announce().await;
        let settled = self.sandboxes.settle().await?;
        tracing::info!(
            event = "sandboxes_settled",
            adopted = settled.adopted,
            interrupted = settled.interrupted,
            waiting = settled.waiting,
            ending = settled.ending,
            unclear = settled.unclear,
            "sandboxes of earlier boots are settled"
        );
        let settled = self.scheduler.settle().await?;
        tracing::info!(
            event = "settled",
            epoch = self.epoch,
            adopted = settled.adopted,
            requeued = settled.requeued,
            lost = settled.lost,
            unclear = settled.unclear,
            forgotten = settled.forgotten,
            "attempts of earlier boots are settled"
        );
        Ok(())
    }

    /// Says that the work can begin.
    fn is_ready(&self) -> Result<(), StartError> {
        tracing::info!(
            event = "posture",
            isolation = self.scheduler.isolation().name(),
            min_isolation = self.settings.runs.min_isolation.name(),
            concurrency = self.settings.runs.rules.concurrency,
            services = self.report.services.name(),
            confinement = serde_json::to_string(&self.report).unwrap_or_default(),
            "the backend is ready"
        );
        // From now on others of our user do not read or trace us, at the level `group` either.
        confine::hide().map_err(StartError::Hide)
    }

    /// Works for as long as requests are `served`, then ends as configured.
    async fn work(self, served: impl Future<Output = ()>) {
        let claiming = tokio::spawn(self.scheduler.clone().run());
        let sandboxes = self.sandboxes;
        let keeping = tokio::spawn(self.keeper.run());
        let reaping = tokio::spawn(async move {
            tokio::join!(sandboxes.reap(), sandboxes.reconcile());
        });
        served.await;
        reaping.abort();
        keeping.abort();
        ended("scheduler", claiming.await);
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

fn way(plan: &confine::Plan) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(plan.way())
}

/// Finds out how commands are confined here, and hands the workspace to the user they become.
async fn posture(
    settings: &Settings,
    store: &Path,
    state: &Path,
    workspace: &Workspace,
) -> Result<confine::selftest::Posture, StartError> {
    if let Some(user) = settings.confinement.run_as {
        let handed = workspace.hand_over(user);
        handed.map_err(StartError::workspace(workspace.root()))?;
    }
    let ours = confine::selftest::Ours {
        address: &settings.listen.address,
        store,
        state,
        workspace: workspace.root(),
        program: Path::new(PROGRAM),
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
    let failed = || StartError::directory("temporary directory", &place, "TMPDIR");
    crate::private_dir(&place).map_err(failed())?;
    let store = place.join("orket.db");
    std::fs::write(&store, "").map_err(failed())?;
    let state = place.join("orket.db.d");
    let made = crate::private_dir(&state).and_then(|()| Workspace::open(&place.join("workspace")));
    let posture = posture(settings, &store, &state, &made.map_err(failed())?).await;
    std::fs::remove_dir_all(&place).map_err(failed())?;
    Ok(posture?.report)
}
