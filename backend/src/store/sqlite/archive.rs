//! The engine's side of [`crate::store::archive`].

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;

use super::{
    Database, StoreError,
    cards::{find, step},
};
pub(super) use crate::store::archive::*;
use crate::{
    card::{Status, Step},
    crash_point::CrashPoint,
};

#[async_trait]
impl ArchiveStore for Database {
    async fn archive_cards(
        &self,
        now: Timestamp,
        selection: Selection,
    ) -> Result<Archived, StoreError> {
        let mut selected = BTreeSet::new();
        if let Some(build) = selection.build_id.clone() {
            selected.extend(self.read(move |conn| of_build(conn, &build)).await?);
        }
        if !selection.related_tokens.is_empty() {
            selected.extend(self.related(&selection.related_tokens).await?);
        }
        let mut wanted: Vec<String> = selection.card_ids.clone();
        wanted.extend(selected);
        wanted.sort_unstable();
        wanted.dedup();
        let mut archived = Archived {
            archived_ids: Vec::with_capacity(wanted.len()),
            missing_ids: Vec::new(),
        };
        let record = (selection.archived_by, selection.reason);
        for part in wanted.chunks(STEP) {
            let (part, (by, reason)) = (part.to_vec(), record.clone());
            let (there, missing) = self
                .write(move |tx| put_away(tx, now, part, by.as_deref(), reason.as_deref()))
                .await?;
            archived.archived_ids.extend(there);
            archived.missing_ids.extend(missing);
        }
        // Nobody asked for a card by name that went away since it was found.
        let asked: BTreeSet<String> = selection.card_ids.into_iter().collect();
        archived.missing_ids.retain(|id| asked.contains(id));
        Ok(archived)
    }
}

impl Database {
    /// All cards whose id, title or build contains one of the tokens.
    async fn related(&self, tokens: &[String]) -> Result<Vec<String>, StoreError> {
        let tokens: Arc<[String]> = tokens.iter().map(|token| folded(token)).collect();
        let mut related = Vec::new();
        let mut after = 0;
        loop {
            let tokens = Arc::clone(&tokens);
            let (found, last) = self
                .read(move |conn| matching(conn, after, &tokens))
                .await?;
            related.extend(found);
            match last {
                Some(last) => after = last,
                None => return Ok(related),
            }
        }
    }
}

/// Cards looked at, and cards put away, at a time: others have their turn in between.
const STEP: usize = 500;

/// The same as the engine counts.
const PAGE: i64 = 500;

fn of_build(conn: &Connection, build: &str) -> Result<Vec<String>, StoreError> {
    Ok(conn
        .prepare_cached("SELECT id FROM cards WHERE build_id = ?1")?
        .query_map([build], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

/// The matching ones of the cards after number `after`, and the number of the last one looked at;
/// `None` when there was none.
fn matching(
    conn: &Connection,
    after: i64,
    tokens: &[String],
) -> Result<(Vec<String>, Option<i64>), StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT seq, id, title, build_id FROM cards WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = statement.query((after, PAGE))?;
    let (mut found, mut last) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        last = Some(row.get(0)?);
        let id: String = row.get(1)?;
        let title = folded(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?);
        let build = row.get::<_, Option<String>>(3)?.unwrap_or_default();
        let (name, build) = (folded(&id), folded(&build));
        let is_in =
            |token: &String| name.contains(token) || title.contains(token) || build.contains(token);
        if tokens.iter().any(is_in) {
            found.push(id);
        }
    }
    Ok((found, last))
}

/// Text without the differences of case, in every script. Upper case first: it makes one of what
/// lower case keeps apart, such as the two forms of the small sigma.
fn folded(text: &str) -> String {
    text.chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
}

/// Archives cards by id; those that are there and those that are not.
fn put_away(
    tx: &Connection,
    now: Timestamp,
    ids: Vec<String>,
    by: Option<&str>,
    reason: Option<&str>,
) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for id in ids {
        let Some(card) = find(tx, &id)? else {
            missing.push(id);
            continue;
        };
        if card.status != Status::Archived {
            step(tx, now, &card, Step::Archive)?;
            tx.prepare_cached(
                "UPDATE cards SET archived_at = ?2, archived_by = ?3, archive_reason = ?4 \
                 WHERE id = ?1",
            )?
            .execute((&id, now.as_microsecond(), by, reason))?;
        }
        there.push(id);
        CrashPoint::CardArchived.reached();
    }
    Ok((there, missing))
}

#[cfg(test)]
mod tests {
    use super::folded;

    #[test]
    fn case_makes_no_difference_in_any_script() {
        for (one, other) in [
            ("ÄRGER", "ärger"),
            ("ΟΔΟΣ", "οδος"),
            ("οδός", "ΟΔΌΣ"),
            ("Straße", "STRASSE"),
            ("ПРИВЕТ", "привет"),
        ] {
            assert_eq!(folded(one), folded(other));
        }
        assert_ne!(folded("a"), folded("ä"));
    }
}
