//! Replaying runs that did not succeed: what they were given, once more, as runs of their own.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoreError;
use crate::{plan::Rules, run::State};

/// Which runs to replay. What is given narrows down; ids name runs whatever else is given.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Runs by id.
    pub ids: Vec<String>,
    /// Runs of these states; they must be final.
    pub states: Vec<State>,
    /// Only of this card.
    pub card_id: Option<String>,
    /// Only of this build.
    pub build_id: Option<String>,
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only with this reason.
    pub reason: Option<String>,
    /// Only those that ended then or later.
    pub since: Option<Timestamp>,
    /// At most so many, the oldest first.
    pub limit: usize,
    /// Only those behind this number in the order of making.
    pub after: i64,
    /// Only those up to this number; `None`: up to the newest there is. What is replayed meanwhile, and
    /// fails again, is not replayed again.
    pub up_to: Option<i64>,
}

/// What was replayed.
#[derive(Debug, Clone, Default)]
pub struct Replayed {
    /// Runs that were replayed, and the run that each became.
    pub made: Vec<(String, String)>,
    /// Runs that were not, and why.
    pub skipped: Vec<(String, String)>,
    /// The number behind which there may be more that fit; `None`: all were looked at.
    pub next: Option<i64>,
    /// The number up to which was looked.
    pub up_to: i64,
}

/// Doing once more what did not succeed.
#[async_trait]
pub trait ReplayStore: Send + Sync {
    /// Submits selected runs again, all in one transition, which looks at a bounded number of them:
    /// `next` says where to go on. One that was replayed before is passed over: its replay is the one
    /// to look at.
    async fn replay_runs(
        &self,
        now: Timestamp,
        selection: Selection,
        actor: String,
        request_id: String,
        rules: Arc<Rules>,
    ) -> Result<Replayed, StoreError>;
}
