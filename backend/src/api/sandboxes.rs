//! Sandboxes: the active ones, their life, their logs.

use std::collections::BTreeMap;

use axum::Router;
use utoipa::openapi::OpenApi;

use super::{ApiError, App};

/// The routes of sandboxes, for the router's one screen.
pub(super) fn routes() -> Router<App> {
    Router::new()
}

/// Sandboxes by state, counted from the store.
#[expect(clippy::unused_async, reason = "reads the store once sandboxes are kept there")]
pub(super) async fn by_state(_: &App) -> Result<BTreeMap<String, i64>, ApiError> {
    Ok(BTreeMap::new())
}

/// The description of the sandboxes' routes.
pub(super) fn openapi() -> OpenApi {
    OpenApi::default()
}
