//! Whether it works, what it is, and who asks.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use serde::Serialize;

use super::{ApiError, App, extract::Caller};
use crate::store::StoreError;

/// That all is well.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// Always `ok`.
    status: &'static str,
}

/// Whether the backend can do its work: whether its store takes writes.
#[utoipa::path(get, path = "/health", tag = "system", responses(
    (status = 200, body = Health),
    (status = 503, description = "The store takes no writes; `detail` says why.", body = super::openapi::Problem),
))]
pub(super) async fn health(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    // Room alone is not enough: what works has to begin first.
    let probed = if app.reads_only {
        Err(StoreError::Full)
    } else {
        app.store.probe().await
    };
    match probed {
        Ok(()) => Ok(Json(Health { status: "ok" })),
        Err(error) => Err(ApiError::unavailable(
            "store_unavailable",
            format!("Not healthy: {error}."),
            5,
        )),
    }
}

/// What program this is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Version {
    /// The program's version.
    version: &'static str,
    /// The version of this API.
    api: &'static str,
}

/// The version of the program and of its API.
#[utoipa::path(get, path = "/v1/version", tag = "system", responses((status = 200, body = Version)))]
pub(super) async fn version() -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION"),
        api: "v1",
    })
}

/// The identity of the caller as the backend received it, and nothing else.
#[utoipa::path(get, path = "/v1/whoami", tag = "system", responses((status = 200, body = Caller)))]
pub(super) async fn whoami(caller: Caller) -> Json<Caller> {
    Json(caller)
}

/// What is counted, for Prometheus, in the `OpenMetrics` text form. Listed in
/// `docs/reference/backend-metrics.md`.
#[utoipa::path(get, path = "/metrics", tag = "system",
    responses((status = 200, description = "The metrics.", body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    app.metrics
        .gather(&app.store, app.scheduler.followed())
        .await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.page()).into_response()
}
