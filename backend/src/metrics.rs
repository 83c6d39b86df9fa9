//! What is counted, for Prometheus: **every metric is one declaration below**.
//!
//! Its doc comment is its help text, its type says what it is and by which labels; the exposed name, the registry and
//! the page `docs/reference/backend-metrics.md` come from the same declaration. What happens to runs is counted from
//! the feed of events, so only what is on disk counts. Labels are names of the configuration and words of closed lists.

mod gather;
mod labels;
mod observe;

pub use orket_shared::metrics::{
    Counter, Counters, Declared, Gauge, Gauges, LabelFacts, Labels, LongSeconds, Sizes, Time,
};
use prometheus_client::encoding::text::encode;

pub use self::labels::{
    BuildLabels, OutcomeLabels, QueueLabels, QueueStateLabels, ReaderLabels, RemovedLabels,
    StateLabels, StatusLabels,
};

/// What every name begins with.
pub const PREFIX: &str = "orket_backend";

orket_shared::declare_metrics! { PREFIX:
    /// Runs that were taken in
    runs_submitted: Counter = "runs_submitted";
    /// Runs that came to their end
    runs_ended: Counters<StateLabels> = "runs_ended";
    /// How long runs were in a state, counted when they leave it
    run_state: LongSeconds<StateLabels> = "run_state_seconds";
    /// Attempts that came to their end
    attempts: Counters<OutcomeLabels> = "attempts_ended";
    /// Attempts after which a run waits for another one
    retries: Counter = "run_retries";
    /// Attempts that were taken back before their command began; they are not spent
    attempts_taken_back: Counter = "attempts_taken_back";
    /// Runs that have not ended, by queue
    runs_unfinished: Gauges<QueueStateLabels> = "runs_unfinished";
    /// How long the run that waits longest for a slot has done so
    queue_oldest: Gauges<QueueLabels> = "queue_oldest_seconds";
    /// Runs that are running or canceling, as the store has it
    runs_active: Gauge = "runs_active";
    /// Attempts whose supervisors are followed, as this process has it; differs from the store's number only for moments
    attempts_followed: Gauge = "attempts_followed";
    /// Times of schedules that came
    schedule_times: Counters<OutcomeLabels> = "schedule_times";
    /// Deliveries that were taken in, first arrivals only
    deliveries: Counters<StatusLabels> = "deliveries";
    /// Sandboxes that are recorded and not deleted
    sandboxes: Gauges<StateLabels> = "sandboxes";
    /// Requests that one commit of the store served
    store_batch: Sizes = "store_batch_requests";
    /// How long one commit of the store took, its requests and the flush to the disk
    store_commit: Time = "store_commit_seconds";
    /// Commits of the store that failed; nothing of them was kept and their requests were told
    store_commits_failed: Counter = "store_commits_failed";
    /// What the store's file takes
    store_size: Gauge = "store_bytes";
    /// What of the store's file is free: given back to the disk step by step
    store_free: Gauge = "store_free_bytes";
    /// 1 while the store could be read for this page, 0 when what it would say is missing
    store_readable: Gauge = "store_readable";
    /// The number of the newest event
    events_newest: Gauge = "events_newest";
    /// Those who are watching
    readers: Gauges<ReaderLabels> = "readers";
    /// Connections that were cut off because their peer took nothing for too long
    readers_cut_off: Counter = "readers_cut_off";
    /// Rows that were removed because their time was up
    retention_removed: Counters<RemovedLabels> = "retention_removed";
    /// Always 1; says which version runs
    build: Gauges<BuildLabels> = "build_info";
}

impl Metrics {
    /// The page Prometheus reads, of what was gathered last.
    pub(crate) fn page(&self) -> String {
        let mut out = String::new();
        match encode(&mut out, &self.registry.lock()) {
            Ok(()) => out,
            // Writing to a string does not fail; were it to, a scraper sees an empty page.
            Err(std::fmt::Error) => String::new(),
        }
    }
}
