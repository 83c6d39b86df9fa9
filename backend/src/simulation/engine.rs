//! The real engine, one call after the other.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{Claimed, Ledger, Order, Row};
use crate::{
    executor::{Exit, Outcome},
    plan::{Rules, attempt::Report},
    run::State,
    store::{
        Database,
        attempts::{AttemptStore as _, Finished, Verdict},
        claims::ClaimStore as _,
        queues::QueueStore as _,
        runs::{CancelOutcome, Cause, Filter, RunStore as _, Why},
        submissions::{NewRun, Subject, SubmissionStore as _},
    },
    work::Work,
};

pub(super) struct Engine {
    store: Database,
    runtime: Runtime,
    rules: Arc<Rules>,
    _dir: TempDir,
}

impl Engine {
    pub(super) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self {
            store: Database::open(&dir.path().join("orket.db")).unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            rules: super::world::rules(),
            _dir: dir,
        }
    }
}

impl Ledger for Engine {
    fn submit(&mut self, now: Timestamp, order: &Order) -> bool {
        let work = Work {
            command: vec!["true".to_owned()],
            retries: order.retries,
            bounds: order.bounds,
            ..Work::default()
        };
        let subject = Subject::Command {
            work,
            priority: order.priority,
        };
        let key = order.lane.key.clone();
        let new = NewRun {
            build_id: (!key.is_empty()).then_some(key),
            queue: order.lane.queue.clone(),
            needs: order.needs.clone(),
            ..NewRun::new(&order.id, Cause::Api, "a", "q", subject)
        };
        let rules = Arc::clone(&self.rules);
        let submitted = self.store.submit_run(now, new, rules, None, |_| ().into());
        self.runtime.block_on(submitted).is_ok()
    }

    fn claim(&mut self, now: Timestamp) -> Claimed {
        let claims = self.store.claim_runs(now, Arc::clone(&self.rules));
        let claims = self.runtime.block_on(claims).unwrap();
        let runs = claims.claimed.into_iter().map(|run| (run.id, run.epoch));
        Claimed {
            runs: runs.collect(),
            next_due: claims.next_due,
        }
    }

    fn finish(&mut self, now: Timestamp, id: &str, epoch: i64, report: Report) -> Option<State> {
        let exit = Exit {
            outcome: Outcome::Exited { code: 0 },
            cpu_ms: 0,
            memory_peak_bytes: 0,
            dropped_bytes: 0,
            ended_at: now,
        };
        let verdict = Verdict {
            ending: report.ending,
            hopeless: report.hopeless,
            why: Why::default(),
        };
        let finished = self
            .store
            .finish_attempt(now, id.to_owned(), epoch, exit, verdict);
        state(self.runtime.block_on(finished).unwrap())
    }

    fn take_back(&mut self, now: Timestamp, id: &str, epoch: i64) -> Option<State> {
        let back = self
            .store
            .unclaim_run(now, id.to_owned(), epoch, String::new());
        state(self.runtime.block_on(back).unwrap())
    }

    fn cancel(&mut self, now: Timestamp, id: &str) -> Option<State> {
        let canceled = self.store.cancel_run(now, id.to_owned());
        match self.runtime.block_on(canceled).unwrap() {
            CancelOutcome::Unknown | CancelOutcome::Ended(_) => None,
            CancelOutcome::Canceled(run) | CancelOutcome::Canceling(run) => Some(run.state),
        }
    }

    fn pause(&mut self, now: Timestamp, queue: &str) {
        let paused = self
            .store
            .pause_queue(now, queue.to_owned(), "a".to_owned());
        self.runtime.block_on(paused).unwrap();
    }

    fn resume(&mut self, now: Timestamp, queue: &str) {
        let resumed = self
            .store
            .resume_queue(now, queue.to_owned(), "a".to_owned());
        self.runtime.block_on(resumed).unwrap();
    }

    fn clock_was_set(&mut self, by: SignedDuration) {
        let by = i64::try_from(by.as_micros()).unwrap();
        let moved = self.store.clock_was_set(by);
        self.runtime.block_on(moved).unwrap();
    }

    fn open_attempts(&self) -> Vec<(String, i64)> {
        let open = self.runtime.block_on(self.store.open_attempts()).unwrap();
        let mut open: Vec<_> = open
            .into_iter()
            .map(|open| (open.run.id, open.run.epoch))
            .collect();
        open.sort();
        open
    }

    fn rows(&self) -> Vec<Row> {
        let filter = Filter {
            limit: i64::MAX,
            ..Filter::default()
        };
        let runs = self.runtime.block_on(self.store.runs(filter)).unwrap();
        let mut rows: Vec<Row> = runs
            .rows
            .into_iter()
            .map(|run| Row {
                id: run.id,
                seq: run.seq,
                lane: run.lane,
                priority: run.priority,
                state: run.state,
                epoch: run.epoch,
                spent: run.attempts,
            })
            .collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows
    }
}

fn state(finished: Finished) -> Option<State> {
    match finished {
        Finished::Run(state) => Some(state),
        Finished::Stale => None,
    }
}
