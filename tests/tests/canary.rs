//! `orket-gateway canary`: `SUCCESS` against a whole deployment, and a named failure against one
//! that was weakened by hand.

use std::path::Path;

use orket_tests::gateway::{self, API_KEY, WEBHOOK_SECRET};
use orket_tests::policy::SECRET_FILE;
use orket_tests::program::Ended;
use orket_tests::wire::Address;
use orket_tests::{Backend, Gateway, Policy, Stack};

async fn canary(dir: &Path, address: &Address) -> Ended {
    let url = address.url();
    let arguments = [
        "canary",
        "--url",
        url.as_str(),
        "--api-key-env",
        "ORKET_API_KEY",
        "--webhook-secret-env",
        "GITEA_WEBHOOK_SECRET",
    ];
    let env = [
        ("ORKET_API_KEY", API_KEY),
        ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
    ];
    gateway::run(dir, &arguments, &env).await
}

fn assert_failed(ended: &Ended, about: &[&str]) {
    let output = ended.output();
    assert!(!ended.status.success(), "it ended with success: {output}");
    assert!(!output.contains("SUCCESS"), "{output}");
    let named = about
        .iter()
        .any(|word| output.to_lowercase().contains(word));
    assert!(named, "none of {about:?} is named: {output}");
    for secret in [API_KEY, WEBHOOK_SECRET] {
        assert!(!output.contains(secret), "a secret is shown: {output}");
    }
}

#[tokio::test]
async fn a_whole_deployment_passes() {
    let stack = Stack::start("").await;
    let ended = canary(stack.gateway.dir(), stack.address()).await;
    assert!(ended.status.success(), "{}", ended.output());
    assert_eq!(
        ended.stdout.trim_end().lines().last(),
        Some("SUCCESS"),
        "{}",
        ended.output()
    );
    assert!(
        ended.stdout.lines().count() > 5,
        "a line per check: {}",
        ended.stdout
    );
    assert!(!ended.output().contains(API_KEY) && !ended.output().contains(WEBHOOK_SECRET));
    let again = canary(stack.gateway.dir(), stack.address()).await;
    assert!(
        again.status.success(),
        "it can be run again and again: {}",
        again.output()
    );
}

#[tokio::test]
async fn it_leaves_no_work_behind() {
    let mut stack = Stack::start("").await;
    let ended = canary(stack.gateway.dir(), stack.address()).await;
    assert!(ended.status.success(), "{}", ended.output());
    assert_eq!(
        stack.get("/v1/runs").await.json()["items"],
        serde_json::json!([])
    );
    orket_tests::convergence::settled(&mut stack.backend).await;
}

#[tokio::test]
async fn a_gateway_opened_by_the_insecure_switch_fails() {
    let backend = Backend::start("").await;
    let env = [
        ("ORKET_ALLOW_INSECURE_NO_API_KEY", "true"),
        ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
    ];
    let gateway = Gateway::builtin(backend.address(), &env).await;
    assert_failed(&canary(gateway.dir(), gateway.address()).await, &["key"]);
}

async fn weakened(from: &str, to: &str, about: &[&str]) {
    let backend = Backend::start("").await;
    let text = Policy::new().to_string();
    assert!(text.contains(from), "{from}");
    let gateway = Gateway::before(backend.address())
        .file(SECRET_FILE.0, SECRET_FILE.1)
        .policy(&text.replacen(from, to, 1))
        .start()
        .await;
    assert_failed(&canary(gateway.dir(), gateway.address()).await, about);
}

#[tokio::test]
async fn an_api_route_without_auth_fails() {
    weakened(
        "auth = { kind = \"api_key\" }",
        "auth = { kind = \"none\" }",
        &["key"],
    )
    .await;
}

/// A route beside the guarded ones that lets changes in.
async fn with_an_open_route(path: &str, methods: &str) {
    let backend = Backend::start("").await;
    let route = format!(
        "[[routes]]\nid = \"leak\"\npath = \"{path}\"\nmethods = {methods}\nauth = {{ kind = \"none\" }}\nupstream = \"backend\""
    );
    let policy = Policy::new().rest(&route).to_string();
    // The guarded route gives up the methods, as two routes may not take the same requests.
    let policy = policy.replacen(
        "methods = [\"GET\", \"POST\", \"PATCH\", \"DELETE\"]",
        "methods = [\"GET\", \"POST\"]",
        1,
    );
    let gateway = Gateway::before(backend.address())
        .file(SECRET_FILE.0, SECRET_FILE.1)
        .policy(&policy)
        .start()
        .await;
    let ended = canary(gateway.dir(), gateway.address()).await;
    assert_failed(&ended, &["nothing can be changed without a key"]);
}

#[tokio::test]
async fn a_route_that_lets_changes_in_fails() {
    with_an_open_route("/v1/*", "[\"PATCH\", \"DELETE\"]").await;
    with_an_open_route("/v1/runs", "[\"POST\"]").await;
}

#[tokio::test]
async fn a_webhook_route_without_auth_fails() {
    let webhook = "auth = { kind = \"webhook\", provider = \"gitea\", secret = \"gitea\" }";
    weakened(
        webhook,
        "auth = { kind = \"none\" }",
        &["signature", "webhook"],
    )
    .await;
}

#[tokio::test]
async fn a_webhook_route_with_another_secret_fails() {
    let backend = Backend::start("").await;
    let gateway = Gateway::before(backend.address())
        .file(SECRET_FILE.0, b"another-secret-2Zx9Wq4Lm7Rt5Kv8")
        .policy(&Policy::new().to_string())
        .start()
        .await;
    assert_failed(
        &canary(gateway.dir(), gateway.address()).await,
        &["signature", "webhook", "signed"],
    );
}

#[tokio::test]
async fn a_backend_without_a_gateway_fails() {
    let backend = Backend::start("[listen]\naddress = \"127.0.0.1:0\"").await;
    assert_failed(&canary(backend.dir(), backend.address()).await, &["key"]);
}

#[tokio::test]
async fn nothing_there_fails() {
    let dir = tempfile::TempDir::new().unwrap();
    let upstream = orket_tests::Upstream::tcp().await;
    let address = upstream.address().clone();
    drop(upstream);
    let ended = canary(dir.path(), &address).await;
    assert!(
        !ended.status.success() && !ended.output().contains("SUCCESS"),
        "{}",
        ended.output()
    );
    assert!(!ended.output().contains("panicked"), "{}", ended.output());
}
