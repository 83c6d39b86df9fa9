//! Sandboxes: making, looking at, stopping, extending, deleting.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, openapi::OpenApi as Description};

use super::{
    ApiError, App, Caller,
    document::{Seconds, seconds_schema},
    extract::{Document, Id},
    once,
    openapi::Problem,
};
use crate::{
    sandbox::{
        CreateError, Unready,
        ports::{NoPort, Role},
        spec::{Health, Service, Spec},
        stack::{compose::Stack, template},
    },
    sandbox_state::{Reason, State as Life},
    store::{
        idempotency::{Answer, Idempotency, Once},
        sandboxes::{Sandbox, SandboxError, ServiceState},
    },
};

mod exec;
mod logs;
mod stats;

/// The routes of sandboxes, for the router's one screen.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/sandboxes", get(list).post(create))
        .route("/v1/sandboxes/{id}", get(detail).delete(remove))
        .route("/v1/sandboxes/{id}/stop", post(stop))
        .route("/v1/sandboxes/{id}/extend", post(extend))
        .route("/v1/sandboxes/{id}/exec", post(exec::exec))
        .route("/v1/sandboxes/{id}/stats", get(stats::stats))
        .route("/v1/sandboxes/{id}/logs", get(logs::logs))
}

/// Sandboxes by state, counted from the store.
pub(super) async fn by_state(app: &App) -> Result<BTreeMap<String, i64>, ApiError> {
    let counts = app.store.sandboxes_by_state().await?;
    Ok(counts
        .into_iter()
        .map(|(state, count)| (state.as_str().to_owned(), count))
        .collect())
}

/// The description of the sandboxes' routes.
pub(super) fn openapi() -> Description {
    Routes::openapi()
}

#[derive(OpenApi)]
#[openapi(
    paths(
        list,
        create,
        detail,
        remove,
        stop,
        extend,
        exec::exec,
        stats::stats,
        logs::logs
    ),
    components(schemas(Role, Health, Life, Reason, ServiceState))
)]
struct Routes;

/// A service to be part of a sandbox.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ServiceFields {
    /// Unique within the sandbox: lower-case letters, digits, `-` and `_`.
    name: String,
    /// The image of its container, with a tag other than `latest` or a digest. Without one it is a
    /// process.
    image: Option<String>,
    /// Program and arguments; may be left out where the image has its own. It learns its port from
    /// `PORT`, where the others are from `ORKET_HOST_<NAME>` and `ORKET_PORT_<NAME>`.
    #[serde(default)]
    command: Vec<String>,
    /// What it is to its users; gives it a port of that role's range.
    role: Option<Role>,
    /// Exactly this port, which must lie in a configured range and be free.
    port: Option<u16>,
    /// The port it listens on in its container; that of `PORT` when absent.
    container_port: Option<u16>,
    /// Where volumes of the sandbox's own lie in its container; they go with the sandbox.
    #[serde(default)]
    volumes: Vec<String>,
    /// The user in its container, in figures: `uid` or `uid:gid`; the image's own when absent.
    user: Option<String>,
    /// Whether its container is started again when it fails, a few times.
    #[serde(default)]
    restart: bool,
    /// Its environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Where it runs, relative to the workspace; a folder of the sandbox's own when absent.
    workdir: Option<String>,
    /// How it is seen whether it is well: `{"path": "/health"}` or `{"tcp": true}`. When absent:
    /// its port, if it has one.
    health: Option<Health>,
}

impl From<ServiceFields> for Service {
    fn from(fields: ServiceFields) -> Self {
        let has_port = fields.role.is_some() || fields.port.is_some();
        Self {
            name: fields.name,
            image: fields.image,
            command: fields.command,
            role: fields.role,
            port: fields.port,
            pinned: false,
            container_port: fields.container_port,
            volumes: fields.volumes,
            user: fields.user,
            restart: fields.restart,
            env: fields.env,
            workdir: fields.workdir,
            health: fields
                .health
                .unwrap_or_else(|| Self::default_health(has_port)),
            ..Self::default()
        }
    }
}

/// A sandbox to be made.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    /// What people call it.
    name: Option<String>,
    /// The build it belongs to; bounds how many it may have.
    build_id: Option<String>,
    /// Its services, in the order of their start; left out where there is a `stack`.
    #[serde(default)]
    services: Vec<ServiceFields>,
    /// A stack in place of services.
    stack: Option<StackFields>,
    /// Names of credentials to generate, where there is no `stack`; each lands in a file that `<NAME>_FILE` names.
    /// `["password"]` when absent.
    credentials: Option<Vec<String>>,
    /// How long it lives unless it is extended; the configured default when absent.
    #[schema(schema_with = seconds_schema)]
    ttl: Option<Seconds>,
}

/// Where the services come from: a stack that is built in, or a repository's own.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum StackFields {
    /// A stack that is built in.
    Template {
        /// Its name, such as `fastapi-react-postgres`.
        name: String,
        /// Images in place of its own, by service; those of the application have to be given.
        #[serde(default)]
        images: BTreeMap<String, String>,
    },
    /// A folder of the workspace: what its `.orket.toml` says, or its own compose file.
    Repository(String),
}

