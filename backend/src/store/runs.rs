//! Runs: their record, their steps, canceling, reading. How they come to be is in
//! [`super::submissions`], their attempts are in [`super::attempts`].

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Listing, StoreError};
use crate::{plan::claim::Lane, run::State, work::Work};

/// Why a run exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A command was submitted.
    Api,
    /// A card was started.
    Card,
    /// A pull request names a card.
    Review,
    /// A schedule came to its time.
    Schedule,
}

impl Cause {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Card => "card",
            Self::Review => "review",
            Self::Schedule => "schedule",
        }
    }

    pub(super) fn parse(name: &str) -> Result<Self, StoreError> {
        [Self::Api, Self::Card, Self::Review, Self::Schedule]
            .into_iter()
            .find(|cause| cause.as_str() == name)
            .ok_or_else(|| StoreError::Fault(format!("a run has the unknown cause {name:?}")))
    }
}

/// A run as stored, with the newest of its attempts.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its place in the order of submission.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// Where it is.
    pub state: State,
    /// When its total time began, by the clock as it is now: its submission, moved along whenever the
    /// clock was set.
    pub counted_from: Timestamp,
    /// Why it ended as it did, one word.
    pub reason: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
    /// The card it runs.
    pub card_id: Option<String>,
    /// The build it belongs to.
    pub build_id: Option<String>,
    /// Why it exists.
    pub cause: Cause,
    /// Who asked for it, as the gateway said.
    pub actor: String,
    /// The request that asked for it.
    pub request_id: String,
    /// 0 to 9, larger first.
    pub priority: i64,
    /// What it does.
    pub work: Work,
    /// The card as it was when the run was submitted.
    pub card_snapshot: Option<serde_json::Value>,
    /// The number of its newest attempt, the fence; 0 before the first.
    pub epoch: i64,
    /// How many attempts came to life.
    pub attempts: i64,
    /// The queue it waits in, and its key there.
    pub lane: Lane,
    /// How many runs it still waits for.
    pub holds: i64,
    /// The run it repeats.
    pub replay_of: Option<String>,
    /// The schedule it belongs to.
    pub schedule_id: Option<String>,
    /// When it came into its state.
    pub since: Timestamp,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When a scheduled run is due.
    pub not_before: Option<Timestamp>,
    /// When it was last queued.
    pub queued_at: Option<Timestamp>,
    /// When its first attempt was claimed.
    pub started_at: Option<Timestamp>,
    /// When its end was asked for.
    pub canceling_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When its output was removed.
    pub logs_removed_at: Option<Timestamp>,
}

/// Why a run changed its state.
#[derive(Debug, Clone, Default)]
pub struct Why {
    /// One word.
    pub reason: Option<String>,
    /// For people.
    pub detail: Option<String>,
}

/// What became of the wish to end a run.
#[derive(Debug, Clone)]
pub enum CancelOutcome {
    /// There is no such run.
    Unknown,
    /// It ended otherwise before.
    Ended(State),
    /// Nothing of it lives: it is canceled.
    Canceled(Box<Run>),
    /// Its newest attempt has to be ended.
    Canceling(Box<Run>),
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this state.
    pub state: Option<State>,
    /// Only of this card.
    pub card_id: Option<String>,
    /// Only of this build.
    pub build_id: Option<String>,
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only of this schedule.
    pub schedule_id: Option<String>,
    /// Only those submitted before the run of this number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// Runs: looking at them, and canceling.
#[async_trait]
pub trait RunStore: Send + Sync {
    /// Makes the wish to end a run durable.
    async fn cancel_run(&self, now: Timestamp, id: String) -> Result<CancelOutcome, StoreError>;

    /// The run of that id.
    async fn run(&self, id: String) -> Result<Option<Run>, StoreError>;

    /// Runs, newest first.
    async fn runs(&self, filter: Filter) -> Result<Listing<Run>, StoreError>;

    /// What a run waits for, or waited for: runs, by id.
    async fn needs(&self, id: String) -> Result<Vec<String>, StoreError>;

    /// How many runs are in each state.
    async fn runs_by_state(&self) -> Result<Vec<(State, i64)>, StoreError>;

    /// How many runs are active: running or canceling, counted now.
    async fn active_runs(&self) -> Result<i64, StoreError>;
}
