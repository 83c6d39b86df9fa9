//! Runs as sessions: the same id, the words of older clients.

use axum::{Json, extract::State};
use serde::Serialize;

use crate::confine::Network;

use super::{ApiError, App, document::Seconds, extract::Id, runs};

/// A run as a session.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Session {
    /// Its id: that of the run.
    #[serde(rename = "session_id")]
    id: String,
    /// The run's state.
    status: crate::run::State,
    #[serde(flatten)]
    run: runs::RunView,
}

/// A run as a session.
#[utoipa::path(get, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Session), (status = 404, body = super::openapi::Problem)))]
pub(super) async fn session(State(app): State<App>, Id(id): Id) -> Result<Json<Session>, ApiError> {
    let run = find(&app, id).await?;
    Ok(Json(Session {
        id: run.id.clone(),
        status: run.state,
        run: run.into(),
    }))
}

/// What a run was given when it was submitted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Snapshot {
    /// The session's id: that of the run.
    session_id: String,
    /// The card as it was then.
    #[schema(value_type = Option<Object>)]
    card: Option<serde_json::Value>,
    /// Program and arguments, or script and parameters.
    command: Vec<String>,
    /// Whether `command` is a script for `/bin/sh`.
    shell: bool,
    /// Where it runs, in the workspace.
    workdir: Option<String>,
    /// The names of its environment; never the values.
    environment: Vec<String>,
    policy: Policy,
}

/// The rules a run is under.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Policy {
    /// After which time it is ended, in seconds.
    #[schema(schema_with = super::document::seconds_schema)]
    timeout: Seconds,
    /// How often it may run again.
    retries: u32,
    /// The network it asks for; absent: that of the configuration.
    network: Option<Network>,
    /// 0 to 9, larger first.
    priority: i64,
    /// The isolation level it must reach, where it came from a webhook.
    min_isolation: Option<&'static str>,
}

/// What a run was given when it was submitted: its card, command and policy.
#[utoipa::path(get, path = "/v1/sessions/{id}/snapshot", tag = "sessions",
    params(("id" = String, Path)),
    responses((status = 200, body = Snapshot), (status = 404, body = super::openapi::Problem)))]
pub(super) async fn snapshot(
    State(app): State<App>,
    Id(id): Id,
) -> Result<Json<Snapshot>, ApiError> {
    use crate::store::runs::Cause;
    let run = find(&app, id).await?;
    let settings = &app.settings.runs;
    let default = u64::try_from(settings.timeout.as_millis()).unwrap_or(u64::MAX);
    Ok(Json(Snapshot {
        session_id: run.id,
        card: run.card_snapshot,
        command: run.work.command,
        shell: run.work.shell,
        workdir: run.work.workdir,
        environment: run.work.env.into_keys().collect(),
        policy: Policy {
            timeout: Seconds {
                ms: run.work.timeout_ms.unwrap_or(default),
            },
            retries: run.work.retries,
            network: run.work.network,
            priority: run.priority,
            min_isolation: match run.cause {
                Cause::Review => Some(settings.min_isolation.name()),
                Cause::Api | Cause::Card | Cause::Schedule => None,
            },
        },
    }))
}

async fn find(app: &App, id: String) -> Result<crate::store::runs::Run, ApiError> {
    app.store
        .run(id)
        .await?
        .ok_or_else(|| ApiError::unknown("session"))
}
