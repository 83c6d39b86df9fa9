//! The description of this API in `OpenAPI` 3.1, made from the handlers themselves.

use axum::Json;
use serde::Serialize;
use utoipa::{
    OpenApi,
    openapi::{
        ContentBuilder, Ref, RefOr, Response, ResponseBuilder,
        path::{Operation, PathItem},
    },
};

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
    for (path, item) in &mut description.paths.paths {
        complete(path, item);
    }
    description
}

/// Adds the problems that a route has because of what it does with the store, where it does not describe
/// them itself, and says of what type problems are.
fn complete(path: &str, item: &mut PathItem) {
    let reads = item.get.iter_mut().map(|operation| (false, operation));
    let changes = [&mut item.post, &mut item.patch, &mut item.delete];
    let changes = changes
        .into_iter()
        .flatten()
        .map(|operation| (true, operation));
    for (changes, operation) in reads.chain(changes) {
        add(
            operation,
            "500",
            "A fault of the backend. The log tells more under this request's id.",
        );
        // It says what program this is, whatever the store.
        if path != "/v1/version" {
            let why = "The store cannot be used now: its disk failed, may only be read or has no room to open it, another \
                       program has it locked, or the backend stops; `detail` says which.";
            add(operation, "503", why);
        }
        if changes {
            add(
                operation,
                "507",
                "The store's disk is full. Nothing was changed.",
            );
        }
        if operation.request_body.is_some() {
            add(operation, "413", "The body is too large.");
            // A delivery is taken as whatever its sender says it is.
            if path != super::webhook::PATH {
                add(operation, "415", "The body does not say that it is JSON.");
            }
        }
        let problems = operation.responses.responses.iter_mut();
        for (_, response) in problems.filter(|(status, _)| status.as_str() >= "400") {
            if let RefOr::T(Response { content, .. }) = response
                && let Some(body) = content.shift_remove("application/json")
            {
                content.insert(orket_shared::problem::CONTENT_TYPE.to_owned(), body);
            }
        }
    }
}

fn add(operation: &mut Operation, status: &str, description: &str) {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
    let problem = ResponseBuilder::new()
        .description(description)
        .content("application/json", body.build());
    let responses = &mut operation.responses.responses;
    responses
        .entry(status.to_owned())
        .or_insert_with(|| problem.build().into());
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

    /// What takes a run or a sandbox on, and may be too much.
    const BOUNDED: [&str; 6] = [
        "/v1/runs",
        "/v1/system/run-active",
        "/v1/deliveries/{id}/replay",
        "/v1/sandboxes",
        "/webhook/{source}",
        "/webhook/test",
    ];

    #[test]
    fn every_route_tells_of_the_problems_it_may_have() {
        let text: serde_json::Value = serde_json::from_str(&super::text().unwrap()).unwrap();
        let mut looked_at = 0;
        for (path, item) in text["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let has = |status: &str| operation["responses"].get(status).is_some();
                let what = format!("{method} {path}");
                assert!(has("500"), "{what}");
                assert_eq!(has("503"), path != "/v1/version", "{what}");
                assert_eq!(has("507"), method != "get", "{what}");
                let takes = operation.get("requestBody").is_some();
                assert_eq!(has("413"), takes, "{what}");
                assert_eq!(
                    has("415"),
                    takes && path != crate::api::webhook::PATH,
                    "{what}"
                );
                let bounded = method == "post" && BOUNDED.contains(&path.as_str());
                assert_eq!(has("429"), bounded, "{what}");
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let body = response["content"].get("application/json");
                    assert!(body.is_none() || status.as_str() < "400", "{what} {status}");
                }
                looked_at += 1;
            }
        }
        assert!(looked_at > 40, "{looked_at}");
    }

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
