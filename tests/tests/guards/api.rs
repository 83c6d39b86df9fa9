//! Every route of the backend's API, as its own description names them, stands behind the key.

use orket_tests::gateway::API_KEY;
use orket_tests::repository::{read, root};
use orket_tests::{Cases, Gateway, Request, Upstream};
use serde_json::Value;

/// Paths of the backend that the gateway does not offer, or answers itself.
const NOT_OFFERED: &[&str] = &["/health", "/metrics", "/openapi.json"];
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Method and path of every operation, parameters filled in.
fn operations() -> Vec<(String, String)> {
    let file = root().join("docs/reference/openapi.json");
    assert!(
        file.is_file(),
        "docs/reference/openapi.json is missing: `orket-backend export-openapi` writes it"
    );
    let document: Value = serde_json::from_str(&read(&file)).expect("openapi.json is JSON");
    let paths = document["paths"].as_object().expect("paths");
    let parameter = regex::Regex::new(r"\{[^}]+\}").unwrap();
    let mut operations = Vec::new();
    for (path, item) in paths {
        for method in METHODS {
            if item.get(method).is_some() {
                let path = parameter.replace_all(path, "x").into_owned();
                operations.push((method.to_uppercase(), path));
            }
        }
    }
    operations
}

fn request(method: &str, path: &str) -> Request {
    let request = Request::new(method, path);
    if method == "GET" {
        request
    } else {
        request
            .header("Content-Type", "application/json")
            .body("{}")
    }
}

#[tokio::test]
async fn every_api_route_is_refused_without_a_key_and_open_with_it() {
    let upstream = Upstream::tcp().await;
    let env = [("ORKET_API_KEY", API_KEY), ("ORKET_FAILURE_LIMIT", "0")];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    let operations: Vec<_> = operations()
        .into_iter()
        .filter(|(_, path)| path.starts_with("/v1/") || path.starts_with("/ws/"))
        .collect();
    assert!(
        operations.len() > 20,
        "the API has lost its routes: {operations:?}"
    );
    let mut cases = Cases::new();
    for (method, path) in &operations {
        let name = format!("{method} {path}");
        for request in [request(method, path), request(method, path).key("wrong")] {
            let bytes = request.bytes(gateway.address());
            let detail = "Could not validate credentials";
            cases
                .refused(&name, gateway.address(), &bytes, 403, detail)
                .await;
        }
    }
    upstream.untouched("API routes without a key");
    for (method, path) in &operations {
        let answer = request(method, path)
            .key(API_KEY)
            .send(gateway.address())
            .await;
        cases.holds(
            &format!("{method} {path} with the key"),
            answer.status == 200,
            || answer.text(),
        );
    }
    cases.finish();
}

#[tokio::test]
async fn every_other_route_of_the_backend_is_shut_as_well() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for (method, path) in operations() {
        if path.starts_with("/v1/") || path.starts_with("/ws/") {
            continue;
        }
        let offered = path.starts_with("/webhook/") || NOT_OFFERED.contains(&path.as_str());
        assert!(offered, "{path} is new: does the gateway offer it?");
        request(&method, &path)
            .key(API_KEY)
            .send(gateway.address())
            .await;
    }
    upstream.untouched("the backend's other routes");
}
