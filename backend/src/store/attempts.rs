//! Attempts of runs: starting, ending, taking back. Every change names the attempt's epoch, and an
//! epoch that is not the run's newest is refused: nothing of an older attempt is taken in.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    StoreError,
    runs::{Run, Why},
};
use crate::{
    executor::{Exit, Identity, Isolation},
    plan::deadline::Bound,
    run::{Ending, State},
};

/// An attempt whose end is not recorded.
#[derive(Debug, Clone)]
pub struct Open {
    /// Its run.
    pub run: Run,
    /// Its supervisor, once that was known to run.
    pub supervisor: Option<Identity>,
    /// The supervisor's number of the last output taken in; 0 when none was.
    pub output_seq: u64,
}

/// How an attempt ended, as the run is to take it.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Seen from the run.
    pub ending: Ending,
    /// Whether no retry can help.
    pub hopeless: bool,
    /// For the run's record.
    pub why: Why,
}

impl Verdict {
    /// The end of an attempt that was ended over a bound.
    pub fn over(bound: Bound) -> Self {
        Self {
            ending: Ending::TimedOut,
            hopeless: !bound.is_retryable(),
            why: Why {
                reason: Some(bound.reason().to_owned()),
                detail: Some(bound.detail().to_owned()),
            },
        }
    }
}

/// What became of an attempt's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The run is in this state now.
    Run(State),
    /// The attempt is not the run's newest, or has ended before: nothing has changed.
    Stale,
}

/// An attempt for people.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct AttemptView {
    /// Its number, counted from 1: the fencing epoch.
    pub epoch: i64,
    /// `claimed`, `started` or `ended`.
    pub state: String,
    /// The isolation level it reached.
    pub isolation: Option<String>,
    /// When it was claimed (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    pub claimed_at: Timestamp,
    /// When its supervisor ran.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When the last process of its tree was seen gone.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// How it ended: `kind` and, depending on it, `code`, `signal` or `detail`.
    #[schema(value_type = Option<Object>)]
    pub exit: Option<serde_json::Value>,
    /// CPU time of the whole tree in milliseconds.
    pub cpu_ms: Option<i64>,
    /// Largest resident memory of any one process, in bytes.
    pub memory_peak_bytes: Option<i64>,
    /// Bytes of output that were dropped beyond the cap.
    pub dropped_bytes: Option<i64>,
}

/// What attempts report, and what they come to. Every change names the attempt's epoch; an epoch that is
/// not the newest changes nothing.
#[async_trait]
pub trait AttemptStore: Send + Sync {
    /// Records that the supervisor of an attempt runs. `false`: the attempt is not the newest.
    async fn attempt_started(
        &self,
        now: Timestamp,
        run_id: String,
        epoch: i64,
        supervisor: Identity,
        isolation: Isolation,
    ) -> Result<bool, StoreError>;

    /// Ends an attempt and takes the step that follows for its run.
    async fn finish_attempt(
        &self,
        now: Timestamp,
        run_id: String,
        epoch: i64,
        exit: Exit,
        verdict: Verdict,
    ) -> Result<Finished, StoreError>;

    /// Records that an attempt is about to be ended over one of its bounds, so that its end is
    /// understood also when somebody else takes it in. `false`: the attempt is not the newest, has
    /// ended, or its end was asked for before.
    async fn attempt_overstepped(
        &self,
        run_id: String,
        epoch: i64,
        bound: Bound,
    ) -> Result<bool, StoreError>;

    /// Takes an attempt back that never came to life: the run waits again, nothing was spent.
    async fn unclaim_run(
        &self,
        now: Timestamp,
        run_id: String,
        epoch: i64,
        detail: String,
    ) -> Result<Finished, StoreError>;

    /// All attempts whose end is not recorded: what a start has to settle.
    async fn open_attempts(&self) -> Result<Vec<Open>, StoreError>;

    /// The attempts of a run, oldest first.
    async fn attempts(&self, run_id: String) -> Result<Vec<AttemptView>, StoreError>;
}
