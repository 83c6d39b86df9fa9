//! The state all workers share: the policy in force, its budgets, the memory of done deliveries, the
//! counters and the way to the log.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::{
    connection::Connection,
    key_ledger::{KeyLedger, KeyStanding, Revocation},
    log::Queue,
    metrics::Metrics,
    pipeline::Snapshot,
    replay::{DEFAULT_CAPACITY, ReplayMemory},
    state::{StateDir, StateError},
    streams::{Claim, Stream, Streams},
};

/// See the [module](self).
#[derive(Debug)]
pub struct Edge {
    snapshot: ArcSwap<Snapshot>,
    /// Whether the last reload failed, so that another policy is on disk than in force.
    stale: AtomicBool,
    /// What became of the API keys.
    pub keys: KeyLedger,
    /// Answers that are still running.
    pub streams: Arc<Streams>,
    /// Deliveries that are done.
    pub replay: ReplayMemory,
    /// What is counted.
    pub metrics: Metrics,
    /// Where records go.
    pub log: Queue,
}

impl Edge {
    /// The state for a first policy.
    pub fn new(snapshot: Snapshot, log: Queue) -> Self {
        let keys = KeyLedger::default();
        snapshot.policy.keys.join(&keys);
        let edge = Self {
            keys,
            streams: Arc::default(),
            snapshot: ArcSwap::from_pointee(snapshot),
            stale: AtomicBool::new(false),
            replay: ReplayMemory::new(DEFAULT_CAPACITY),
            metrics: Metrics::new(),
            log,
        };
        edge.note_reading();
        edge.note_loading();
        edge
    }

    /// The state for a first policy, with what the last process left in the state directory. Where the directory
    /// cannot be used, a policy without a spool is served all the same, with a memory that ends with the process.
    pub fn open(snapshot: Snapshot, log: Queue) -> Result<Self, StateError> {
        let path = snapshot.policy.state_dir.clone();
        let kept = StateDir::open(&path).and_then(|state| {
            ReplayMemory::kept_in(&Arc::new(state), DEFAULT_CAPACITY)
                .map_err(|source| StateError::Unusable { path, source })
        });
        let mut edge = Self::new(snapshot, log);
        match kept {
            Ok(replay) => edge.replay = replay,
            Err(e) => tracing::warn!(
                event = "state_not_kept",
                error = %e,
                "done deliveries are remembered until the program ends; the backend settles what is forgotten"
            ),
        }
        Ok(edge)
    }

    /// What a request that begins now is judged by.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// From now on new requests are judged by this.
    pub fn bring_into_force(&self, snapshot: Snapshot) {
        snapshot.policy.keys.join(&self.keys);
        self.keys.forget_all_but(&snapshot.policy.keys);
        self.snapshot.store(Arc::new(snapshot));
        self.stale.store(false, Ordering::Release);
        self.note_reading();
        self.note_loading();
        self.judge_streams();
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

    /// Revokes a key of the policy in force with all its secrets: refused from now on, by this and by every policy that
    /// follows, and by the next start of the gateway.
    pub fn revoke_key(&self, id: &str) -> Revocation {
        let snapshot = self.snapshot();
        let secrets: Vec<_> = snapshot
            .policy
            .keys
            .iter()
            .filter(|key| *key.id == *id)
            .map(|key| key.digest)
            .collect();
        if secrets.is_empty() {
            return Revocation {
                known: false,
                secrets: 0,
                before: 0,
                streams: 0,
                not_kept: None,
            };
        }
        // In force and on open streams first, on disk then: a slow disk opens nothing.
        let now = Timestamp::now();
        let revoked = self.keys.revoke(id, &secrets, now);
        let before = secrets.len() - revoked;
        let secrets = revoked;
        let streams = self.judge_streams();
        let not_kept = self.keys.keep().err().map(|e| e.to_string());
        match &not_kept {
            None => {
                tracing::info!(target: "audit", event = "key_revoked", key = id, secrets, streams, "an API key was revoked");
            }
            Some(error) => {
                tracing::error!(target: "audit", event = "key_revoked", key = id, secrets, streams, error, "an API key was revoked, but only until this gateway stops");
            }
        }
        Revocation {
            known: true,
            secrets,
            before,
            streams,
            not_kept,
        }
    }
}
