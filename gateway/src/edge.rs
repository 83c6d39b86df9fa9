//! The state all workers share: the policy in force, its budgets, the memory of done deliveries, and the
//! counters.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    denial::Loudness,
    exchange::{Exchange, Stage},
    metrics::{Metrics, RequestLabels},
    pipeline::Snapshot,
    replay::{DEFAULT_CAPACITY, ReplayMemory},
};

/// See the [module](self).
#[derive(Debug)]
pub struct Edge {
    snapshot: ArcSwap<Snapshot>,
    /// Deliveries that are done.
    pub replay: ReplayMemory,
    /// What is counted.
    pub metrics: Metrics,
}

impl Edge {
    /// The state for a first policy.
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            replay: ReplayMemory::new(DEFAULT_CAPACITY),
            metrics: Metrics::default(),
        }
    }

    /// What a request that begins now is judged by.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Records the end of a request: one line in the log, one count.
    pub fn record(&self, exchange: &Exchange, status: u16) {
        let millis = exchange.started.elapsed().as_secs_f64() * 1000.0;
        let request_id = exchange.request_id.as_str();
        let client = exchange.client.map(tracing::field::display);
        let labels = match &exchange.stage {
            Stage::Admitted { admitted, .. } => {
                let route = admitted.route().id.as_ref();
                let actor = admitted.actor();
                tracing::debug!(target: "access", event = "forwarded", request_id, client, route, %actor, status, millis);
                RequestLabels::new(route, "forwarded", status)
            }
            Stage::Answered { what } => {
                tracing::debug!(target: "access", event = "answered", request_id, client, what, status, millis);
                RequestLabels::new("", what, status)
            }
            Stage::Refused { reason, route } => {
                let facts = reason.facts();
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
                RequestLabels::new(route.unwrap_or(""), facts.word, status)
            }
            Stage::Judging => {
                tracing::debug!(target: "access", event = "abandoned", request_id, client, status, millis);
                RequestLabels::new("", "abandoned", status)
            }
        };
        self.metrics.requests.get_or_create(&labels).inc();
    }
}
