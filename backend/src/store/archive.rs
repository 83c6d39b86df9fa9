//! Archiving cards: putting them away with their history kept.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::Connection;

use super::{
    Database, StoreError,
    cards::{find, step},
};
use crate::card::{Status, Step};

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

impl Database {
    /// Archives every selected card. Cards with a run that has not ended are archived as well:
    /// the run ends as it would.
    pub async fn archive_cards(
        &self,
        now: Timestamp,
        selection: Selection,
    ) -> Result<Archived, StoreError> {
        self.write(move |tx| {
            let mut selected = BTreeSet::new();
            let mut missing = BTreeSet::new();
            for id in &selection.card_ids {
                let found = find(tx, id)?.is_some();
                if found { &mut selected } else { &mut missing }.insert(id.clone());
            }
            if let Some(build) = &selection.build_id {
                selected.extend(ids(tx, "SELECT id FROM cards WHERE build_id = ?1", build)?);
            }
            for token in &selection.related_tokens {
                // instr, not LIKE: a token is text, not a pattern.
                let sql = "SELECT id FROM cards WHERE instr(lower(id), ?1) \
                     OR instr(lower(title), ?1) OR instr(lower(coalesce(build_id, '')), ?1)";
                selected.extend(ids(tx, sql, &token.to_lowercase())?);
            }
            for id in &selected {
                let Some(card) = find(tx, id)? else { continue };
                if card.status == Status::Archived {
                    continue;
                }
                step(tx, now, &card, Step::Archive)?;
                tx.prepare_cached(
                    "UPDATE cards SET archived_at = ?2, archived_by = ?3, archive_reason = ?4 \
                     WHERE id = ?1",
                )?
                .execute((
                    id,
                    now.as_microsecond(),
                    &selection.archived_by,
                    &selection.reason,
                ))?;
            }
            Ok(Archived {
                archived_ids: selected.into_iter().collect(),
                missing_ids: missing.into_iter().collect(),
            })
        })
        .await
    }
}

fn ids(tx: &Connection, sql: &str, value: &str) -> Result<Vec<String>, StoreError> {
    Ok(tx
        .prepare_cached(sql)?
        .query_map([value], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}
