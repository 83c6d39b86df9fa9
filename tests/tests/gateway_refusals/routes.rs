//! What no route names.

use orket_tests::gateway::API_KEY;
use orket_tests::{Cases, Gateway, Policy, Request, Upstream, assert_refused};

#[tokio::test]
async fn a_path_without_a_route_is_not_found_with_and_without_a_key() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let mut cases = Cases::new();
    for path in [
        "/",
        "/nowhere",
        "/webhook",
        "/webhook/",
        "/webhook/github",
        "/webhook/gitea/",
        "/webhook/gitea/x",
        "/webhook/Gitea",
        "/openapi.json",
        "/ws",
        "/ws/other",
        "/metrics",
        "/ready",
        "/v2/version",
        "/V1/version",
        "/health/",
        "/favicon.ico",
        "/v1version",
    ] {
        for request in [
            Request::get(path),
            Request::get(path).key(API_KEY),
            Request::post(path, "{}"),
        ] {
            cases
                .refused(path, address, &request.bytes(address), 404, "Not found")
                .await;
        }
    }
    cases.finish();
    upstream.untouched("paths without a route");
}

#[tokio::test]
async fn a_method_the_path_does_not_take_is_refused_with_those_it_takes() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for (method, path, allowed) in [
        ("GET", "/webhook/gitea", "POST"),
        ("PUT", "/webhook/gitea", "POST"),
        ("DELETE", "/webhook/gitea", "POST"),
        ("GET", "/webhook/test", "POST"),
        ("POST", "/ws/events", "GET"),
        ("POST", "/health", "GET"),
        ("TRACE", "/v1/version", "GET"),
    ] {
        let answer = Request::new(method, path)
            .key(API_KEY)
            .send(gateway.address())
            .await;
        assert_refused(&answer, 405, "Method not allowed");
        let allow = answer.header("allow").unwrap();
        assert!(
            allow.split(", ").any(|method| method == allowed),
            "{method} {path}: {allow}"
        );
    }
    upstream.untouched("methods no route takes");
}

#[tokio::test]
async fn liveness_is_public_and_says_nothing_more() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &[]).await;
    let answer = Request::get("/health").send(gateway.address()).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, r#"{"status":"ok"}"#)
    );
    assert_eq!(answer.header("content-type"), Some("application/json"));
    orket_tests::refusal::assert_request_id(&answer);
    upstream.untouched("a question for liveness");
}

#[tokio::test]
async fn health_false_gives_the_path_to_a_route() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new();
    let text = policy
        .to_string()
        .replacen("version = 1\n", "version = 1\nhealth = false\n", 1);
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&text)
        .start()
        .await;
    assert_refused(
        &Request::get("/health").send(gateway.address()).await,
        404,
        "Not found",
    );
    upstream.untouched("a path without a route");

    let route = r#"
[[routes]]
id = "health"
path = "/health"
methods = ["GET"]
auth = { kind = "none" }
upstream = "backend"
"#;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&format!("{text}{route}"))
        .start()
        .await;
    assert_eq!(
        Request::get("/health").send(gateway.address()).await.status,
        200
    );
    assert_eq!(upstream.only().header("x-orket-actor"), Some("anonymous"));
}

#[tokio::test]
async fn exact_beats_prefix_and_longer_beats_shorter() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().rest(
        r#"
[[routes]]
id = "open"
path = "/v1/open/*"
methods = ["GET"]
auth = { kind = "none" }
upstream = "backend"

[[routes]]
id = "exact"
path = "/v1/open/shut"
methods = ["GET"]
auth = { kind = "api_key" }
upstream = "backend"
"#,
    );
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let get = |path: &str| Request::get(path);
    assert_eq!(get("/v1/open/a").send(gateway.address()).await.status, 200);
    for path in ["/v1/open/shut", "/v1/other", "/v1/openother"] {
        let answer = get(path).send(gateway.address()).await;
        assert_refused(&answer, 403, "Could not validate credentials");
    }
    assert_eq!(upstream.count(), 1);
}
