//! Queues: what waits in them, and pausing them.

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::Serialize;

use super::{ApiError, App, Caller, extract::Id, page::Page};
use crate::{
    crash_point::CrashPoint,
    plan::{DEFAULT_QUEUE, QueueRule},
    store::{StoreError, queues::QueueState},
};

/// A queue.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct QueueView {
    /// Its name.
    name: String,
    /// Runs of it at once, at most; `null`: bounded by the whole only.
    concurrency: Option<i64>,
    /// Runs of one build in it at once, at most.
    key_concurrency: Option<i64>,
    /// Runs of it that wait, at most.
    length: Option<i64>,
    /// Since when it is paused (RFC 3339, UTC).
    #[schema(value_type = Option<String>, format = DateTime)]
    paused_at: Option<Timestamp>,
    /// Who paused it.
    paused_by: Option<String>,
    /// Runs that wait for a slot.
    queued: i64,
    /// Runs that wait for their time or for other runs.
    scheduled: i64,
    /// Runs that are running or canceling.
    active: i64,
    /// When the run that waits longest for a slot was queued.
    #[schema(value_type = Option<String>, format = DateTime)]
    oldest_queued_at: Option<Timestamp>,
}

impl QueueView {
    fn of(name: String, rule: QueueRule, state: QueueState) -> Self {
        Self {
            name,
            concurrency: rule.concurrency,
            key_concurrency: rule.key_concurrency,
            length: rule.length,
            paused_at: state.paused_at,
            paused_by: state.paused_by,
            queued: state.queued,
            scheduled: state.scheduled,
            active: state.active,
            oldest_queued_at: state.oldest_queued_at,
        }
    }
}

/// All queues, by name: the configured ones, and those that still have runs.
#[utoipa::path(get, path = "/v1/queues", tag = "queues",
    responses((status = 200, body = Page<QueueView>)))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Page<QueueView>>, ApiError> {
    Ok(Json(Page {
        items: views(&app).await?,
        next: None,
    }))
}

async fn views(app: &App) -> Result<Vec<QueueView>, ApiError> {
    let mut states = app.store.queues().await?;
    let rules = &app.settings.runs.rules;
    states.entry(DEFAULT_QUEUE.to_owned()).or_default();
    for name in rules.queues.keys() {
        states.entry(name.clone()).or_default();
    }
    Ok(states
        .into_iter()
        .map(|(name, state)| {
            let rule = rules.queue(&name).unwrap_or_default();
            QueueView::of(name, rule, state)
        })
        .collect())
}

async fn view(app: &App, name: &str) -> Result<QueueView, ApiError> {
    views(app)
        .await?
        .into_iter()
        .find(|queue| queue.name == name)
        .ok_or_else(|| ApiError::unknown("queue"))
}

/// Makes a change of a queue that there is; the queue after it.
async fn changed(
    app: &App,
    name: &str,
    change: impl Future<Output = Result<(), StoreError>>,
) -> Result<Json<QueueView>, ApiError> {
    view(app, name).await?;
    change.await?;
    Ok(Json(view(app, name).await?))
}

/// Keeps the runs of a queue from being started. What runs, runs on; what comes, waits. Lasts over
/// restarts, and is fine to repeat.
#[utoipa::path(post, path = "/v1/queues/{name}/pause", tag = "queues",
    params(("name" = String, Path)), responses(
        (status = 200, body = QueueView),
        (status = 404, description = "No such queue.", body = super::openapi::Problem),
))]
pub(super) async fn pause(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id,
) -> Result<Json<QueueView>, ApiError> {
    let change = async {
        app.store
            .pause_queue(Timestamp::now(), name.clone(), caller.actor())
            .await?;
        CrashPoint::QueuePaused.reached();
        Ok(())
    };
    changed(&app, &name, change).await
}

/// Lets the runs of a queue be started again. Fine to repeat.
#[utoipa::path(post, path = "/v1/queues/{name}/resume", tag = "queues",
    params(("name" = String, Path)), responses(
        (status = 200, body = QueueView),
        (status = 404, description = "No such queue.", body = super::openapi::Problem),
))]
pub(super) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id,
) -> Result<Json<QueueView>, ApiError> {
    let change = app
        .store
        .resume_queue(Timestamp::now(), name.clone(), caller.actor());
    changed(&app, &name, change).await
}
