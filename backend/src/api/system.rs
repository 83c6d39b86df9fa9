//! The system as a whole: its pulse, its load, and starting a card in one call.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::HeaderMap;
use jiff::Timestamp;
use orket_shared::id;
use serde::{Deserialize, Serialize};

use super::{
    ApiError, App, Caller,
    extract::Document,
    once,
    usage::{self, Usage},
};
use crate::{
    confine, run, sandbox,
    store::{
        runs::{Cause, Run},
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
    /// What serves sandboxes, and what was found of them.
    sandbox_driver: DriverView,
    /// The isolation level that commands reach on this host.
    isolation: &'static str,
    /// How they are confined, and what the self-test of this start found.
    confinement: confine::report::Report,
}

/// What serves sandboxes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DriverView {
    /// The driver that is the first choice here.
    name: &'static str,
    /// Why sandboxes of images cannot be made at the moment.
    fault: Option<String>,
    /// The version of the container engine.
    engine_version: Option<String>,
    /// The compose command.
    compose: Option<String>,
    /// Leaks that were found and removed since the start.
    leaks_reclaimed: u64,
    /// What carries this store's mark without a record: left alone, for a person to look at.
    quarantined: Vec<String>,
}

impl From<sandbox::Swept> for DriverView {
    fn from(swept: sandbox::Swept) -> Self {
        Self {
            name: swept.description.name,
            fault: swept.description.fault,
            engine_version: swept.description.version,
            compose: swept.description.compose,
            leaks_reclaimed: swept.reclaimed,
            quarantined: swept.quarantined.into_iter().collect(),
        }
    }
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
        sandbox_driver: app.sandboxes.swept().into(),
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
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body of the same actor get the first answer again, for 7 days.")),
    responses(
        (status = 200, body = Session),
        (status = 400, description = "Neither names a card.", body = super::openapi::Problem),
        (status = 404, description = "No such card.", body = super::openapi::Problem),
        (status = 409, description = "It has a run that has not ended, or cannot be started.", body = super::openapi::Problem),
        (status = 422, description = "The idempotency key was used with another request.", body = super::openapi::Problem),
        (status = 429, description = "The queue is full.", body = super::openapi::Problem),
))]
pub(super) async fn run_active(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Document { value, bytes }: Document<RunActive>,
) -> Result<Response, ApiError> {
    let route = "POST /v1/system/run-active\n";
    let idempotency = once::key(&headers, &caller, route, &bytes)?;
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
    let rules = app.settings.runs.rules.clone();
    let answer = |run: &Run| {
        let session_id = run.id.clone();
        serde_json::json!(Session { session_id })
    };
    let submitted = app
        .store
        .submit_run(Timestamp::now(), new, rules, idempotency, answer)
        .await?;
    Ok(match submitted {
        Submitted::New(run) => Json(answer(&run)).into_response(),
        Submitted::Before(first) => {
            let mut response = Json(first).into_response();
            once::said_before(&mut response);
            response
        }
    })
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
