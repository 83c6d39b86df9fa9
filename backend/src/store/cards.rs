//! Cards: making, changing, archiving, reading.

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;

use super::{
    Listing, StoreError,
    idempotency::{Answer, Idempotency, KeyReused, Once},
};
use crate::{card::Status, work::Work};

/// A card as stored.
#[derive(Debug, Clone)]
pub struct Card {
    /// Its place in the order of making.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// What people call it.
    pub title: String,
    /// The build it belongs to.
    pub build_id: Option<String>,
    /// 0 to 9, larger first.
    pub priority: i64,
    /// Where it is.
    pub status: Status,
    /// Cards to be done before it starts.
    pub depends_on: Vec<String>,
    /// What it does.
    pub work: Work,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// Who archived it, as they said.
    pub archived_by: Option<String>,
    /// Why it was archived, as they said.
    pub archive_reason: Option<String>,
}

impl Card {
    /// The card as a run captures it: without the values of its environment.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "id": self.id, "title": self.title, "build_id": self.build_id,
            "priority": self.priority, "status": self.status, "depends_on": self.depends_on,
        })
    }
}

/// A card to be made.
#[derive(Debug, Clone)]
pub struct NewCard {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub title: String,
    /// The build it belongs to.
    pub build_id: Option<String>,
    /// 0 to 9, larger first.
    pub priority: i64,
    /// Cards to be done before it starts.
    pub depends_on: Vec<String>,
    /// What it does.
    pub work: Work,
}

/// Why a card is not made or changed. Nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CardError {
    /// A card of that id exists.
    #[error("A card with the id {0} exists already. Nothing was changed.")]
    Exists(String),
    /// There is no such card.
    #[error("There is no such card.")]
    Unknown,
    /// It depends on a card that does not exist.
    #[error("`depends_on` names {0}, and there is no such card. Create it first.")]
    UnknownDependency(String),
    /// It would depend on itself.
    #[error("`depends_on` would make a circle through {0}.")]
    Circle(String),
    /// Its status does not allow that.
    #[error("Card {id} is {status}: {hint}.")]
    Illegal {
        /// The card.
        id: String,
        /// Its status.
        status: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// A run of it has not ended.
    #[error("Card {id} has a run that has not ended: {run}. Cancel it or wait for its end.")]
    Busy {
        /// The card.
        id: String,
        /// That run.
        run: String,
    },
    /// It would not fit as it was to become.
    #[error("{0}")]
    Invalid(String),
    /// Another card depends on it.
    #[error("Card {dependent} depends on it. Change that first, or archive this one.")]
    Needed {
        /// The other card.
        dependent: String,
    },
    /// The same idempotency key came with another request.
    #[error(transparent)]
    KeyReused(#[from] KeyReused),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which cards to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this status; without it, all but the archived.
    pub status: Option<Status>,
    /// Only of this build.
    pub build_id: Option<String>,
    /// Only those made before the card of this number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// What a card shall be.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its new content; the id is not looked at.
    pub to: NewCard,
    /// Its new status, when that is to change.
    pub status: Option<Status>,
}

/// Says what a card shall be, seeing it as it is.
pub type Reshape = Box<dyn FnOnce(&Card) -> Result<Change, CardError> + Send>;

/// Cards.
#[async_trait]
pub trait CardStore: Send + Sync {
    /// Makes a card, once for each idempotency key.
    async fn create_card(
        &self,
        now: Timestamp,
        new: NewCard,
        idempotency: Option<Idempotency>,
        answer: Answer<Card>,
    ) -> Result<Once<Card>, CardError>;

    /// Changes a card: `change` sees it as it is and says what it shall be.
    async fn change_card(
        &self,
        now: Timestamp,
        id: String,
        change: Reshape,
    ) -> Result<Card, CardError>;

    /// Removes a card that nothing needs. Its runs keep what they captured of it.
    async fn delete_card(&self, now: Timestamp, id: String) -> Result<(), CardError>;

    /// The card of that id.
    async fn card(&self, id: String) -> Result<Option<Card>, StoreError>;

    /// Cards, newest first.
    async fn cards(&self, filter: Filter) -> Result<Listing<Card>, StoreError>;
}
