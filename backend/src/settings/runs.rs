//! `[runs]` and `[queues]` as meant.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Reading;
use crate::{
    config::{self, diagnostic::Diagnostic, unit},
    executor::Isolation,
    plan::{Bounds, QueueRule, Rules},
};

/// How runs are run.
#[derive(Debug, Clone)]
pub struct Runs {
    /// How many wait and how many run at once, and the bounds of those that say nothing.
    pub rules: Arc<Rules>,
    /// The isolation level that work from webhooks needs.
    pub min_isolation: Isolation,
    /// When a run is ended that says nothing itself.
    pub timeout: Duration,
    /// Time between TERM and KILL.
    pub grace: Duration,
    /// Bytes of output kept of one attempt.
    pub output_limit: u64,
    /// What a stop does to active runs.
    pub on_stop: OnStop,
    /// How long a stop that drains waits.
    pub drain_timeout: Duration,
}

/// What a stop of the backend does to active runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// They go on under their supervisors; the next start takes them over.
    Leave,
    /// The stop waits for their ends, for a time; what then still runs is left.
    Drain,
    /// They are canceled, and the stop waits for that.
    Cancel,
}

impl Reading {
    pub(super) fn runs(
        &mut self,
        runs: config::Runs,
        queues: BTreeMap<String, config::Queue>,
    ) -> Runs {
        let queues = queues
            .into_iter()
            .map(|(name, queue)| {
                let rule = self.queue(&name, queue);
                (name, rule)
            })
            .collect();
        let rules = Rules {
            concurrency: self.value(runs.concurrency, 8, within("concurrency", 10_000)),
            queue_limit: self.value(runs.queue_limit, 10_000, within("queue_limit", 10_000_000)),
            queues,
            bounds: Bounds {
                waiting_ms: self.value(runs.waiting_timeout, None, |t| more_than_nothing(&t)),
                total_ms: self.value(runs.total_timeout, None, |t| more_than_nothing(&t)),
                silence_ms: self.value(runs.silence_timeout, None, |t| more_than_nothing(&t)),
                retry_delay_ms: self.value(runs.retry_delay, Some(1_000), |t| delay(&t)),
                retry_delay_most_ms: self
                    .value(runs.retry_delay_most, Some(300_000), |t| delay(&t)),
            },
        };
        Runs {
            rules: Arc::new(rules),
            min_isolation: self.value(runs.min_isolation, Isolation::Group, |name| {
                Isolation::ALL
                    .into_iter()
                    .find(|level| level.name() == name)
                    .ok_or_else(|| {
                        format!("`{name}` is no level: none, group, confined, contained or user")
                    })
            }),
            timeout: self.value(runs.timeout, Duration::from_hours(1), |t| {
                let timeout = unit::duration(&t)?;
                if timeout.is_zero() {
                    return Err("`timeout` must be more than 0: no run could end well".to_owned());
                }
                Ok(timeout)
            }),
            grace: self.value(runs.grace, Duration::from_secs(10), |t| unit::duration(&t)),
            output_limit: self.value(runs.output_limit, 16 << 20, |t| unit::size(&t)),
            on_stop: self.value(runs.on_stop, OnStop::Leave, |name| match name.as_str() {
                "leave" => Ok(OnStop::Leave),
                "drain" => Ok(OnStop::Drain),
                "cancel" => Ok(OnStop::Cancel),
                _ => Err(format!("`{name}` is unknown: leave, drain or cancel")),
            }),
            drain_timeout: self.value(runs.drain_timeout, Duration::from_secs(30), |t| {
                unit::duration(&t)
            }),
        }
    }

    fn queue(&mut self, name: &str, queue: config::Queue) -> QueueRule {
        if !orket_shared::id::is_name(name) {
            let message = format!(
                "`[queues.{name}]` is no name: letters, digits, `-`, `_` or `.`, beginning with a letter or digit"
            );
            self.errors.push(Diagnostic::error(None, message));
        }
        QueueRule {
            concurrency: self.value(queue.concurrency, None, |n| {
                within("concurrency", 10_000)(n).map(Some)
            }),
            key_concurrency: self.value(queue.key_concurrency, None, |n| {
                within("key_concurrency", 10_000)(n).map(Some)
            }),
            length: self.value(queue.length, None, |n| {
                within("length", 10_000_000)(n).map(Some)
            }),
        }
    }
}

/// A number of `name` from 1 to `most`.
fn within(name: &'static str, most: i64) -> impl Fn(i64) -> Result<i64, String> {
    move |n| {
        if (1..=most).contains(&n) {
            Ok(n)
        } else {
            Err(format!("`{name}` must be between 1 and {most}, not {n}"))
        }
    }
}

/// A time that may pass before a run is ended, in milliseconds.
fn more_than_nothing(text: &str) -> Result<Option<u64>, String> {
    match delay(text)? {
        Some(0) => Err("it must be more than 0: no run could end well".to_owned()),
        ms => Ok(ms),
    }
}

/// A delay in milliseconds.
fn delay(text: &str) -> Result<Option<u64>, String> {
    let ms = unit::duration(text)?.as_millis();
    u64::try_from(ms)
        .map(Some)
        .map_err(|_| format!("`{text}` is too long"))
}
