//! The system as a whole: its pulse, its load, and starting a card in one call.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use jiff::Timestamp;
use orket_shared::id;
use serde::{Deserialize, Serialize};

use super::{
    ApiError, App, Caller,
    extract::Document,
    usage::{self, Usage},
};
use crate::{
    confine, run,
    store::{
        runs::Cause,
        submissions::{NewRun, Subject, Submitted},
    },
};

/// A sign of life.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Heartbeat {
    /// Always `online`.
    status: &'static str,
    /// Now (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    /// Runs that are running or canceling, counted from the store at this moment.
    active_tasks: i64,
}

/// A sign of life, with the number of active runs.
#[utoipa::path(get, path = "/v1/system/heartbeat", tag = "system",
    responses((status = 200, body = Heartbeat)))]
pub(super) async fn heartbeat(State(app): State<App>) -> Result<Json<Heartbeat>, ApiError> {
    let active_tasks = app.store.active_runs().await?;
    Ok(Json(Heartbeat {
        status: "online",
        timestamp: Timestamp::now(),
        active_tasks,
    }))
}

/// The machine and the work on it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Metrics {
    #[serde(flatten)]
    usage: Usage,
    /// Runs by state.
    runs: BTreeMap<&'static str, i64>,
    /// Sandboxes by state.
    sandboxes: BTreeMap<String, i64>,
    /// The isolation level that commands reach on this host.
    isolation: &'static str,
    /// How they are confined, and what the self-test of this start found.
    confinement: confine::report::Report,
}

/// Load of the machine, and runs and sandboxes by state.
#[utoipa::path(get, path = "/v1/system/metrics", tag = "system",
    responses((status = 200, body = Metrics)))]
pub(super) async fn metrics(State(app): State<App>) -> Result<Json<Metrics>, ApiError> {
    let runs = app.store.runs_by_state().await?;
    let workspace = app.workspace.root().to_owned();
    let usage = tokio::task::spawn_blocking(move || usage::measure(&workspace))
        .await
        .map_err(|error| ApiError::fault(error.to_string()))?
        .map_err(|error| ApiError::fault(format!("the machine's load cannot be read: {error}")))?;
    Ok(Json(Metrics {
        usage,
        runs: runs
            .into_iter()
            .map(|(state, n)| (run::State::as_str(state), n))
            .collect(),
        sandboxes: super::sandboxes::by_state(&app).await?,
        isolation: app.scheduler.isolation().name(),
        confinement: app.confinement.clone(),
    }))
}

/// Which card to run.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunActive {
    /// A path whose stem (its last segment without its extension) is the card's id.
    path: Option<String>,
    /// The card's id; stands before `path`.
    issue_id: Option<String>,
    /// The build to run it in; the card's own when absent.
    build_id: Option<String>,
    /// The kind of asset; accepted and not used.
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "older clients send it; the card says what is run")]
    kind: Option<String>,
}

/// The run that was started.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Session {
    /// Its id: that of the run.
    session_id: String,
}

/// Starts the card named by `issue_id`, or by the stem of `path`.
#[utoipa::path(post, path = "/v1/system/run-active", tag = "system", request_body = RunActive,
    responses(
        (status = 200, body = Session),
        (status = 400, description = "Neither names a card.", body = super::openapi::Problem),
        (status = 404, description = "No such card.", body = super::openapi::Problem),
        (status = 409, description = "It has a run that has not ended, or cannot be started.", body = super::openapi::Problem),
        (status = 429, description = "The queue is full.", body = super::openapi::Problem),
))]
pub(super) async fn run_active(
    State(app): State<App>,
    caller: Caller,
    Document { value, .. }: Document<RunActive>,
) -> Result<Json<Session>, ApiError> {
    let RunActive {
        path,
        issue_id,
        build_id,
        ..
    } = value;
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let card = given(issue_id).or_else(|| given(path).as_deref().and_then(stem));
    let Some(card) = card else {
        return Err(ApiError::new(
            http::StatusCode::BAD_REQUEST,
            "invalid_request",
            "No asset ID provided.",
        ));
    };
    if !id::is_name(&card) {
        return Err(ApiError::unknown("card"));
    }
    let build_id = given(build_id);
    super::submit::check_build(build_id.as_deref())?;
    let subject = Subject::Card {
        id: card,
        exclusive: true,
    };
    let (actor, request) = (caller.actor(), &caller.request_id);
    let new = NewRun {
        build_id,
        ..NewRun::new(&id::new_ulid(), Cause::Card, &actor, request, subject)
    };
    let session_id = new.id.clone();
    let rules = app.settings.runs.rules.clone();
    let submitted = app
        .store
        .submit_run(Timestamp::now(), new, rules, None, |_| ().into())
        .await?;
    match submitted {
        Submitted::New(_) | Submitted::Before(_) => Ok(Json(Session { session_id })),
    }
}

/// The last segment of a path without its extension.
fn stem(path: &str) -> Option<String> {
    let stem = std::path::Path::new(path).file_stem()?.to_str()?;
    Some(stem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::stem;

    #[test]
    fn the_stem_of_a_path_names_the_card() {
        assert_eq!(
            stem("model/core/issues/ISSUE-1.json").as_deref(),
            Some("ISSUE-1")
        );
        assert_eq!(stem("ISSUE-2").as_deref(), Some("ISSUE-2"));
        assert_eq!(stem(".."), None);
        assert_eq!(stem("/"), None);
    }
}
