//! Submitting runs.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use http::HeaderMap;
use jiff::Timestamp;
use orket_shared::id;
use serde::Deserialize;

use super::{
    ApiError, App, Caller,
    document::{
        BoundsView, Chosen, Command, Seconds, WorkFields, chosen, chosen_id, command_schema,
        free_id, seconds_schema,
    },
    extract::Document,
    once,
    runs::RunView,
};
use crate::{
    confine::Network,
    crash_point::CrashPoint,
    plan::{DEFAULT_QUEUE, dependency::Need},
    store::{
        runs::{Cause, Run},
        submissions::{NewRun, Subject},
    },
};

/// A run to be submitted: a card's, or a command of its own.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Submit {
    /// The run's id; one is made when absent. An id that exists is refused with 409.
    id: Option<String>,
    /// The card to run. Nothing else of the work may be given then.
    card_id: Option<String>,
    /// The build it belongs to; runs of one build take turns with those of others.
    build_id: Option<String>,
    /// What to execute.
    #[schema(schema_with = command_schema)]
    command: Option<Command>,
    /// Whether `command` is a script for `/bin/sh`.
    shell: Option<bool>,
    /// The command's environment.
    env: Option<BTreeMap<String, String>>,
    /// Where to run it, inside the workspace.
    workdir: Option<String>,
    /// After which time to end it.
    #[schema(schema_with = seconds_schema)]
    timeout: Option<Seconds>,
    /// How often it may run again when it did not succeed.
    retries: Option<u32>,
    /// `none`: without a network, whatever the configuration gives. It cannot get more than that.
    network: Option<Network>,
    /// 0 to 9, larger first.
    priority: Option<i64>,
    /// What bounds it beside `timeout`.
    bounds: Option<BoundsView>,
    /// The queue it waits in; `default` when absent. One that is not configured is refused.
    queue: Option<String>,
    /// Runs that have to succeed before this one is started, 100 at most. When one ends otherwise,
    /// this one is `canceled`, reason `dependency_failed`.
    #[serde(default)]
    depends_on: Vec<String>,
}

/// A submission, read.
struct Read {
    id: Option<String>,
    subject: Subject,
    build_id: Option<String>,
}

impl Submit {
    fn read(self, app: &App) -> Result<Read, ApiError> {
        let work = WorkFields {
            command: self.command,
            shell: self.shell,
            env: self.env,
            workdir: self.workdir,
            timeout: self.timeout,
            retries: self.retries,
            stack: None,
            bounds: self.bounds,
            network: self.network,
        };
        let subject = match chosen(self.card_id, work, self.priority, &app.workspace)? {
            Chosen::Command(work, priority) => Subject::Command { work, priority },
            Chosen::Card(card) if !id::is_name(&card) => return Err(ApiError::unknown("card")),
            Chosen::Card(id) => Subject::Card {
                id,
                exclusive: false,
            },
        };
        Ok(Read {
            id: self.id,
            subject,
            build_id: self.build_id,
        })
    }
}

/// Checks a build's name.
pub(super) fn check_build(build: Option<&str>) -> Result<(), ApiError> {
    build.map_or(Ok(()), |build| chosen_id("build_id", build))
}

/// The queue that is asked for. Whether it exists says the store: what waits there counts.
pub(super) fn queue(asked: Option<&str>) -> Result<String, ApiError> {
    let queue = asked.unwrap_or(DEFAULT_QUEUE);
    chosen_id("queue", queue)?;
    Ok(queue.to_owned())
}

fn needs(depends_on: &[String]) -> Result<Vec<(String, Need)>, ApiError> {
    if depends_on.len() > 100 {
        return Err(ApiError::invalid("`depends_on` names more than 100 runs"));
    }
    depends_on
        .iter()
        .map(|id| {
            chosen_id("depends_on", id)?;
            Ok((id.clone(), Need::Success))
        })
        .collect()
}

/// Submits a run. It is on disk before this answers.
#[utoipa::path(post, path = "/v1/runs", tag = "runs", request_body = Submit,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body of the same actor get the first answer again, for 7 days.")),
    responses(
        (status = 201, description = "Queued.", body = RunView, headers(("Location" = String, description = "Where it is."))),
        (status = 400, description = "It does not fit.", body = super::openapi::Problem),
        (status = 404, description = "No such card.", body = super::openapi::Problem),
        (status = 409, description = "A run of that id exists, or the card cannot be started. Nothing was changed.", body = super::openapi::Problem),
        (status = 422, description = "The idempotency key was used with another body.", body = super::openapi::Problem),
        (status = 429, description = "The queue is full.", body = super::openapi::Problem),
))]
pub(super) async fn submit(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Document { value, bytes }: Document<Submit>,
) -> Result<Response, ApiError> {
    let idempotency = once::key(&headers, &caller, "", &bytes)?;
    let queue = queue(value.queue.as_deref())?;
    let needs = needs(&value.depends_on)?;
    let Read {
        id,
        subject,
        build_id,
    } = value.read(&app)?;
    check_build(build_id.as_deref())?;
    let id = match id {
        Some(id) => {
            free_id("id", &id, "replay")?;
            id
        }
        None => id::new_ulid(),
    };
    let cause = match &subject {
        Subject::Command { .. } => Cause::Api,
        Subject::Card { .. } | Subject::Again { .. } => Cause::Card,
    };
    let actor = caller.actor();
    let new = NewRun {
        build_id,
        queue,
        needs,
        ..NewRun::new(&id, cause, &actor, &caller.request_id, subject)
    };
    let rules = app.settings.runs.rules.clone();
    let answer = |run: &Run| serde_json::json!(RunView::from(run.clone()));
    let submitted = app
        .store
        .submit_run(Timestamp::now(), new, rules, idempotency, answer)
        .await?;
    CrashPoint::SubmissionCommitted.reached();
    once::created(submitted, "/v1/runs", answer)
}
