//! `/webhook/test` in all its configurations.

use orket_tests::gateway::{API_KEY, TEST_TOKEN, WEBHOOK_SECRET};
use orket_tests::{Cases, Delivery, Gateway, Request, Upstream, assert_refused};
use serde_json::json;

const ENABLE: (&str, &str) = ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true");
const TOKEN: (&str, &str) = ("ORKET_WEBHOOK_TEST_TOKEN", TEST_TOKEN);
const KEY: (&str, &str) = ("ORKET_API_KEY", API_KEY);

fn event() -> Request {
    let body = json!({ "event": "push", "action": "opened", "payload": {} });
    Request::post_json("/webhook/test", &body)
}

/// What a caller can show: nothing, one thing, or both.
fn shown() -> Vec<(&'static str, Request)> {
    vec![
        ("nothing", event()),
        (
            "the token",
            event().header("X-Webhook-Test-Token", TEST_TOKEN),
        ),
        (
            "a wrong token",
            event().header("X-Webhook-Test-Token", "wrong"),
        ),
        ("an empty token", event().line("X-Webhook-Test-Token:")),
        ("the key", event().key(API_KEY)),
        ("a wrong key", event().key("wrong")),
        ("an empty key", event().line("X-API-Key:")),
        (
            "the key as the token",
            event().header("X-Webhook-Test-Token", API_KEY),
        ),
        ("the token as the key", event().key(TEST_TOKEN)),
        (
            "a signature",
            Delivery::fresh().signed("/webhook/test", WEBHOOK_SECRET),
        ),
    ]
}

/// Tries everything that can be shown; only what `opens` names may pass.
async fn only(env: &[(&str, &str)], opens: &[&str], status: u16, detail: &str) {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), env).await;
    let address = gateway.address();
    let mut cases = Cases::new();
    for (name, request) in shown() {
        let bytes = request.bytes(address);
        if opens.contains(&name) {
            let answer = request.send(address).await;
            cases.holds(name, answer.status == 200, || answer.text());
        } else {
            cases.refused(name, address, &bytes, status, detail).await;
        }
    }
    cases.finish();
    assert_eq!(upstream.count(), opens.len());
    for request in upstream.requests() {
        assert_eq!(request.header("x-orket-actor"), Some("test-webhook"));
        assert!(!request.names("x-webhook-test-token") && !request.names("x-api-key"));
    }
}

#[tokio::test]
async fn not_enabled_it_is_refused_whatever_is_shown() {
    let detail = "Test webhook endpoint disabled";
    only(&[], &[], 403, detail).await;
    only(
        &[KEY, TOKEN, ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET)],
        &[],
        403,
        detail,
    )
    .await;
    only(
        &[KEY, TOKEN, ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "false")],
        &[],
        403,
        detail,
    )
    .await;
}

#[tokio::test]
async fn enabled_with_neither_token_nor_key_it_is_refused() {
    let detail = "Test webhook auth not configured";
    only(&[ENABLE], &[], 403, detail).await;
    only(
        &[
            ENABLE,
            ("ORKET_WEBHOOK_TEST_TOKEN", "  "),
            ("ORKET_API_KEY", ""),
        ],
        &[],
        403,
        detail,
    )
    .await;
    only(
        &[ENABLE, ("ORKET_ALLOW_INSECURE_NO_API_KEY", "true")],
        &[],
        403,
        detail,
    )
    .await;
}

#[tokio::test]
async fn enabled_with_a_token_only_the_token_opens_it() {
    let detail = "Invalid test webhook token";
    only(&[ENABLE, TOKEN], &["the token"], 401, detail).await;
    only(&[ENABLE, TOKEN, KEY], &["the token"], 401, detail).await;
}

#[tokio::test]
async fn enabled_with_a_key_only_the_key_opens_it() {
    only(&[ENABLE, KEY], &["the key"], 401, "Invalid API key").await;
}

#[tokio::test]
async fn every_spelling_of_yes_enables_it_and_no_other_word_does() {
    let upstream = Upstream::tcp().await;
    for yes in ["true", "1", "yes", "on", "TRUE", "Yes", "ON"] {
        let env = [("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", yes)];
        let gateway = Gateway::builtin(upstream.address(), &env).await;
        let answer = event().send(gateway.address()).await;
        assert_refused(&answer, 403, "Test webhook auth not configured");
    }
    for no in ["false", "0", "no", "off", "", "  "] {
        let env = [("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", no)];
        let gateway = Gateway::builtin(upstream.address(), &env).await;
        let answer = event().send(gateway.address()).await;
        assert_refused(&answer, 403, "Test webhook endpoint disabled");
    }
}

#[tokio::test]
async fn two_tokens_are_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &[ENABLE, TOKEN]).await;
    let twice = event()
        .header("X-Webhook-Test-Token", TEST_TOKEN)
        .header("X-Webhook-Test-Token", TEST_TOKEN);
    assert_refused(&twice.send(gateway.address()).await, 400, "Bad request");
    upstream.untouched("two tokens");
}

#[tokio::test]
async fn its_body_has_the_limit_of_webhooks() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &[ENABLE, TOKEN]).await;
    let event = |size: usize| {
        Request::post("/webhook/test", vec![b' '; size]).header("X-Webhook-Test-Token", TEST_TOKEN)
    };
    assert_eq!(event(1024 * 1024).send(gateway.address()).await.status, 200);
    let answer = event(1024 * 1024 + 1).send(gateway.address()).await;
    assert_refused(&answer, 413, "Payload too large");
}
