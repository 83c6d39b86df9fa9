//! What the scheduler decides, as functions of rows and time: who is claimed next, what the end of
//! an attempt means, when another attempt may begin, what has waited too long, what becomes of
//! all that waits when the clock is set.
//!
//! Pure: no I/O, no clock, no randomness. A store reads its rows, asks here, and writes the answer
//! down in the same transaction. So every engine decides alike, and `simulation` can try thousands
//! of histories without a disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub mod attempt;
pub mod claim;
pub mod clock;
pub mod deadline;
pub mod dependency;
pub mod retry;

/// The queue of a run that names none. It always exists.
pub const DEFAULT_QUEUE: &str = "default";

/// What the operator allows: how many runs wait and how many run at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Runs at once, at most, over all queues.
    pub concurrency: i64,
    /// Runs that wait, at most, over all queues.
    pub queue_limit: i64,
    /// The queues, by name; [`DEFAULT_QUEUE`] is one also when it is not listed.
    pub queues: BTreeMap<String, QueueRule>,
    /// What holds for work that says nothing itself.
    pub bounds: Bounds,
}

/// What one queue allows; what it does not say is bounded by the whole only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueRule {
    /// Runs of it at once, at most.
    pub concurrency: Option<i64>,
    /// Runs of one key (build) in it at once, at most. Runs without a key are not counted.
    pub key_concurrency: Option<i64>,
    /// Runs of it that wait, at most.
    pub length: Option<i64>,
}

impl Rules {
    /// What holds for a queue; `None`: there is no such queue.
    pub fn queue(&self, name: &str) -> Option<QueueRule> {
        match self.queues.get(name) {
            Some(rule) => Some(*rule),
            None => (name == DEFAULT_QUEUE).then(QueueRule::default),
        }
    }
}

/// Bounds of a piece of work beside the time of one attempt, in milliseconds. What is absent is
/// filled from the configuration when the run is submitted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    /// The longest wait in a queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_ms: Option<u64>,
    /// The longest time from submission to the end, over all attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// The longest time without any output of an attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence_ms: Option<u64>,
    /// The delay before the second attempt; it doubles from one attempt to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_delay_ms: Option<u64>,
    /// The longest delay before an attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_delay_most_ms: Option<u64>,
}

impl Bounds {
    /// These, filled up from `defaults`.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            waiting_ms: self.waiting_ms.or(defaults.waiting_ms),
            total_ms: self.total_ms.or(defaults.total_ms),
            silence_ms: self.silence_ms.or(defaults.silence_ms),
            retry_delay_ms: self.retry_delay_ms.or(defaults.retry_delay_ms),
            retry_delay_most_ms: self.retry_delay_most_ms.or(defaults.retry_delay_most_ms),
        }
    }
}

/// A point in time so many milliseconds after another; the end of time where there is no such.
pub(crate) fn after(time: jiff::Timestamp, ms: u64) -> jiff::Timestamp {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    time.checked_add(jiff::SignedDuration::from_millis(ms))
        .unwrap_or(jiff::Timestamp::MAX)
}
