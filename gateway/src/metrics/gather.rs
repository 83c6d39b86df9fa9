//! What is not counted as it happens but looked up when someone asks: sizes of tables, the state of the policy.

use jiff::Timestamp;

use super::{BuildLabels, KeyLabels, LimiterLabels, RouteLabel, SourceLabels};
use crate::edge::Edge;

/// Brings the numbers that are looked up to what they are now.
pub fn refresh(edge: &Edge) {
    let metrics = &edge.metrics;
    let snapshot = edge.snapshot();
    let (policy, budgets) = (&snapshot.policy, &snapshot.budgets);
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);

    metrics.replay_entries.set(number(edge.replay.len()));
    metrics.replay_capacity.set(number(edge.replay.capacity()));
    metrics
        .unproven_bytes
        .set(number(budgets.bodies().unproven()));
    metrics.proven_bytes.set(number(budgets.bodies().proven()));
    metrics.webhook_memory.set(number(budgets.room()));
    metrics
        .replay_unwritten
        .set(i64::try_from(edge.replay.unwritten()).unwrap_or(i64::MAX));
    if let Some(spool) = &edge.spool {
        // A source of which nothing waits is no longer shown.
        metrics.spool_waiting.clear();
        metrics.spool_waiting_bytes.clear();
        metrics.spool_oldest.clear();
        for standing in spool.standing() {
            let labels = SourceLabels {
                source: RouteLabel::of(Some(&standing.source)),
            };
            let bytes = usize::try_from(standing.bytes).unwrap_or(usize::MAX);
            let oldest = usize::try_from(standing.oldest.as_secs()).unwrap_or(usize::MAX);
            metrics.spool_waiting.set(&labels, standing.entries);
            metrics.spool_waiting_bytes.set(&labels, bytes);
            metrics.spool_oldest.set(&labels, oldest);
        }
        metrics.spool_in_hand.set(number(spool.in_hand_bytes()));
        let (dead, unreadable) = spool.lost();
        metrics.spool_dead.set(number(dead));
        metrics.spool_unreadable.set(number(unreadable));
    }
    // A limiter that the policy no longer has is no longer shown.
    metrics.limiter_entries.clear();
    metrics.limiter_capacity.clear();
    for table in budgets.tables() {
        let labels = LimiterLabels {
            limiter: RouteLabel::from(table.id),
            kind: table.kind,
        };
        metrics.limiter_entries.set(&labels, table.entries);
        metrics.limiter_capacity.set(&labels, table.capacity);
    }
    metrics
        .policy_in_force_is_on_disk
        .set(i64::from(edge.in_force_is_on_disk()));
    let expiry = policy.identity.as_ref().map(|i| i.not_after().as_second());
    metrics.tls_certificate_expiry.set(expiry.unwrap_or(0));
    metrics
        .policy_routes
        .set(number(policy.routes.iter().count()));
    metrics.policy_keys.set(number(policy.keys.len()));
    metrics.streams.set(number(edge.streams.len()));
    refresh_keys(edge);
    let dropped = edge.log.dropped();
    let counted = metrics.log_records_dropped.get();
    metrics
        .log_records_dropped
        .inc_by(dropped.saturating_sub(counted));
    let version = env!("CARGO_PKG_VERSION");
    metrics.build.set(&BuildLabels { version }, 1);
}

/// How the API keys of the policy in force stand.
fn refresh_keys(edge: &Edge) {
    let metrics = &edge.metrics;
    let seconds = |at: Timestamp| usize::try_from(at.as_second()).unwrap_or(0);
    metrics.key_last_used.clear();
    metrics.key_expires.clear();
    metrics.key_live_secrets.clear();
    for standing in edge.key_standings() {
        let key = KeyLabels { key: standing.id };
        // Counted elsewhere, where a request need not look its key up; a scrape takes in what is new.
        let new = standing.uses.saturating_sub(metrics.key_uses.count(&key));
        metrics.key_uses.inc_by(&key, new);
        let live = standing.secrets.iter().filter(|s| s.live).count();
        metrics.key_live_secrets.set(&key, live);
        if let Some(at) = standing.last_used {
            metrics.key_last_used.set(&key, seconds(at));
        }
        if let Some(at) = standing.expires {
            metrics.key_expires.set(&key, seconds(at));
        }
    }
}
