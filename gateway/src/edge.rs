//! The state all workers share: the policy in force, its budgets, the memory of done deliveries, the
//! counters and the way to the log.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{
    connection::Connection,
    control::Identity,
    key_ledger::{KeepError, KeyLedger, KeyStanding, Revocation},
    log::Queue,
    metrics::{Metrics, RouteLabel, SecretLabels},
    pipeline::Snapshot,
    presence::{Mark, Presence},
    rehearsal::Entrance,
    replay::{DEFAULT_CAPACITY, ReplayMemory},
    secret::SecretDigest,
    spool::Spool,
    state::{StateDir, StateError},
    streams::{Claim, Stream, Streams},
};

/// See the [module](self).
#[derive(Debug)]
pub struct Edge {
    snapshot: ArcSwap<Snapshot>,
    /// Whether the last reload failed, so that another policy is on disk than in force.
    stale: AtomicBool,
    /// The door it listens at, as of its start: a reload moves no listener.
    pub entrance: Entrance,
    /// That it runs with its policy file; none with the built-in policy.
    pub presence: Option<Presence>,
    /// Its state directory, as of its start: a reload moves none.
    state_dir: PathBuf,
    /// That it runs beside the owner of its state directory, where it does.
    lodging: Option<Mark>,
    /// Held while the policy in force is replaced, and while a key of it is revoked.
    steering: Mutex<Steering>,
    /// What became of the API keys.
    pub keys: KeyLedger,
    /// Answers that are still running.
    pub streams: Arc<Streams>,
    /// Deliveries that are done, or wait in the spool.
    pub replay: Arc<ReplayMemory>,
    /// Deliveries that wait; `None` where the state directory is not this process's.
    pub spool: Option<Arc<Spool>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where records go.
    pub log: Queue,
}

/// What a reload and a revocation have to know of each other.
#[derive(Debug, Default)]
struct Steering {
    /// Whether a policy is being read.
    reading: bool,
    /// The keys that were revoked since that began: what was read may have another secret for them.
    revoked: Vec<String>,
}

/// Why a gateway cannot begin with what lies in its state directory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The policy has a spool, and the directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The directory is there, and what it says of revoked keys cannot be read.
    #[error(transparent)]
    Revoked(#[from] KeepError),
}

impl Edge {
    /// The state for a first policy.
    pub fn new(snapshot: Snapshot, log: Queue) -> Self {
        let keys = KeyLedger::default();
        snapshot.policy.keys.join(&keys);
        let edge = Self {
            entrance: Entrance::of(&snapshot.policy.listen),
            presence: None,
            state_dir: snapshot.policy.state_dir.clone(),
            lodging: None,
            keys,
            streams: Arc::default(),
            snapshot: ArcSwap::from_pointee(snapshot),
            stale: AtomicBool::new(false),
            steering: Mutex::default(),
            replay: Arc::new(ReplayMemory::new(DEFAULT_CAPACITY)),
            spool: None,
            metrics: Arc::new(Metrics::new()),
            log,
        };
        edge.note_reading();
        edge.note_loading();
        edge
    }

