//! Reading requests strictly: what does not fit is refused with the field named, never repaired.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request, rejection::BytesRejection},
};
use http::{HeaderMap, StatusCode, header, request::Parts};
use orket_shared::header::{ACTOR, FORWARDED_FOR};
use serde::{
    Serialize,
    de::{self, DeserializeOwned},
};

use super::problem::{ApiError, RequestId};

/// Who asks, as the gateway said. Without a gateway in between it is someone of this machine.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Caller {
    /// `key:<id>`, `webhook:<source>`, …; `null` for a direct connection.
    pub actor: Option<String>,
    /// The id of this request.
    pub request_id: String,
    /// The client's address as the gateway judged it; `null` for a direct connection.
    pub client_address: Option<String>,
}

impl Caller {
    /// The actor as it is stored.
    pub fn actor(&self) -> String {
        self.actor.clone().unwrap_or_else(|| "local".to_owned())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        Ok(Self {
            actor: text(&parts.headers, ACTOR)?,
            request_id: id.unwrap_or_default(),
            client_address: text(&parts.headers, FORWARDED_FOR)?,
        })
    }
}

/// The value of a header that may occur once at most.
pub(super) fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ApiError::invalid(format!(
            "The header {name} occurs more than once."
        )));
    }
    match value.to_str() {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(ApiError::invalid(format!(
            "The header {name} is not ASCII text."
        ))),
    }
}

/// A body as it came, within the route's limit.
pub(super) struct Body(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(BytesRejection::FailedToBufferBody(error))
                if error.status() == StatusCode::PAYLOAD_TOO_LARGE =>
            {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                Err(ApiError::new(
                    status,
                    "payload_too_large",
                    "Payload too large",
                ))
            }
            Err(_) => Err(ApiError::invalid("The body broke off. Send it again.")),
        }
    }
}

/// A JSON body of a known shape, and its bytes.
pub(super) struct Document<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Document<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let kind = text(request.headers(), "content-type")?;
        if !kind.as_deref().is_some_and(is_json) {
            let detail = "Send the body as JSON, with `Content-Type: application/json`.";
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                detail,
            ));
        }
        let Body(bytes) = Body::from_request(request, state).await?;
        // A list of the same values would do otherwise.
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if first != Some(&b'{') && serde_json::from_slice::<de::IgnoredAny>(&bytes).is_ok() {
            let detail = "The body must be a JSON object: {\"field\": value, …}";
            return Err(ApiError::invalid(detail));
        }
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            use serde_json::error::Category;
            match error.classify() {
                Category::Data => ApiError::invalid(format!("The body does not fit: {error}")),
                Category::Io | Category::Syntax | Category::Eof => {
                    ApiError::invalid(format!("The body is not JSON: {error}"))
                }
            }
        })?;
        Ok(Self { value, bytes })
    }
}

/// Whether a content type is JSON (`application/json` or `…+json`, with any parameters).
fn is_json(kind: &str) -> bool {
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The id in a path. One that cannot be an id is that of nothing.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) if orket_shared::id::is_name(&id) => Ok(Self(id)),
            Ok(_) | Err(_) => Err(ApiError::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "There is nothing of that id.",
            )),
        }
    }
}

/// A query of a known shape.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(error) => {
                let text = error.body_text();
                let why = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                Err(ApiError::invalid(format!("The query does not fit: {why}")))
            }
        }
    }
}

/// Whether the client would rather have a stream of server-sent events.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|kind| kind.trim().starts_with("text/event-stream"))
        })
}
