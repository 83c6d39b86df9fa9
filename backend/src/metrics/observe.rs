//! What is counted as it happens: from the events that were committed.

use std::time::Duration;

use super::{Metrics, OutcomeLabels, StateLabels, StatusLabels};
use crate::{executor::Outcome, run::State, store::feed::Event};

impl Metrics {
    /// Counts what an event tells, once, after its commit.
    pub(crate) fn observe(&self, event: &Event) {
        match event.kind.split_once('.') {
            Some(("run", state)) => {
                if let Some(state) = State::parse(state) {
                    self.observe_run(state, event);
                }
            }
            Some(("schedule", "fired")) => {
                self.schedule_times.inc(&OutcomeLabels { outcome: "fired" });
            }
            Some(("schedule", "passed_over")) => {
                let why = event.data["why"].as_str().unwrap_or_default();
                let times = event.data["times"].as_u64().unwrap_or(1);
                let outcomes = ["missed", "overlap", "refused"];
                if let Some(outcome) = outcomes.into_iter().find(|outcome| *outcome == why) {
                    self.schedule_times
                        .inc_by(&OutcomeLabels { outcome }, times);
                }
            }
            Some(("delivery", "accepted")) => {
                self.deliveries.inc(&StatusLabels { status: "accepted" });
            }
            Some(("delivery", "ignored")) => {
                self.deliveries.inc(&StatusLabels { status: "ignored" });
            }
            Some(_) | None => {}
        }
    }

    fn observe_run(&self, state: State, event: &Event) {
        let from = event.data["from"].as_str().and_then(State::parse);
        let Some(from) = from else {
            self.runs_submitted.inc();
            return;
        };
        if let Some(seconds) = event.data["seconds"].as_f64() {
            let spent = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            let state = from.as_str();
            self.run_state.observe(&StateLabels { state }, spent);
        }
        if state.is_final() {
            let state = state.as_str();
            self.runs_ended.inc(&StateLabels { state });
        }
        if state == State::Scheduled {
            self.retries.inc();
        }
    }

    /// Counts the end of an attempt, once its record is on disk.
    pub(crate) fn attempt_ended(&self, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Exited { .. } => "exited",
            Outcome::Signaled { .. } => "signaled",
            Outcome::TimedOut => "timed_out",
            Outcome::Canceled => "canceled",
            Outcome::Interrupted => "interrupted",
            Outcome::CommandNotFound { .. } => "command_not_found",
            Outcome::LaunchFailed { .. } => "launch_failed",
            Outcome::Lost { .. } => "lost",
        };
        self.attempts.inc(&OutcomeLabels { outcome });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use serde_json::{Value, json};

    use super::*;

    fn event(kind: &str, data: Value) -> Event {
        Event {
            seq: 1,
            time: jiff::Timestamp::UNIX_EPOCH,
            kind: kind.to_owned(),
            subject: "x".to_owned(),
            data,
        }
    }

    #[test]
    fn a_life_of_a_run_is_counted_state_by_state() {
        let metrics = Metrics::new();
        for (kind, data) in [
            ("run.queued", json!({})),
            ("run.running", json!({ "from": "queued", "seconds": 0.5 })),
            (
                "run.scheduled",
                json!({ "from": "running", "seconds": 2.0 }),
            ),
            ("run.queued", json!({ "from": "scheduled", "seconds": 1.0 })),
            ("run.canceled", json!({ "from": "queued", "seconds": -1.0 })),
            (
                "schedule.passed_over",
                json!({ "why": "missed", "times": 3 }),
            ),
            ("schedule.passed_over", json!({ "why": "anything else" })),
            ("card.queued", json!({})),
        ] {
            metrics.observe(&event(kind, data));
        }
        let page = metrics.page();
        for line in [
            "runs_submitted_total 1",
            "runs_ended_total{state=\"canceled\"} 1",
            "run_retries_total 1",
            "run_state_seconds_count{state=\"queued\"} 2",
            "run_state_seconds_sum{state=\"running\"} 2.0",
            "schedule_times_total{outcome=\"missed\"} 3",
        ] {
            assert!(
                page.contains(&format!("orket_backend_{line}\n")),
                "{line}: {page}"
            );
        }
        assert!(!page.contains("anything else"), "{page}");
    }
}