    /// The state for a first policy, with what the last process left in the state directory. Where the directory
    /// cannot be made, nor written, or another gateway owns it, a policy without a spool is served all the same, with a memory that ends with the process.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        snapshot: Snapshot,
        presence: Option<Presence>,
        log: Queue,
    ) -> Result<Self, OpenError> {
        let (path, spools) = (snapshot.policy.state_dir.clone(), snapshot.policy.spools());
        let mut edge = Self::new(snapshot, log);
        edge.presence = presence;
        let kept = match StateDir::open(&path).map(Arc::new) {
            Ok(state) => {
                edge.keys.keep_in(state.clone())?;
                edge.remember_in(state)
            }
            Err(e) => {
                // What is not there was never written. Anything else may name revoked keys, and has to be read.
                if !spools && is_there(&path) {
                    // Shown before it is read, so that whoever sees nobody and adds to it is read.
                    edge.lodging = Some(StateDir::lodge(&path)?);
                    edge.keys.read_from(&path)?;
                }
                edge.keys.keep_nowhere(e.to_string());
                Err(e)
            }
        };
        match kept {
            Ok(()) => {}
            // What is promised to a sender has to be kept.
            Err(e) if spools => return Err(e.into()),
            Err(e) => tracing::warn!(
                event = "state_not_kept",
                error = %e,
                "done deliveries and revoked keys are remembered until the program ends; the backend settles what is forgotten of deliveries"
            ),
        }
        Ok(edge)
    }

    /// From now on deliveries are remembered, and wait, in the state directory.
    fn remember_in(&mut self, state: Arc<StateDir>) -> Result<(), StateError> {
        let path = state.path().to_owned();
        let unusable = |source| StateError::Unusable { path, source };
        let replay = ReplayMemory::kept_in(&state, DEFAULT_CAPACITY).map_err(unusable.clone())?;
        let replay = Arc::new(replay);
        let spool = Spool::open(state, replay.clone(), self.metrics.clone()).map_err(unusable)?;
        self.replay = replay;
        self.spool = Some(spool);
        Ok(())
    }

    /// What a request that begins now is judged by.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// A policy is read from now on, to be brought into force or not.
    pub fn begin_reading(&self) {
        *self.steering.lock() = Steering {
            reading: true,
            revoked: Vec::new(),
        };
    }

    /// From now on new requests are judged by this. A key that was revoked since it was begun to be read stays revoked, whatever secrets
    /// were read for it.
    pub fn bring_into_force(&self, snapshot: Snapshot) {
        let mut steering = self.steering.lock();
        let revoked = std::mem::take(&mut *steering).revoked;
        for id in &revoked {
            let secrets = snapshot.policy.keys.digests_of(id);
            let added = self.keys.revoke(id, &secrets, Timestamp::now());
            if added > 0 {
                tracing::info!(name: "act", target: "audit", event = "key_revoked", key = id, secrets = added, streams = 0, "an API key was revoked while this policy was read: what it has for it is refused, too");
            }
        }
        snapshot.policy.keys.join(&self.keys);
        self.keys.forget_all_but(&snapshot.policy.keys);
        self.snapshot.store(Arc::new(snapshot));
        drop(steering);
        if !revoked.is_empty()
            && let Err(e) = self.keys.keep()
        {
            tracing::error!(event = "fault", error = %e, "revoked keys are not on disk");
        }
        self.stale.store(false, Ordering::Release);
        self.note_reading();
        self.note_loading();
        self.judge_streams();
        if let Some(spool) = &self.spool {
            spool.policy_changed();
        }
    }

    /// An upstream answers: whatever waits for it need not wait longer.
    pub fn heard(&self, upstream: &str) {
        if let Some(spool) = &self.spool {
            spool.heard(upstream);
        }
    }

    /// Closes the streams that the policy in force would not admit, and says how many.
    fn judge_streams(&self) -> usize {
        let snapshot = self.snapshot();
        self.streams
            .judge(&snapshot.policy, Timestamp::now(), &self.metrics)
    }

    /// From now on this answer is closed when it would not be admitted any more. It is judged at once: since its request was
    /// judged another policy may have come into force, or its key may have been revoked.
    pub fn enter_stream(&self, claim: Claim, connection: Arc<Connection>) -> Stream {
        let stream = Streams::enter(&self.streams, claim, connection);
        let snapshot = self.snapshot();
        self.streams
            .judge_one(&stream, &snapshot.policy, Timestamp::now(), &self.metrics);
        stream
    }

    /// The policy on disk does not load: the one in force stays, and says so.
    pub fn keep_old_policy(&self) {
        *self.steering.lock() = Steering::default();
        self.stale.store(true, Ordering::Release);
        self.note_reading();
    }

    /// The policy was read just now, whatever came of it.
    fn note_reading(&self) {
        self.metrics.policy_read.set(Timestamp::now().as_second());
    }

    /// The policy in force was loaded just now.
    fn note_loading(&self) {
        self.metrics.policy_loaded.set(Timestamp::now().as_second());
    }

    /// Whether the policy on disk, as of the last reload, is the one in force.
    pub fn in_force_is_on_disk(&self) -> bool {
        !self.stale.load(Ordering::Acquire)
    }

    /// The state of the policy, for the operator.
    pub fn status(&self) -> serde_json::Value {
        let snapshot = self.snapshot();
        let policy = &snapshot.policy;
        serde_json::json!({
            "in_force_is_on_disk": self.in_force_is_on_disk(),
            "reload_under_way": self.steering.lock().reading,
            "origin": policy.origin.to_string(),
            "environment": policy.environment.name(),
            "routes": policy.routes.iter().count(),
            "api_keys": policy.keys.len(),
        })
    }

    /// How the API keys of the policy in force stand.
    pub fn key_standings(&self) -> Vec<KeyStanding> {
        self.keys
            .standings(&self.snapshot().policy.keys, Timestamp::now())
    }

    /// Whether this gateway runs with the policy file that is meant.
    pub fn runs_with(&self, policy: Option<Identity>) -> bool {
        let presence = self.presence.as_ref();
        let own = presence.and_then(|presence| Identity::of(presence.file()).ok());
        own.is_some() && own == policy
    }

    /// Whether the state directory that is meant is the one of this gateway.
    pub fn keeps_state_in(&self, state: Option<Identity>) -> bool {
        let own = Identity::of(&self.state_dir).ok();
        own.is_some() && own == state
    }

    /// Revokes a key of the policy in force with all its secrets, and those of `more`, which stand in its file: refused from now on, by this
    /// and by every policy that follows, and by the next start of the gateway.
    pub fn revoke_key(&self, id: &str, more: &[SecretDigest]) -> Revocation {
        let (known, before, secrets) = {
            let mut steering = self.steering.lock();
            if steering.reading {
                steering.revoked.push(id.to_owned());
            }
            let mut secrets = self.snapshot().policy.keys.digests_of(id);
            let known = !secrets.is_empty();
            secrets.extend(
                more.iter()
                    .filter(|d| !secrets.contains(d))
                    .copied()
                    .collect::<Vec<_>>(),
            );
            // In force and on open streams first, on disk then: a slow disk opens nothing.
            let revoked = self.keys.revoke(id, &secrets, Timestamp::now());
            (known, secrets.len() - revoked, revoked)
        };
        if !known && secrets + before == 0 {
            return Revocation::default();
        }
        let streams = self.judge_streams();
        let not_kept = self.keys.keep().err().map(|e| e.to_string());
        match &not_kept {
            None => {
                tracing::info!(name: "act", target: "audit", event = "key_revoked", key = id, secrets, streams, "an API key was revoked");
            }
            Some(error) => {
                tracing::error!(name: "act", target: "audit", event = "key_revoked", key = id, secrets, streams, error, "an API key was revoked, but only until this gateway stops");
            }
        }
        Revocation {
            known,
            secrets,
            before,
            streams,
            not_kept,
            other_policy: false,
        }
    }

    /// Counts which of a route's secrets proved a delivery.
    pub fn count_secret(&self, route: &Arc<str>, secret: Option<&Arc<str>>) {
        self.metrics.webhook_secret_matched.inc(&SecretLabels {
            route: RouteLabel::of(Some(route)),
            secret: RouteLabel::of(secret),
        });
    }
}

/// Whether something may be at this path: also where nobody can say.
fn is_there(path: &Path) -> bool {
    !matches!(path.symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound)
}
