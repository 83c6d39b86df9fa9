//! Errors into answers: one shape (RFC 9457), made in one place.
//!
//! An [`ApiError`] has a public text, which a caller reads, and sometimes a private one, which
//! only the log gets. The request's id is added on the way out, to every answer.

use axum::{
    Json,
    extract::{MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use orket_shared::{
    header::REQUEST_ID,
    id,
    problem::{CONTENT_TYPE, Problem},
};

use crate::{
    store::{
        StoreError, cards::CardError, idempotency::KeyReused, schedules::ScheduleError,
        submissions::SubmitError,
    },
    work::Invalid,
    workspace::Refused,
};

/// An error as it will be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    reason: &'static str,
    detail: String,
    retry_after: Option<u32>,
    private: Option<String>,
}

impl ApiError {
    /// An error of this status, with a word for programs and a text for people.
    pub fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            detail: detail.into(),
            retry_after: None,
            private: None,
        }
    }

    /// 400: the request itself is wrong.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// 404: there is no such thing; `what` is its kind, e.g. `run`.
    pub fn unknown(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("There is no such {what}."),
        )
    }

    /// 409: the thing is not in a state that allows this.
    pub fn conflict(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, reason, detail)
    }

    /// 503: someone should come back in `seconds`.
    pub fn unavailable(reason: &'static str, detail: impl Into<String>, seconds: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, detail).retry_after(seconds)
    }

    /// 500: a fault of ours. The text goes to the log only.
    pub fn fault(private: impl Into<String>) -> Self {
        let detail = "Something went wrong inside. The log tells more under this request's id.";
        let error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", detail);
        Self {
            private: Some(private.into()),
            ..error
        }
    }

    /// The same error, saying when to come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl std::fmt::Display for ApiError {
    /// The public text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        let answer = match error {
            StoreError::Full => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "store_full",
                "The store's disk is full. Nothing was changed. Free space and try again.",
            )
            .retry_after(30),
            StoreError::ReadOnly(_) => unusable(
                "The store may only be read: its disk is mounted read-only, or its file belongs to \
                 another user. Nothing was changed. Make it writable and try again.",
            ),
            StoreError::Io(_) => unusable(
                "The store's disk failed, or a file of the store is gone. Nothing was changed. \
                 Look at the disk (the log has what it said), and try again.",
            ),
            StoreError::Busy(_) => unusable(
                "Another program has the store locked, such as a backup or a database shell. \
                 Nothing was changed. Let it end and try again.",
            ),
            StoreError::Closed => {
                unusable("The backend stops. Nothing was changed. Try again when it is back.")
            }
            StoreError::Fault(_) => return Self::fault(text),
        };
        Self {
            private: Some(text),
            ..answer
        }
    }
}

/// 503: the store takes nothing now, for this reason.
fn unusable(detail: &str) -> ApiError {
    ApiError::unavailable("store_unavailable", detail, 5)
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let detail = error.to_string();
        match error {
            SubmitError::Exists(_) => Self::conflict("run_exists", detail),
            SubmitError::QueueFull { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", detail).retry_after(5)
            }
            SubmitError::UnknownQueue(_)
            | SubmitError::UnknownNeed(_)
            | SubmitError::NeedsItself => Self::invalid(detail),
            SubmitError::NeedFailed { .. } => Self::conflict("dependency_failed", detail),
            SubmitError::UnknownCard(_) => Self::unknown("card"),
            SubmitError::CardNotStartable { .. } => Self::conflict("card_not_startable", detail),
            SubmitError::CardBusy { .. } => Self::conflict("card_busy", detail),
            SubmitError::Dependency { .. } => Self::conflict("dependency_not_done", detail),
            SubmitError::KeyReused(reused) => reused.into(),
            SubmitError::Store(error) => error.into(),
        }
    }
}

impl From<CardError> for ApiError {
    fn from(error: CardError) -> Self {
        let detail = error.to_string();
        match error {
            CardError::Exists(_) => Self::conflict("card_exists", detail),
            CardError::Unknown => Self::unknown("card"),
            CardError::UnknownDependency(_) | CardError::Circle(_) | CardError::Invalid(_) => {
                Self::invalid(detail)
            }
            CardError::Illegal { .. } => Self::conflict("card_status", detail),
            CardError::Busy { .. } => Self::conflict("card_busy", detail),
            CardError::Needed { .. } => Self::conflict("card_needed", detail),
            CardError::KeyReused(reused) => reused.into(),
            CardError::Store(error) => error.into(),
        }
    }
}

impl From<ScheduleError> for ApiError {
    fn from(error: ScheduleError) -> Self {
        let detail = error.to_string();
        match error {
            ScheduleError::Exists(_) => Self::conflict("schedule_exists", detail),
            ScheduleError::Unknown => Self::unknown("schedule"),
            ScheduleError::UnknownCard(_) => Self::invalid(detail),
            ScheduleError::KeyReused(reused) => reused.into(),
            ScheduleError::Store(error) => error.into(),
        }
    }
}

impl From<KeyReused> for ApiError {
    fn from(reused: KeyReused) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            reused.to_string(),
        )
    }
}

impl From<Invalid> for ApiError {
    fn from(Invalid(text): Invalid) -> Self {
        Self::invalid(text)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::invalid(refused.to_string())
    }
}

impl IntoResponse for ApiError {
    /// The error rides on the answer until [`finish`], which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// What no route names.
pub(super) async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "Not found")
}

/// A route that does not know the method; the router adds `Allow`.
pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "Method not allowed",
    )
}

/// Before every route while the store's disk is full: what would change anything is refused.
pub(super) async fn reading_only(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    ApiError::from(StoreError::Full).into_response()
}

/// Any request while the store does not even open, because its disk is full.
pub(super) async fn no_store(method: Method) -> ApiError {
    if method.is_safe() {
        return unusable(
            "The store's disk is full, and the store cannot be opened without some room. Free space: \
             it is looked for every second.",
        );
    }
    StoreError::Full.into()
}

/// A handler that panicked.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape the layer asks for"
)]
pub(super) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    ApiError::fault(format!("a handler panicked: {text}")).into_response()
}

/// The id of the request being handled.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// Around everything: gives the request its id, writes problems, logs once.
pub(super) async fn finish(mut request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let request_id = given.filter(|given| id::is_name(given)).map(str::to_owned);
    let request_id = request_id.unwrap_or_else(id::new_ulid);
    request
        .extensions_mut()
        .insert(RequestId(request_id.clone()));
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let begun = std::time::Instant::now();

    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        if let Some(private) = &error.private {
            tracing::error!(event = "request_failed", request_id, %method, private, "a fault");
        }
        let allow = response.headers_mut().remove(header::ALLOW);
        response = write(error, &request_id);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response
            .headers_mut()
            .insert(HeaderName::from_static(REQUEST_ID), value);
    }
    tracing::debug!(
        event = "request", request_id, %method, route, status = response.status().as_u16(),
        micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX), "request"
    );
    response
}

fn write(error: ApiError, request_id: &str) -> Response {
    let title = error.status.canonical_reason().unwrap_or("Error");
    let problem = Problem::new(error.status.as_u16(), title, error.reason, error.detail)
        .with_request_id(request_id);
    let mut response = (error.status, Json(problem)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if let Some(seconds) = error.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
