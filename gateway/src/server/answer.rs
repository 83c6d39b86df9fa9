//! What the two listeners of the operator answer: a page, or a problem in the one shape of all refusals. Each has its `X-Request-Id`.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use orket_shared::{
    header::REQUEST_ID,
    id::new_ulid,
    problem::{self, Problem},
};

use crate::denial::status_phrase;

/// See the [module](self).
pub(super) enum Answer {
    /// What was asked for.
    Page {
        status: StatusCode,
        kind: &'static str,
        body: String,
    },
    /// Why it was not done.
    Refused {
        status: StatusCode,
        reason: &'static str,
        detail: String,
    },
}

impl Answer {
    /// What was asked for, as JSON.
    pub(super) fn json(value: &impl serde::Serialize) -> Self {
        Self::json_with(StatusCode::OK, value)
    }

    /// As [`Self::json`], with another status.
    pub(super) fn json_with(status: StatusCode, value: &impl serde::Serialize) -> Self {
        Self::Page {
            status,
            kind: "application/json",
            body: serde_json::json!(value).to_string(),
        }
    }

    /// Why it was not done: `reason` is a stable word, `detail` says what to do.
    pub(super) fn refused(
        status: StatusCode,
        reason: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self::Refused {
            status,
            reason,
            detail: detail.into(),
        }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let id = new_ulid();
        let (status, kind, body) = match self {
            Self::Page { status, kind, body } => (status, kind, body),
            Self::Refused {
                status,
                reason,
                detail,
            } => {
                let phrase = status_phrase(status.as_u16());
                let problem =
                    Problem::new(status.as_u16(), phrase, reason, detail).with_request_id(&*id);
                let body = serde_json::to_string(&problem).unwrap_or_default();
                (status, problem::CONTENT_TYPE, body)
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, id);
        }
        response
    }
}
