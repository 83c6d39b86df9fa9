//! The state all workers share: the policy in force, its budgets, the memory of done deliveries, and the
//! counters.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::{
    denial::Loudness,
    exchange::{Exchange, Stage},
    hearing::ShadowDenial,
    metrics::{Metrics, RequestLabels, RouteLabel, SecretLabels, ShadowLabels},
    pipeline::Snapshot,
    replay::{DEFAULT_CAPACITY, ReplayMemory},
    state::{StateDir, StateError},
};

/// See the [module](self).
#[derive(Debug)]
pub struct Edge {
    snapshot: ArcSwap<Snapshot>,
    /// Whether the last reload failed, so that another policy is on disk than in force.
    stale: AtomicBool,
    /// Deliveries that are done.
    pub replay: ReplayMemory,
    /// What is counted.
    pub metrics: Metrics,
}

impl Edge {
    /// The state for a first policy.
    pub fn new(snapshot: Snapshot) -> Self {
        let edge = Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            stale: AtomicBool::new(false),
            replay: ReplayMemory::new(DEFAULT_CAPACITY),
            metrics: Metrics::new(),
        };
        edge.note_reading();
        edge.note_loading();
        edge
    }

    /// The state for a first policy, with what the last process left in the state directory. Where the directory
    /// cannot be used, a policy without a spool is served all the same, with a memory that ends with the process.
    pub fn open(snapshot: Snapshot) -> Result<Self, StateError> {
        let path = snapshot.policy.state_dir.clone();
        let kept = StateDir::open(&path).and_then(|state| {
            ReplayMemory::kept_in(&Arc::new(state), DEFAULT_CAPACITY)
                .map_err(|source| StateError::Unusable { path, source })
        });
        let mut edge = Self::new(snapshot);
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
        self.snapshot.store(Arc::new(snapshot));
        self.stale.store(false, Ordering::Release);
        self.note_reading();
        self.note_loading();
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

    /// Records the end of a request: one line in the log, one count.
    pub fn record(&self, exchange: &Exchange, status: u16) {
        let millis = exchange.started.elapsed().as_secs_f64() * 1000.0;
        let request_id = exchange.request_id.as_str();
        let client = exchange.client.map(tracing::field::display);
        let nobody = "none";
        let (route, outcome, actor) = match &exchange.stage {
            Stage::Admitted { admitted, .. } => {
                let id = &admitted.route().id;
                let route = id.as_ref();
                let actor = admitted.actor();
                tracing::debug!(target: "access", event = "forwarded", request_id, client, route, %actor, status, millis);
                (Some(id), "forwarded", actor.kind())
            }
            Stage::Answered { what } => {
                tracing::debug!(target: "access", event = "answered", request_id, client, what, status, millis);
                (None, *what, nobody)
            }
            Stage::Refused { reason, route } => {
                let facts = reason.facts();
                let id = route.as_ref();
                let route = route.as_deref();
                let hint = reason.hint();
                let reason = facts.word;
                match facts.loudness {
                    Loudness::Quiet | Loudness::Notice => {
                        tracing::info!(target: "audit", event = "refused", request_id, client, route, reason, status, hint, millis);
                    }
                    Loudness::Fault => {
                        tracing::error!(target: "audit", event = "refused", request_id, client, route, reason, status, hint, millis);
                    }
                }
                (id, facts.word, nobody)
            }
            Stage::Judging => {
                tracing::debug!(target: "access", event = "abandoned", request_id, client, status, millis);
                (None, "abandoned", nobody)
            }
        };
        self.metrics.requests.inc(&RequestLabels {
            route: RouteLabel::of(route),
            outcome,
            actor,
            status: status.into(),
        });
    }

    /// Records what rules in shadow mode would have refused: one line in the audit log and one count for each.
    pub fn record_shadows(&self, exchange: &Exchange) {
        let request_id = exchange.request_id.as_str();
        let client = exchange.client.map(tracing::field::display);
        for shadow in &exchange.shadowed {
            let ShadowDenial {
                reason,
                route,
                limit,
                retry_after,
            } = shadow;
            let facts = reason.facts();
            let retry_after = retry_after.map(|d| d.as_secs() + u64::from(d.subsec_nanos() > 0));
            tracing::info!(
                target: "audit", event = "shadow_denied", request_id, client, route = route.as_ref(),
                reason = facts.word, limit = limit.as_deref(), would_answer = facts.status, retry_after,
                "a rule in shadow mode would have refused"
            );
            self.metrics.shadow_denials.inc(&ShadowLabels {
                route: RouteLabel::of(Some(route)),
                reason: facts.word,
                limit: RouteLabel::of(limit.as_ref()),
            });
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
