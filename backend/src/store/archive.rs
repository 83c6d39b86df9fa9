//! Archiving cards: putting them away with their history kept.

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoreError;

/// Which cards to archive. At least one list or the build must be given; they add up.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Cards by id.
    pub card_ids: Vec<String>,
    /// All cards of a build.
    pub build_id: Option<String>,
    /// All cards whose id, title or build contains one of these, whatever the case.
    pub related_tokens: Vec<String>,
    /// Why, for the record.
    pub reason: Option<String>,
    /// Who, for the record.
    pub archived_by: Option<String>,
}

/// What was archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// Every selected card that is archived now, also when it was before; sorted.
    pub archived_ids: Vec<String>,
    /// Ids asked for that no card has; sorted.
    pub missing_ids: Vec<String>,
}

/// Putting cards away.
#[async_trait]
pub trait ArchiveStore: Send + Sync {
    /// Archives every selected card. Cards with a run that has not ended are archived as well:
    /// the run ends as it would. What is archived stays so when a later part fails: asking again
    /// goes on from there.
    async fn archive_cards(
        &self,
        now: Timestamp,
        selection: Selection,
    ) -> Result<Archived, StoreError>;
}
