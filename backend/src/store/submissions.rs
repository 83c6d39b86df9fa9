//! How runs come to be: whole submissions, with what they do to cards, once per idempotency key.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    StoreError,
    idempotency::{Answer, Idempotency, KeyReused, Once},
    runs::{Cause, Run},
};
use crate::{
    plan::{DEFAULT_QUEUE, Rules, dependency::Need},
    work::Work,
};

/// A run to be queued.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id.
    pub id: String,
    /// The build it belongs to, if not its card's.
    pub build_id: Option<String>,
    /// Why it exists.
    pub cause: Cause,
    /// Who asked for it.
    pub actor: String,
    /// The request that asked for it.
    pub request_id: String,
    /// What it is to do.
    pub subject: Subject,
    /// The queue it waits in.
    pub queue: String,
    /// The runs it waits for.
    pub needs: Vec<(String, Need)>,
    /// The run it repeats.
    pub replay_of: Option<String>,
    /// The schedule it belongs to.
    pub schedule_id: Option<String>,
}

impl NewRun {
    /// A run that waits in the default queue, for nothing.
    pub fn new(id: &str, cause: Cause, actor: &str, request_id: &str, subject: Subject) -> Self {
        Self {
            id: id.to_owned(),
            build_id: None,
            cause,
            actor: actor.to_owned(),
            request_id: request_id.to_owned(),
            subject,
            queue: DEFAULT_QUEUE.to_owned(),
            needs: Vec::new(),
            replay_of: None,
            schedule_id: None,
        }
    }
}

/// What a new run is to do.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A command of its own.
    Command {
        /// The command.
        work: Work,
        /// 0 to 9, larger first.
        priority: i64,
    },
    /// A card's command.
    Card {
        /// The card.
        id: String,
        /// Whether a run of it that has not ended stands in the way.
        exclusive: bool,
    },
    /// What another run of a card did, once more.
    Again {
        /// The card.
        card: String,
        /// The command, as that run had it.
        work: Work,
        /// 0 to 9, larger first.
        priority: i64,
    },
}

/// Why a run is not queued. Nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// A run of that id exists.
    #[error("A run with the id {0} exists already. Nothing was changed.")]
    Exists(String),
    /// The queue is at its limit.
    #[error("The queue is full: {limit} runs wait. Try again later.")]
    QueueFull {
        /// The configured limit.
        limit: i64,
    },
    /// No such queue.
    #[error("There is no queue {0}. Name one that is configured under [queues], or leave it out.")]
    UnknownQueue(String),
    /// It would wait for a run that does not exist.
    #[error("`depends_on` names the run {0}, and there is no such run. Submit it first.")]
    UnknownNeed(String),
    /// It would wait for itself.
    #[error("`depends_on` names the run itself: that would never start.")]
    NeedsItself,
    /// What it would wait for has ended without success.
    #[error("Run {needed} has ended and is {state}: what needs it cannot start.")]
    NeedFailed {
        /// The run it needs.
        needed: String,
        /// What that is.
        state: &'static str,
    },
    /// No such card.
    #[error("There is no card {0}.")]
    UnknownCard(String),
    /// The card may not be started as it is.
    #[error("Card {card} is {status} and cannot be started.")]
    CardNotStartable {
        /// The card.
        card: String,
        /// Its status.
        status: &'static str,
    },
    /// The card has a run that has not ended.
    #[error("Card {card} has a run that has not ended: {run}.")]
    CardBusy {
        /// The card.
        card: String,
        /// That run.
        run: String,
    },
    /// A card it depends on is not done.
    #[error("Card {card} depends on {waits_for}, which is not done.")]
    Dependency {
        /// The card.
        card: String,
        /// The one to finish first.
        waits_for: String,
    },
    /// The same idempotency key came with another request.
    #[error(transparent)]
    KeyReused(#[from] KeyReused),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of a submission.
pub type Submitted = Once<Run>;

/// How runs come to be.
#[async_trait]
pub trait SubmissionStore: Send + Sync {
    /// Makes a submission durable.
    async fn submit_run(
        &self,
        now: Timestamp,
        new: NewRun,
        rules: Arc<Rules>,
        idempotency: Option<Idempotency>,
        answer: Answer<Run>,
    ) -> Result<Submitted, SubmitError>;
}
