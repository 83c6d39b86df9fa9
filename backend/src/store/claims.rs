//! Giving slots to waiting runs: rows in, [`crate::plan`] decides, the decision is written down.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{StoreError, runs::Run};
use crate::plan::Rules;

/// What a claim found.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Runs to be started now; the `epoch` of each is that of the attempt to be made.
    pub claimed: Vec<Run>,
    /// When something is to be done again without anything having happened.
    pub next_due: Option<Timestamp>,
}

/// Giving slots to waiting runs.
#[async_trait]
pub trait ClaimStore: Send + Sync {
    /// Ends what has waited too long, queues what is due, and gives free slots to waiting runs:
    /// within the limits, by priority, then taking turns between lanes, then by age.
    async fn claim_runs(&self, now: Timestamp, rules: Arc<Rules>) -> Result<Claims, StoreError>;
}
