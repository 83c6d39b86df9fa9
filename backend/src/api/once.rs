//! Making things once: `Idempotency-Key`, and how what was made is answered.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;

use super::{ApiError, Caller, extract};
use crate::store::idempotency::{Idempotency, Once};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The key of a request whose body is `bytes`. `route` tells it from another route's with the same
/// body; it is empty for that of runs, whose keys of earlier versions hold.
pub(super) fn key(
    headers: &HeaderMap,
    caller: &Caller,
    route: &str,
    bytes: &[u8],
) -> Result<Option<Idempotency>, ApiError> {
    let key = extract::text(headers, IDEMPOTENCY_KEY)?;
    if headers.contains_key(IDEMPOTENCY_KEY) && key.is_none() {
        return Err(ApiError::invalid(
            "The Idempotency-Key is empty: send one that is this request's own, such as a UUID, or \
             leave the header out.",
        ));
    }
    if key.as_ref().is_some_and(|key| key.len() > 255) {
        return Err(ApiError::invalid(
            "The Idempotency-Key is longer than 255 bytes.",
        ));
    }
    Ok(key.map(|key| Idempotency {
        actor: caller.actor(),
        key,
        body: [route.as_bytes(), bytes].concat(),
    }))
}

/// What was made, now or before, as it is answered: 201 and where it is, below `place`.
pub(super) fn created<T>(
    once: Once<T>,
    place: &str,
    view: fn(&T) -> Value,
) -> Result<Response, ApiError> {
    let (view, is_new) = match once {
        Once::New(made) => (view(&made), true),
        Once::Before(view) => (view, false),
    };
    let location = format!("{place}/{}", view["id"].as_str().unwrap_or_default());
    let location =
        HeaderValue::from_str(&location).map_err(|error| ApiError::fault(error.to_string()))?;
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    response.headers_mut().insert(header::LOCATION, location);
    if !is_new {
        said_before(&mut response);
    }
    Ok(response)
}

/// Marks an answer as one that was given before.
pub(super) fn said_before(response: &mut Response) {
    response
        .headers_mut()
        .insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
}
