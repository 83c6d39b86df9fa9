//! What is counted, for Prometheus: **every metric is one declaration below**.
//!
//! Its doc comment is its help text, its type says what it is and by which labels; the exposed name, the registry
//! and the page `docs/reference/metrics.md` come from the same declaration. The registry is built once. Nothing that a
//! client sends becomes a label: labels are ids of the policy and words of closed lists. A request never
//! waits for a scrape.

mod gather;
mod labels;

pub use orket_shared::metrics::{
    Bytes, Counter, Counters, Declared, Gauge, Gauges, LabelFacts, Labels, Seconds,
};
use prometheus_client::encoding::text::encode;

pub use self::{
    gather::refresh,
    labels::{
        BuildLabels, Cap, CapLabels, HandshakeLabels, KeyLabels, LimiterKind, LimiterLabels,
        ReasonLabels, RequestLabels, RouteLabel, RouteLabels, SecretLabels, ShadowLabels,
        SourceLabels, Status, Verdict, VerdictLabels,
    },
};
use crate::edge::Edge;

/// What every name begins with.
pub const PREFIX: &str = "orket_gateway";

orket_shared::declare_metrics! { PREFIX:
    /// Requests that have come to their end
    requests: Counters<RequestLabels> = "requests";
    /// How long requests took, from the end of the head to the end of the answer; streams are not in it
    request_duration: Seconds<RouteLabels> = "request_duration_seconds";
    /// How long the head of the upstream's answer took to come, from the first try to connect
    upstream_first_byte: Seconds<RouteLabels> = "upstream_first_byte_seconds";
    /// How large the bodies of requests were, as far as they were read
    request_body: Bytes<RouteLabels> = "request_body_bytes";
    /// How large the bodies of answers were, as far as they were sent
    response_body: Bytes<RouteLabels> = "response_body_bytes";
    /// Requests that a rule in shadow mode would have refused
    shadow_denials: Counters<ShadowLabels> = "shadow_denials";
    /// Proven deliveries, by the secret that proved them: shows when nobody uses an old one any more
    webhook_secret_matched: Counters<SecretLabels> = "webhook_secret_matched";
    /// Connections that are open
    connections: Gauge = "connections";
    /// Connections that were taken in
    connections_accepted: Counter = "connections_accepted";
    /// Connections closed at once because a cap was reached
    connections_refused: Counters<CapLabels> = "connections_refused";
    /// TLS handshakes that failed
    tls_handshake_failures: Counters<HandshakeLabels> = "tls_handshake_failures";
    /// When the certificate of the https listener ends, in seconds since 1970; 0 where there is no such listener
    tls_certificate_expiry: Gauge = "tls_certificate_expiry_timestamp_seconds";
    /// Done deliveries that are remembered
    replay_entries: Gauge = "replay_entries";
    /// Most done deliveries that are remembered; the oldest are forgotten first
    replay_capacity: Gauge = "replay_capacity";
    /// Done deliveries that could not be written down and are remembered until the process ends
    replay_unwritten: Gauge = "replay_unwritten_entries";
    /// Deliveries that wait in the spool
    spool_waiting: Gauges<SourceLabels> = "spool_waiting";
    /// What the deliveries that wait take, in bytes
    spool_waiting_bytes: Gauges<SourceLabels> = "spool_waiting_bytes";
    /// How long the oldest delivery that waits has done so
    spool_oldest: Gauges<SourceLabels> = "spool_oldest_seconds";
    /// Deliveries that were put into the spool
    spooled: Counters<SourceLabels> = "spooled";
    /// Deliveries of the spool that were sent, whatever came of it
    spool_attempts: Counters<SourceLabels> = "spool_attempts";
    /// Deliveries of the spool that the upstream has taken
    spool_handed_over: Counters<SourceLabels> = "spool_handed_over";
    /// Deliveries of the spool that failed for good
    spool_failed: Counters<SourceLabels> = "spool_failed";
    /// Dead letters that had to make room for newer ones
    spool_dead_dropped: Counters<SourceLabels> = "spool_dead_dropped";
    /// Dead letters that are kept
    spool_dead: Gauge = "spool_dead";
    /// Files of the spool that could not be read and are kept aside
    spool_unreadable: Gauge = "spool_unreadable";
    /// Owners of budgets that a limiter remembers
    limiter_entries: Gauges<LimiterLabels> = "limiter_entries";
    /// Most owners of budgets that a limiter remembers; beyond it newcomers share one budget
    limiter_capacity: Gauges<LimiterLabels> = "limiter_capacity";
    /// Bytes of webhook bodies that are not proven yet
    unproven_bytes: Gauge = "unproven_bytes";
    /// Bytes of proven webhook bodies that are held until the upstream has answered or the disk has them
    proven_bytes: Gauge = "proven_bytes";
    /// Most bytes of webhook bodies that are held, unproven and proven; beyond it they are refused
    webhook_memory: Gauge = "webhook_memory_bytes";
    /// Bytes of the spool's deliveries that are just being handed over
    spool_in_hand: Gauge = "spool_in_hand_bytes";
    /// 1 while the policy in force is the one that was last read, 0 when the last reload was refused and the old one stayed
    policy_in_force_is_on_disk: Gauge = "policy_in_force_is_on_disk";
    /// When the policy in force was loaded, in seconds since 1970
    policy_loaded: Gauge = "policy_loaded_timestamp_seconds";
    /// When the policy was last read, whatever came of it, in seconds since 1970
    policy_read: Gauge = "policy_last_read_timestamp_seconds";
    /// Reloads that were asked for
    policy_reloads: Counters<VerdictLabels> = "policy_reloads";
    /// Routes of the policy in force
    policy_routes: Gauge = "policy_routes";
    /// API keys of the policy in force
    policy_keys: Gauge = "policy_api_keys";
    /// Requests that an API key opened
    key_uses: Counters<KeyLabels> = "key_uses";
    /// When an API key opened something last since the start, in seconds since 1970; none before that
    key_last_used: Gauges<KeyLabels> = "key_last_used_timestamp_seconds";
    /// When the last secret of an API key ends, in seconds since 1970; none for a key without an end
    key_expires: Gauges<KeyLabels> = "key_expires_timestamp_seconds";
    /// Secrets of an API key that open something; 0 when all are expired or revoked
    key_live_secrets: Gauges<KeyLabels> = "key_live_secrets";
    /// Answers that are still running: tunnels, event streams, long answers
    streams: Gauge = "streams";
    /// Open streams that were closed because they would not be admitted any more
    streams_closed: Counters<ReasonLabels> = "streams_closed";
    /// Log records that were lost because whoever takes them was too slow or its disk full
    log_records_dropped: Counter = "log_records_dropped";
    /// Faults of this program that ended a request or a task
    panics: Counter = "panics";
    /// Always 1; says which version runs
    build: Gauges<BuildLabels> = "build_info";
}

/// The page Prometheus reads.
pub fn page(edge: &Edge) -> String {
    // One scrape at a time: what is gathered for it is gathered once.
    let registry = edge.metrics.registry.lock();
    refresh(edge);
    let mut out = String::new();
    match encode(&mut out, &registry) {
        Ok(()) => out,
        // Writing to a string does not fail; were it to, a scraper sees an empty page.
        Err(std::fmt::Error) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_of_each_metric_what_its_declaration_says() {
        let metrics = Metrics::new();
        let mut page = String::new();
        assert_eq!(encode(&mut page, &metrics.registry.lock()), Ok(()));
        // Of a family without a series nothing is shown.
        for declared in Metrics::TABLE.iter().filter(|d| d.labels.is_empty()) {
            let family = declared.family();
            let kind = format!("# TYPE {family} {}\n", declared.kind);
            assert!(page.contains(&kind), "{kind}: {page}");
            let help = format!("# HELP {family} {}.\n", declared.help);
            assert!(page.contains(&help), "{help}: {page}");
        }
    }
}
