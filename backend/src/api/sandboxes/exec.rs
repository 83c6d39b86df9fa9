//! Running a command inside of a service, where that is switched on.

use std::{io, time::Duration};

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        document::{Seconds, seconds_schema},
        extract::Document,
    },
    ApiError, App, Id, Problem, logs,
};
use crate::sandbox::{ExecError, driver::Executed};

/// How long a command may take that says nothing itself.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time that may be asked for.
const MAX_TIMEOUT: Duration = Duration::from_mins(10);

/// A command to be run.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecRequest {
    /// The service; may be left out where there is only one.
    service: Option<String>,
    /// Program and arguments.
    command: Vec<String>,
    /// How long it is waited for, at most 600 s; 30 s when absent.
    #[schema(schema_with = seconds_schema)]
    timeout: Option<Seconds>,
}

/// How a command ended. What is not UTF-8 is replaced.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ExecAnswer {
    /// Its exit code, where it has one.
    exit_code: Option<i64>,
    /// Its standard output, the first MiB of it.
    stdout: String,
    /// Its standard error, the first MiB of it.
    stderr: String,
    /// Whether it wrote more.
    truncated: bool,
}

impl From<Executed> for ExecAnswer {
    fn from(done: Executed) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            exit_code: done.exit_code,
            stdout: text(done.stdout),
            stderr: text(done.stderr),
            truncated: done.truncated,
        }
    }
}

/// Runs a command in the container of a service and waits for its end. Only where
/// `[sandboxes] exec` is on.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/exec", tag = "sandboxes", params(("id" = String, Path)),
    request_body = ExecRequest,
    responses((status = 200, body = ExecAnswer), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn exec(
    State(app): State<App>,
    Id(id): Id,
    Document { value: request, .. }: Document<ExecRequest>,
) -> Result<Json<ExecAnswer>, ApiError> {
    let sandbox = app.sandboxes.find(&id).await?;
    let service = logs::service(&sandbox, request.service.as_deref())?;
    if request.command.first().is_none_or(String::is_empty) {
        return Err(ApiError::invalid("`command` must name a program."));
    }
    let limit = super::duration(request.timeout).unwrap_or(DEFAULT_TIMEOUT);
    if limit.is_zero() || limit > MAX_TIMEOUT {
        return Err(ApiError::invalid(format!(
            "`timeout` must be more than 0 and at most {} s.",
            MAX_TIMEOUT.as_secs()
        )));
    }
    let done = app
        .sandboxes
        .exec(&sandbox, &service, request.command, limit)
        .await?;
    Ok(Json(done.into()))
}

impl From<ExecError> for ApiError {
    fn from(error: ExecError) -> Self {
        let detail = error.to_string();
        match error {
            ExecError::Off => Self::new(StatusCode::FORBIDDEN, "exec_off", detail),
            ExecError::Sandbox(error) => error.into(),
            ExecError::Driver(error) if error.kind() == io::ErrorKind::Unsupported => {
                Self::conflict(
                    "exec_unsupported",
                    "only sandboxes of images can be asked that",
                )
            }
            ExecError::Driver(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::conflict("sandbox_state", detail)
            }
            ExecError::Driver(_) => Self::unavailable("engine_unreachable", detail, 5),
        }
    }
}
