//! What is counted, for Prometheus: one struct, one name each.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::edge::Edge;

/// All counters. The doc comment of a field is its help text.
#[derive(Debug, Default, Clone)]
pub struct Metrics {
    /// Requests by route, outcome (`forwarded`, `health`, `duplicate` or the true reason of a refusal) and status.
    pub requests: Family<RequestLabels, Counter>,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections closed at once because a cap was reached.
    pub connections_refused: Counter,
}

/// What requests are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    route: RouteLabel,
    outcome: &'static str,
    status: u16,
}

/// A route's id, shared with the policy; empty where no route was found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RouteLabel(Option<Arc<str>>);

impl EncodeLabelValue for RouteLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_deref().unwrap_or("").encode(encoder)
    }
}

impl RequestLabels {
    /// Labels of one request.
    pub fn new(route: Option<&Arc<str>>, outcome: &'static str, status: u16) -> Self {
        Self {
            route: RouteLabel(route.cloned()),
            outcome,
            status,
        }
    }
}

/// The page Prometheus reads.
pub fn page(edge: &Edge) -> String {
    let metrics = &edge.metrics;
    let mut registry = Registry::with_prefix("orket_gateway");
    registry.register(
        "requests",
        "Requests by route, outcome and status",
        metrics.requests.clone(),
    );
    registry.register(
        "connections",
        "Connections that are open",
        metrics.connections.clone(),
    );
    registry.register(
        "connections_refused",
        "Connections closed at once because a cap was reached",
        metrics.connections_refused.clone(),
    );
    let snapshot = edge.snapshot();
    let mut gauge = |name: &str, help: &str, value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge(
        "replay_entries",
        "Done deliveries that are remembered",
        edge.replay.len(),
    );
    gauge(
        "failing_addresses",
        "Client addresses that failed a proof lately",
        snapshot.budgets.failing_addresses(),
    );
    gauge(
        "unproven_bytes",
        "Bytes of webhook bodies that are not proven yet",
        snapshot.budgets.unproven_bytes(),
    );
    gauge(
        "limiter_entries",
        "Owners of budgets that are remembered",
        snapshot
            .budgets
            .named()
            .iter()
            .map(|n| n.limiter().len())
            .sum(),
    );
    gauge(
        "policy_in_force_is_on_disk",
        "1 when the last reload succeeded, 0 when the old policy stayed in force",
        usize::from(edge.in_force_is_on_disk()),
    );
    let mut out = String::new();
    match encode(&mut out, &registry) {
        Ok(()) => out,
        // Writing to a string does not fail; were it to, a scraper sees an empty page.
        Err(std::fmt::Error) => String::new(),
    }
}
