//! Submitting runs.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use orket_shared::id;
use serde::Deserialize;

use super::{
    ApiError, App, Caller,
    document::{
        BoundsView, Command, Seconds, WorkFields, chosen_id, command_schema, priority,
        seconds_schema,
    },
    extract::{self, Document},
    runs::RunView,
};
use crate::{
    confine::Network,
    plan::{DEFAULT_QUEUE, dependency::Need},
    store::{
        runs::{Cause, Run},
        submissions::{Idempotency, NewRun, Subject, Submitted},
    },
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

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
        let Some(card) = self.card_id else {
            if work.command.is_none() {
                return Err(ApiError::invalid("Give either `card_id` or `command`."));
            }
            let subject = Subject::Command {
                work: work.work(&app.workspace)?,
                priority: priority(self.priority)?,
            };
            return Ok(Read {
                id: self.id,
                subject,
                build_id: self.build_id,
            });
        };
        if !work.is_empty() || self.priority.is_some() {
            return Err(ApiError::invalid(
                "With `card_id` only `id`, `build_id`, `queue` and `depends_on` may be given: the \
                 card says the rest.",
            ));
        }
        if !id::is_name(&card) {
            return Err(ApiError::unknown("card"));
        }
        Ok(Read {
            id: self.id,
            subject: Subject::Card {
                id: card,
                exclusive: false,
            },
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
    let key = extract::text(&headers, IDEMPOTENCY_KEY)?;
    if key.as_ref().is_some_and(|key| key.len() > 255) {
        return Err(ApiError::invalid(
            "The Idempotency-Key is longer than 255 bytes.",
        ));
    }
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
            chosen_id("id", &id)?;
            id
        }
        None => id::new_ulid(),
    };
    let cause = match &subject {
        Subject::Command { .. } => Cause::Api,
        Subject::Card { .. } | Subject::Again { .. } => Cause::Card,
    };
    let actor = caller.actor();
    let idempotency = key.map(|key| Idempotency {
        actor: actor.clone(),
        key,
        body: bytes.to_vec(),
    });
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
    let (view, replayed) = match submitted {
        Submitted::New(run) => (serde_json::json!(RunView::from(*run)), false),
        Submitted::Before(view) => (view, true),
    };
    let location = format!("/v1/runs/{}", view["id"].as_str().unwrap_or_default());
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    let location =
        HeaderValue::from_str(&location).map_err(|error| ApiError::fault(error.to_string()))?;
    response.headers_mut().insert(header::LOCATION, location);
    if replayed {
        response
            .headers_mut()
            .insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}
