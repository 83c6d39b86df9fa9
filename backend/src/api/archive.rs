//! Archiving cards: the same code for the route and for the command line.

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ApiError, App, extract::Document};
use crate::store::{Store, archive::Selection};

/// Cards by id, at most.
const IDS_MOST: usize = 1000;
/// Tokens, at most.
const TOKENS_MOST: usize = 100;
/// Bytes of a token, at most.
const TOKEN_BYTES_MOST: usize = 200;
/// Bytes of a reason and of a name, at most.
const REMARK_BYTES_MOST: usize = 1000;

/// Which cards to archive. At least one selector; they add up.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveRequest {
    /// Cards by id, 1000 at most.
    pub card_ids: Vec<String>,
    /// All cards of a build.
    pub build_id: Option<String>,
    /// All cards whose id, title or build contains one of these, whatever the case; 100 at most, of
    /// 200 bytes each.
    pub related_tokens: Vec<String>,
    /// Why, for the record.
    pub reason: Option<String>,
    /// Who, for the record.
    pub archived_by: Option<String>,
}

impl ArchiveRequest {
    /// The selection it means; an error when it selects nothing, or is too long.
    pub fn selection(self) -> Result<Selection, ApiError> {
        self.check()?;
        let meant = |list: Vec<String>| -> Vec<String> {
            list.into_iter()
                .filter(|item| !item.trim().is_empty())
                .collect()
        };
        let selection = Selection {
            card_ids: meant(self.card_ids),
            build_id: self.build_id.filter(|build| !build.trim().is_empty()),
            // Blank ones would be part of every card.
            related_tokens: meant(self.related_tokens),
            reason: self.reason,
            archived_by: self.archived_by,
        };
        let Selection {
            card_ids,
            build_id,
            related_tokens,
            ..
        } = &selection;
        if card_ids.is_empty() && build_id.is_none() && related_tokens.is_empty() {
            return Err(ApiError::invalid(
                "Provide at least one selector: card_ids, build_id, or related_tokens",
            ));
        }
        Ok(selection)
    }

    fn check(&self) -> Result<(), ApiError> {
        let too_many = |field: &str, most: usize, what: &str| {
            Err(ApiError::invalid(format!(
                "`{field}` has more than {most} {what}: send several requests"
            )))
        };
        if self.card_ids.len() > IDS_MOST {
            return too_many("card_ids", IDS_MOST, "entries");
        }
        if self.related_tokens.len() > TOKENS_MOST {
            return too_many("related_tokens", TOKENS_MOST, "entries");
        }
        let too_long = |field: &str, most: usize| {
            Err(ApiError::invalid(format!(
                "`{field}` has text of more than {most} bytes: shorten it"
            )))
        };
        let tokens = &self.related_tokens;
        if tokens.iter().any(|token| token.len() > TOKEN_BYTES_MOST) {
            return too_long("related_tokens", TOKEN_BYTES_MOST);
        }
        for (field, text) in [("reason", &self.reason), ("archived_by", &self.archived_by)] {
            if text
                .as_ref()
                .is_some_and(|text| text.len() > REMARK_BYTES_MOST)
            {
                return too_long(field, REMARK_BYTES_MOST);
            }
        }
        Ok(())
    }
}

/// What was archived.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ArchiveAnswer {
    /// Always true.
    pub ok: bool,
    /// How many cards are in `archived_ids`.
    pub archived_count: usize,
    /// Every selected card; all of them are archived now.
    pub archived_ids: Vec<String>,
    /// Ids asked for that no card has.
    pub missing_ids: Vec<String>,
}

/// Archives cards. Their history is kept.
#[utoipa::path(post, path = "/v1/cards/archive", tag = "cards", request_body = ArchiveRequest,
    responses(
        (status = 200, body = ArchiveAnswer),
        (status = 400, description = "No selector, or too much at once.", body = super::openapi::Problem),
))]
pub(super) async fn archive(
    State(app): State<App>,
    Document { value, .. }: Document<ArchiveRequest>,
) -> Result<Json<ArchiveAnswer>, ApiError> {
    Ok(Json(archive_now(&app.store, value).await?))
}

/// Archives cards in a store that is open.
pub async fn archive_now(
    store: &Store,
    request: ArchiveRequest,
) -> Result<ArchiveAnswer, ApiError> {
    let archived = store
        .archive_cards(Timestamp::now(), request.selection()?)
        .await?;
    Ok(ArchiveAnswer {
        ok: true,
        archived_count: archived.archived_ids.len(),
        archived_ids: archived.archived_ids,
        missing_ids: archived.missing_ids,
    })
}
