//! Runs: listing, looking at, canceling. Submitting is in [`super::submit`].

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    ApiError, App,
    cards::CardView,
    document::{BoundsView, Seconds, seconds_schema},
    extract::{Id, Query},
    page::{self, Page},
};
use crate::{
    confine::Network,
    crash_point::CrashPoint,
    run::State as RunState,
    store::{
        attempts::AttemptView,
        cards,
        feed::Event,
        runs::{CancelOutcome, Cause, Filter, Run},
    },
};

/// A run.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct RunView {
    /// Its id.
    id: String,
    /// Where it is.
    state: RunState,
    /// Why it ended as it did: one word, such as `command_not_found`.
    reason: Option<String>,
    /// The same for people.
    detail: Option<String>,
    /// The card it runs.
    card_id: Option<String>,
    /// The build it belongs to.
    build_id: Option<String>,
    /// Why it exists.
    cause: Cause,
    /// Who asked for it.
    actor: String,
    /// 0 to 9, larger first.
    priority: i64,
    /// Program and arguments, or script and parameters.
    command: Vec<String>,
    /// Whether `command` is a script for `/bin/sh`.
    shell: bool,
    /// Where it runs, in the workspace.
    workdir: Option<String>,
    /// After which time it is ended, in seconds; the configured default when `null`.
    #[schema(schema_with = seconds_schema)]
    timeout: Option<Seconds>,
    /// How often it may run again.
    retries: u32,
    /// The network it asks for; absent: that of the configuration.
    network: Option<Network>,
    /// How many attempts were made so far.
    attempts: i64,
    /// The queue it waits in.
    queue: String,
    /// What bounds it beside `timeout`.
    bounds: BoundsView,
    /// The run it repeats.
    replay_of: Option<String>,
    /// The schedule it belongs to.
    schedule_id: Option<String>,
    /// When it was submitted (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When a scheduled run is due.
    #[schema(value_type = Option<String>, format = DateTime)]
    due_at: Option<Timestamp>,
    /// When its first attempt was claimed.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
}

impl From<Run> for RunView {
    fn from(run: Run) -> Self {
        Self {
            id: run.id,
            state: run.state,
            reason: run.reason,
            detail: run.detail,
            card_id: run.card_id,
            build_id: run.build_id,
            cause: run.cause,
            actor: run.actor,
            priority: run.priority,
            command: run.work.command,
            shell: run.work.shell,
            workdir: run.work.workdir,
            timeout: run.work.timeout_ms.map(|ms| Seconds { ms }),
            retries: run.work.retries,
            network: run.work.network,
            attempts: run.attempts,
            queue: run.lane.queue,
            bounds: run.work.bounds.into(),
            replay_of: run.replay_of,
            schedule_id: run.schedule_id,
            created_at: run.created_at,
            due_at: run.not_before,
            started_at: run.started_at,
            ended_at: run.ended_at,
        }
    }
}

/// A run and its attempts.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RunDetail {
    #[serde(flatten)]
    run: RunView,
    /// How its last attempt ended: `kind` and, depending on it, `code`, `signal` or `detail`.
    #[schema(value_type = Option<Object>)]
    exit: Option<serde_json::Value>,
    /// The isolation level its last attempt reached.
    isolation: Option<String>,
    /// The runs that it needs, or needed.
    depends_on: Vec<String>,
    /// Its attempts, oldest first.
    attempt_list: Vec<AttemptView>,
}

/// Which runs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only runs of this state.
    state: Option<RunState>,
    /// Only runs of this card.
    card_id: Option<String>,
    /// Only runs of this build.
    build_id: Option<String>,
    /// Only runs of this queue.
    queue: Option<String>,
    /// Only runs of this schedule.
    schedule_id: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many items at most, 1 to 500. Of large ones a page has fewer.
    limit: Option<i64>,
}

/// Runs, newest first.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", params(ListQuery), responses(
    (status = 200, body = Page<RunView>),
    (status = 400, description = "The query does not fit.", body = super::openapi::Problem),
))]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<RunView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let filter = Filter {
        state: query.state,
        card_id: query.card_id,
        build_id: query.build_id,
        queue: query.queue,
        schedule_id: query.schedule_id,
        before: page::cursor(query.cursor.as_deref())?,
        limit,
    };
    let runs = app.store.runs(filter).await?;
    Ok(Json(Page::of(runs, |run| run.seq, RunView::from)))
}

/// The run of that id, or 404.
pub(super) async fn find(app: &App, id: String) -> Result<Run, ApiError> {
    app.store
        .run(id)
        .await?
        .ok_or_else(|| ApiError::unknown("run"))
}

