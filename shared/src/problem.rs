//! The one shape of an error body: problem details for HTTP APIs (RFC 9457), extended by
//! `reason` (from a short closed list) and `request_id` (leads to the log).

use serde::{Deserialize, Serialize};

/// The media type of [`Problem`] (RFC 9457, section 3).
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error as it is answered. `detail` is for people and never holds a secret or internals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`: the status says what kind of problem it is (RFC 9457, section 4.2.1).
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The status's standard phrase.
    pub title: String,
    /// The HTTP status, repeated for whoever only keeps the body.
    pub status: u16,
    /// What went wrong and, where it helps, what to do next.
    pub detail: String,
    /// A stable word a program may match on.
    pub reason: String,
    /// The id under which the log tells more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem of the given status; `title` is its standard phrase.
    pub fn new(status: u16, title: &str, reason: &str, detail: impl Into<String>) -> Self {
        Self {
            type_uri: "about:blank".to_owned(),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            reason: reason.to_owned(),
            request_id: None,
        }
    }

    /// The same problem, naming the request it answers.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }
}
