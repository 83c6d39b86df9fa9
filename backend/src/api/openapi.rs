//! The description of this API in `OpenAPI` 3.1, made from the handlers themselves.

use axum::Json;
use serde::Serialize;
use utoipa::OpenApi;

/// An error (RFC 9457).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    type_uri: String,
    /// The status's phrase.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What went wrong and, where it helps, what to do next.
    detail: String,
    /// A stable word for programs.
    reason: String,
    /// The id under which the log tells more.
    request_id: Option<String>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Orket",
        description = "Cards, runs, sandboxes and events. The backend asks nobody for proof: it stands behind the gateway. Every error is a Problem (RFC 9457) with media type application/problem+json.",
    ),
    paths(
        super::health::health,
        super::health::version,
        super::health::whoami,
        super::health::metrics,
        super::system::heartbeat,
        super::system::metrics,
        super::system::run_active,
        super::submit::submit,
        super::runs::list,
        super::runs::detail,
        super::runs::cancel,
        super::replay::replay,
        super::logs::logs,
        super::runs::metrics,
        super::runs::backlog,
        super::queues::list,
        super::queues::pause,
        super::queues::resume,
        super::schedules::create,
        super::schedules::list,
        super::schedules::detail,
        super::schedules::change,
        super::schedules::remove,
        super::sessions::session,
        super::sessions::snapshot,
        super::cards::create,
        super::cards::list,
        super::cards::detail,
        super::cards::change,
        super::cards::remove,
        super::archive::archive,
        super::webhook::receive,
        super::deliveries::list,
        super::deliveries::detail,
        super::deliveries::replay,
        super::events::sse,
        super::events::websocket,
    ),
    components(schemas(Problem, super::webhook::TestDelivery, crate::store::feed::Event))
)]
struct Description;

/// The whole description, the sandboxes' included.
pub fn description() -> utoipa::openapi::OpenApi {
    let mut description = Description::openapi();
    description.merge(super::sandboxes::openapi());
    description
}

/// The description as pretty JSON with a newline at its end: what is committed.
pub fn text() -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(&description())? + "\n")
}

/// The description.
pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(description())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]

    #[test]
    fn the_committed_description_is_this_one() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/reference/openapi.json"
        );
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == super::text().unwrap(),
            "docs/reference/openapi.json is out of date: \
             cargo run -p orket-backend -- export-openapi > docs/reference/openapi.json"
        );
    }
}