/// A run with its attempts.
#[utoipa::path(get, path = "/v1/runs/{id}", tag = "runs", params(("id" = String, Path)), responses(
    (status = 200, body = RunDetail),
    (status = 404, body = super::openapi::Problem),
))]
pub(super) async fn detail(
    State(app): State<App>,
    Id(id): Id,
) -> Result<Json<RunDetail>, ApiError> {
    let run = find(&app, id.clone()).await?;
    let depends_on = app.store.needs(id.clone()).await?;
    let attempt_list = app.store.attempts(id).await?;
    let last = attempt_list.last();
    Ok(Json(RunDetail {
        exit: last.and_then(|attempt| attempt.exit.clone()),
        isolation: last.and_then(|attempt| attempt.isolation.clone()),
        run: run.into(),
        depends_on,
        attempt_list,
    }))
}

/// Ends a run: durable, and fine to repeat. The run is `canceled` once nothing of it lives.
#[utoipa::path(post, path = "/v1/runs/{id}/cancel", tag = "runs", params(("id" = String, Path)),
    responses(
        (status = 202, description = "It will end, or has.", body = RunView),
        (status = 404, body = super::openapi::Problem),
        (status = 409, description = "It ended otherwise.", body = super::openapi::Problem),
))]
pub(super) async fn cancel(
    State(app): State<App>,
    Id(id): Id,
) -> Result<(StatusCode, Json<RunView>), ApiError> {
    CrashPoint::CancelAsked.reached();
    let outcome = app.store.cancel_run(Timestamp::now(), id.clone()).await?;
    CrashPoint::CancelCommitted.reached();
    match outcome {
        CancelOutcome::Unknown => Err(ApiError::unknown("run")),
        CancelOutcome::Ended(state) => {
            let detail = format!("Run {id} has ended: it is {}.", state.as_str());
            Err(ApiError::conflict("run_ended", detail))
        }
        CancelOutcome::Canceled(run) => Ok((StatusCode::ACCEPTED, Json((*run).into()))),
        CancelOutcome::Canceling(run) => {
            app.scheduler.end_processes(&id);
            Ok((StatusCode::ACCEPTED, Json((*run).into())))
        }
    }
}

/// What a run took.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RunMetrics {
    /// Its id.
    id: String,
    /// Where it is.
    state: RunState,
    /// Seconds it spent in each state so far.
    seconds_in_state: BTreeMap<String, f64>,
    /// How many attempts were made so far.
    attempts: i64,
    /// CPU time of all attempts in milliseconds.
    cpu_ms: i64,
    /// Largest resident memory of any one process of any attempt, in bytes.
    memory_peak_bytes: i64,
}

/// How long a run was in each state, and what its attempts took.
#[utoipa::path(get, path = "/v1/runs/{id}/metrics", tag = "runs", params(("id" = String, Path)),
    responses((status = 200, body = RunMetrics), (status = 404, body = super::openapi::Problem)))]
pub(super) async fn metrics(
    State(app): State<App>,
    Id(id): Id,
) -> Result<Json<RunMetrics>, ApiError> {
    let run = find(&app, id.clone()).await?;
    let events = app.store.events_of(id.clone()).await?;
    let attempts = app.store.attempts(id).await?;
    Ok(Json(RunMetrics {
        id: run.id,
        state: run.state,
        seconds_in_state: seconds_in_state(&events, Timestamp::now()),
        attempts: run.attempts,
        cpu_ms: attempts.iter().filter_map(|attempt| attempt.cpu_ms).sum(),
        memory_peak_bytes: attempts
            .iter()
            .filter_map(|a| a.memory_peak_bytes)
            .max()
            .unwrap_or(0),
    }))
}

/// Seconds between each change of state and the next; a state that lasts is counted until `now`.
fn seconds_in_state(events: &[Event], now: Timestamp) -> BTreeMap<String, f64> {
    let changes: Vec<_> = events
        .iter()
        .filter_map(|event| {
            let state = RunState::parse(event.kind.strip_prefix("run.")?)?;
            Some((state, event.time))
        })
        .collect();
    let mut seconds = BTreeMap::new();
    for (index, (state, since)) in changes.iter().enumerate() {
        if !state.is_final() {
            let until = changes.get(index + 1).map_or(now, |(_, time)| *time);
            let spent = until.duration_since(*since).as_secs_f64().max(0.0);
            *seconds.entry(state.as_str().to_owned()).or_insert(0.0) += spent;
        }
    }
    seconds
}

/// The cards of a run's build, newest first.
#[utoipa::path(get, path = "/v1/runs/{id}/backlog", tag = "runs",
    params(("id" = String, Path), page::PageQuery),
    responses((status = 200, body = Page<CardView>), (status = 400, body = super::openapi::Problem), (status = 404, body = super::openapi::Problem)))]
pub(super) async fn backlog(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<page::PageQuery>,
) -> Result<Json<Page<CardView>>, ApiError> {
    let run = find(&app, id).await?;
    let limit = page::limit(query.limit)?;
    let before = page::cursor(query.cursor.as_deref())?;
    let Some(build_id) = run.build_id else {
        return Ok(Json(Page {
            items: Vec::new(),
            next: None,
        }));
    };
    let filter = cards::Filter {
        status: None,
        build_id: Some(build_id),
        before,
        limit,
    };
    let found = app.store.cards(filter).await?;
    Ok(Json(Page::of(found, |card| card.seq, CardView::from)))
}
