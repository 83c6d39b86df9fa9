//! A store whose disk is full: what there is can be read, nothing is taken on, and everything begins
//! once there is room.

use std::{
    fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request};
use parking_lot::RwLock;
use tower::ServiceExt as _;

use super::{Opened, StartError, Works};
use crate::{
    api,
    executor::Executor,
    listen::Stop,
    sandbox,
    store::{Database, HealthStore as _, OpenError, is_full},
};

/// The room that a start needs on the store's disk, in bytes: for the self-test, and for what is settled.
const NEEDED: usize = 256 << 10;
/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether the disk of the store at `path` has the room that a start needs. What else may be wrong with
/// it whoever uses it will say.
pub(super) fn is_there(path: &Path) -> bool {
    // Beside the file itself, which a link may lead to on another disk.
    let file = path.canonicalize();
    let file = file.as_deref().unwrap_or(path);
    let mut name = file.as_os_str().to_owned();
    name.push(".room");
    let name = Path::new(&name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(name)
        .and_then(|mut file| file.write_all(&vec![0; NEEDED]));
    let _ = std::fs::remove_file(name);
    !written.is_err_and(|error| is_full(&error))
}

/// What is answered to everyone from now on; what that is can change.
#[derive(Clone)]
pub(super) struct Front(Arc<RwLock<Router>>);

impl Front {
    pub(super) fn new(router: Router) -> Self {
        Self(Arc::new(RwLock::new(router)))
    }

    pub(super) fn becomes(&self, router: Router) {
        *self.0.write() = router;
    }

    /// The router of every connection.
    pub(super) fn router(&self) -> Router {
        let front = self.clone();
        Router::new().fallback(async move |request: Request| {
            let now = front.0.read().clone();
            now.oneshot(request).await
        })
    }
}

/// A start that waits for room.
pub(super) struct Waiting {
    opened: Opened,
    /// The store, where it opens at all.
    store: Option<Database>,
    front: Front,
    /// Ends what reads on and on, so that it comes back to the whole.
    until_then: Stop,
}

impl Waiting {
    /// What can be had meanwhile: reading, where the store opens.
    pub(super) fn new(opened: Opened, store: Option<Database>) -> Result<Self, StartError> {
        let until_then = Stop::default();
        let router = match &store {
            Some(store) => api::router(reader(&opened, store, until_then.clone())?),
            None => api::without_a_store(),
        };
        tracing::warn!(
            event = "waits_for_room",
            reads = store.is_some(),
            needed = NEEDED,
            "the disk of the store is full: nothing is taken on or started until there is room"
        );
        Ok(Self {
            opened,
            store,
            front: Front::new(router),
            until_then,
        })
    }

    pub(super) fn front(&self) -> &Front {
        &self.front
    }

    /// Waits until there is room, and begins; `None`: a stop came first.
    pub(super) async fn over(mut self) -> Result<Option<Works>, StartError> {
        loop {
            tokio::select! {
                () = self.opened.stop.stopped() => {
                    self.until_then.stop();
                    return Ok(None);
                }
                () = tokio::time::sleep(PAUSE) => {}
            }
            let Some(store) = self.look().await? else {
                continue;
            };
            tracing::info!(event = "has_room", "the disk of the store has room again");
            match Works::begin(&self.opened, store.clone()).await {
                Ok(works) => {
                    self.front.becomes(works.router());
                    self.until_then.stop();
                    return Ok(Some(works));
                }
                // It was taken again. Nothing was begun.
                Err(error) if error.lacks_room(store.path()) => {
                    tracing::warn!(%error, "the disk of the store is full again");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The store, when it takes writes.
    async fn look(&mut self) -> Result<Option<Database>, StartError> {
        if !is_there(&self.opened.settings.store) {
            return Ok(None);
        }
        let store = match self.store.take() {
            Some(store) => store,
            None => match self.opened.store() {
                Ok(store) => store,
                Err(StartError::Store(error))
                    if lacks_room(&error, &self.opened.settings.store) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        self.store = Some(store.clone());
        // Writes down what the boot owes.
        if let Err(error) = store.probe().await {
            tracing::warn!(%error, "the store takes no writes yet");
            return Ok(None);
        }
        Ok(Some(store))
    }
}

/// Whether a store does not open for want of room.
pub(super) fn lacks_room(error: &OpenError, path: &Path) -> bool {
    match error {
        OpenError::Full { .. } => true,
        // What the engine calls it differs with the file that it could not write.
        OpenError::Io { .. } | OpenError::Engine(_) | OpenError::Content(_) => !is_there(path),
        OpenError::Missing { .. }
        | OpenError::Locked { .. }
        | OpenError::InUse { .. }
        | OpenError::Linked { .. }
        | OpenError::Newer { .. }
        | OpenError::Foreign
        | OpenError::Migration { .. }
        | OpenError::ReadOnly { .. }
        | OpenError::Damaged { .. } => false,
    }
}

/// An app that reads: what would start or end anything is never set going.
fn reader(opened: &Opened, store: &Database, stop: Stop) -> Result<api::App, StartError> {
    let failed = StartError::beside_the_store;
    let state = store.state_dir();
    let idle = |name: &str| {
        let dir = state.join(name);
        Executor::new(&dir, super::PROGRAM).map_err(failed("state directory", &dir))
    };
    let scheduler = opened.scheduler(store, idle("attempts")?, stop.clone());
    let base = sandbox::Base {
        state: &state,
        commands: idle("sandboxes/commands")?,
        owner: super::owner(store),
    };
    let sandboxes = opened.sandboxes(store, base, |dir| Executor::new(dir, super::PROGRAM))?;
    let mut confinement = crate::confine::report::Report::unknown();
    confinement
        .notes
        .push("not tried yet: the disk of the store is full".to_owned());
    Ok(api::App::new(api::Parts {
        settings: opened.settings.clone(),
        store: Arc::new(store.clone()),
        scheduler,
        sandboxes,
        workspace: opened.workspace.clone(),
        stop,
        confinement,
        metrics: Arc::clone(&opened.metrics),
        reads_only: true,
    }))
}