/// How long a sandbox shall live.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ExtendRequest {
    /// From now on; the configured default when absent.
    #[schema(schema_with = seconds_schema)]
    ttl: Option<Seconds>,
}

/// A service of a sandbox.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ServiceView {
    /// Its name.
    name: String,
    /// How it was last seen.
    state: ServiceState,
    /// The image of its container; `null` for a process.
    image: Option<String>,
    /// Program and arguments; the image's own when empty.
    command: Vec<String>,
    /// What it is to its users.
    role: Option<Role>,
    /// Its port on 127.0.0.1.
    port: Option<u16>,
    /// Names of the variables it was given; their values are not answered.
    env: Vec<String>,
    /// Where it runs, in the workspace.
    workdir: Option<String>,
    /// How it is seen whether it is well.
    health: Health,
}

/// A sandbox.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct SandboxView {
    /// Its id.
    id: String,
    /// What people call it.
    name: Option<String>,
    /// The build it belongs to.
    build_id: Option<String>,
    /// Where it is in its life.
    state: Life,
    /// Why it ends or ended, in one word.
    reason: Option<Reason>,
    /// The same for people.
    detail: Option<String>,
    /// The driver that serves it.
    driver: String,
    /// The isolation level of its services.
    isolation: String,
    /// Its services.
    services: Vec<ServiceView>,
    /// Names of its generated credentials.
    credentials: Vec<String>,
    /// When it was asked for (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// When it is removed unless it is extended.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// When its processes were seen gone.
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
}

impl From<Sandbox> for SandboxView {
    fn from(sandbox: Sandbox) -> Self {
        let Sandbox {
            services, health, ..
        } = sandbox;
        let view = |service: Service| ServiceView {
            state: health
                .get(&service.name)
                .copied()
                .unwrap_or(ServiceState::Starting),
            name: service.name,
            image: service.image,
            command: service.command,
            role: service.role,
            port: service.port,
            env: service.env.into_keys().collect(),
            workdir: service.workdir,
            health: service.health,
        };
        Self {
            id: sandbox.id,
            name: sandbox.name,
            build_id: sandbox.build_id,
            state: sandbox.state,
            reason: sandbox.reason,
            detail: sandbox.detail,
            driver: sandbox.driver,
            isolation: sandbox.isolation,
            services: services.into_iter().map(view).collect(),
            credentials: sandbox.secrets,
            created_at: sandbox.created_at,
            updated_at: sandbox.updated_at,
            expires_at: sandbox.expires_at,
            ended_at: sandbox.ended_at,
        }
    }
}

/// The active sandboxes: every state but deleted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct SandboxList {
    /// Newest first.
    items: Vec<SandboxView>,
}

/// The active sandboxes: every state but deleted, newest first.
#[utoipa::path(get, path = "/v1/sandboxes", tag = "sandboxes",
    responses((status = 200, body = SandboxList)))]
async fn list(State(app): State<App>) -> Result<Json<SandboxList>, ApiError> {
    let sandboxes = app.sandboxes.list_active().await?;
    Ok(Json(SandboxList {
        items: sandboxes.into_iter().map(SandboxView::from).collect(),
    }))
}

/// Makes a sandbox. It is recorded, with its ports, when this answers; its services start then.
#[utoipa::path(post, path = "/v1/sandboxes", tag = "sandboxes", request_body = CreateRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body of the same actor get the first answer again, for 7 days.")),
    responses((status = 201, body = SandboxView), (status = 400, body = Problem), (status = 409, body = Problem),
        (status = 422, description = "The idempotency key was used with another body.", body = Problem),
        (status = 429, description = "There are as many sandboxes as are allowed.", body = Problem),
        (status = 503, description = "There is no port or no engine for it now, or the store cannot be used now; `detail` says which.", body = Problem)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Document {
        value: request,
        bytes,
    }: Document<CreateRequest>,
) -> Result<Response, ApiError> {
    let idempotency = once::key(&headers, &caller, "/v1/sandboxes", &bytes)?;
    let answer = |sandbox: &Sandbox| serde_json::json!(SandboxView::from(sandbox.clone()));
    // Before its stack is read: that may have changed since.
    let made = match answered(&app, idempotency.as_ref()).await? {
        Some(before) => before,
        None => {
            let spec = spec(&app, request).await?;
            let key = idempotency
                .clone()
                .map(|key| (key, answer as Answer<Sandbox>));
            let made = app
                .sandboxes
                .create(spec, caller.actor(), caller.request_id, key)
                .await;
            match made {
                Ok(made) => made,
                // Whoever asked with it at the same moment has the place or the port.
                Err(error) => match answered(&app, idempotency.as_ref()).await? {
                    Some(before) => before,
                    None => return Err(error.into()),
                },
            }
        }
    };
    once::created(made, "/v1/sandboxes", answer)
}

