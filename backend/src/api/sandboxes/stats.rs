//! What the services of a sandbox use.

use axum::{Json, extract::State};
use serde::Serialize;

use super::{ApiError, App, Id, Problem};
use crate::sandbox::driver::Usage;

/// What the services use that run at this moment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct StatsAnswer {
    /// By name.
    items: Vec<ServiceStats>,
}

/// What one service uses.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ServiceStats {
    /// Its name.
    service: String,
    /// Milliseconds of processor time since its container started.
    cpu_ms: u64,
    /// Bytes of memory, without files that the kernel can take back.
    memory_bytes: u64,
    /// Bytes of memory that it may have.
    memory_limit_bytes: u64,
    /// Processes and threads.
    processes: u64,
}

impl From<Usage> for ServiceStats {
    fn from(usage: Usage) -> Self {
        Self {
            service: usage.service,
            cpu_ms: u64::try_from(usage.cpu.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: usage.memory,
            memory_limit_bytes: usage.memory_limit,
            processes: usage.processes,
        }
    }
}

/// What the services of a sandbox of images use at this moment, as the engine counts it.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/stats", tag = "sandboxes", params(("id" = String, Path)),
    responses((status = 200, body = StatsAnswer), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn stats(
    State(app): State<App>,
    Id(id): Id,
) -> Result<Json<StatsAnswer>, ApiError> {
    let sandbox = app.sandboxes.find(&id).await?;
    let used = app.sandboxes.usage(&sandbox).await?;
    let items = used.into_iter().map(ServiceStats::from).collect();
    Ok(Json(StatsAnswer { items }))
}