/// What is asked for, with the services of its stack.
async fn spec(app: &App, request: CreateRequest) -> Result<Spec, ApiError> {
    super::submit::check_build(request.build_id.as_deref())?;
    let (services, secrets) = match request.stack {
        None => (
            request.services.into_iter().map(Service::from).collect(),
            Spec::secrets_or_default(request.credentials),
        ),
        Some(_) if !request.services.is_empty() || request.credentials.is_some() => {
            let detail = "`stack` brings its own `services` and `credentials`: leave them out";
            return Err(ApiError::invalid(detail));
        }
        Some(chosen) => {
            let stack = stack(app, chosen).await?;
            (stack.services, stack.secrets)
        }
    };
    Ok(Spec {
        name: request.name,
        build_id: request.build_id,
        services,
        secrets,
        ttl: duration(request.ttl).unwrap_or(app.sandboxes.default_ttl()),
    })
}

/// What was answered to this key before, also where there is no room for another sandbox.
async fn answered(app: &App, key: Option<&Idempotency>) -> Result<Option<Once<Sandbox>>, ApiError> {
    let Some(key) = key else { return Ok(None) };
    let first = app.store.sandbox_answered(key.clone()).await?;
    Ok(first.map(Once::Before))
}

async fn stack(app: &App, chosen: StackFields) -> Result<Stack, ApiError> {
    let dir = match chosen {
        StackFields::Template { name, images } => return Ok(template::stack(&name, &images)?),
        StackFields::Repository(dir) => dir,
    };
    let sandboxes = app.sandboxes.clone();
    let read = tokio::task::spawn_blocking(move || sandboxes.stack_of(&dir));
    let read = read
        .await
        .map_err(|error| ApiError::fault(error.to_string()))?;
    Ok(read?)
}

/// One sandbox, also after its deletion.
#[utoipa::path(get, path = "/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path)),
    responses((status = 200, body = SandboxView), (status = 404, body = Problem)))]
async fn detail(State(app): State<App>, Id(id): Id) -> Result<Json<SandboxView>, ApiError> {
    Ok(Json(app.sandboxes.find(&id).await?.into()))
}

/// Ends a sandbox; its files and logs stay. Repeating it is fine.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/stop", tag = "sandboxes", params(("id" = String, Path)),
    responses((status = 202, body = SandboxView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn stop(State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let sandbox = app.sandboxes.stop(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(SandboxView::from(sandbox))).into_response())
}

/// Ends a sandbox if it lives and removes all of it. Its state is `deleted` once nothing was seen
/// to be left.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path)),
    responses((status = 202, body = SandboxView), (status = 404, body = Problem)))]
async fn remove(State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let sandbox = app.sandboxes.delete(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(SandboxView::from(sandbox))).into_response())
}

/// Lets a sandbox live longer, or shorter.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/extend", tag = "sandboxes", params(("id" = String, Path)),
    request_body = ExtendRequest,
    responses((status = 200, body = SandboxView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
async fn extend(
    State(app): State<App>,
    Id(id): Id,
    Document { value: request, .. }: Document<ExtendRequest>,
) -> Result<Json<SandboxView>, ApiError> {
    Ok(Json(
        app.sandboxes
            .extend(&id, duration(request.ttl))
            .await?
            .into(),
    ))
}

fn duration(seconds: Option<Seconds>) -> Option<Duration> {
    seconds.map(|seconds| Duration::from_millis(seconds.ms))
}

impl From<SandboxError> for ApiError {
    fn from(error: SandboxError) -> Self {
        let detail = error.to_string();
        match error {
            SandboxError::Unknown => Self::unknown("sandbox"),
            SandboxError::Illegal { .. } => Self::conflict("sandbox_state", detail),
            SandboxError::TooMany(_) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_sandboxes", detail)
                    .retry_after(30)
            }
            SandboxError::TooManyOfBuild(_) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_sandboxes_of_build",
                detail,
            )
            .retry_after(30),
            SandboxError::KeyReused(reused) => reused.into(),
            SandboxError::PortTaken(_) => Self::unavailable("port_taken", detail, 1),
            SandboxError::Superseded(_) => Self::unavailable("superseded", detail, 5),
            SandboxError::Store(error) => error.into(),
        }
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let detail = error.to_string();
        match error {
            CreateError::Invalid(error) => error.into(),
            CreateError::Workdir(error) => error.into(),
            CreateError::Stack(_) => Self::invalid(detail),
            CreateError::TooLong(_) | CreateError::Port(NoPort::OutOfRange(_)) => {
                Self::invalid(detail)
            }
            CreateError::Port(NoPort::Taken(_)) => Self::conflict("port_taken", detail),
            CreateError::Port(NoPort::Exhausted(_)) => {
                Self::unavailable("no_free_port", detail, 30)
            }
            CreateError::Isolation { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "isolation_too_low", detail)
            }
            CreateError::NotReady(Unready::Engine(_)) => {
                Self::unavailable("engine_unreachable", detail, 5)
            }
            CreateError::NotReady(Unready::Compose(_)) => {
                Self::unavailable("compose_missing", detail, 30)
            }
            CreateError::Store(error) => error.into(),
        }
    }
}
