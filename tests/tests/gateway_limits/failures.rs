//! Failed proofs count against the address they come from, and against no one else.

use std::net::Ipv4Addr;
use std::time::Duration;

use orket_tests::gateway::{API_KEY, TEST_TOKEN, WEBHOOK_SECRET};
use orket_tests::refusal::retry_after;
use orket_tests::{Delivery, Gateway, Policy, Request, Upstream, assert_refused};

const PATH: &str = "/webhook/gitea";
const ONE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn env(limit: &'static str) -> [(&'static str, &'static str); 3] {
    [
        ("ORKET_API_KEY", API_KEY),
        ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("ORKET_FAILURE_LIMIT", limit),
    ]
}

#[tokio::test]
async fn another_address_is_not_held_to_them() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &env("3")).await;
    let wrong = Request::get("/v1/a").key("wrong");
    for status in [403, 403, 403, 429, 429] {
        assert_eq!(wrong.send_from(ONE, gateway.address()).await.status, status);
    }
    for status in [403, 403, 403, 429] {
        assert_eq!(wrong.send_from(TWO, gateway.address()).await.status, status);
    }
}

#[tokio::test]
async fn every_kind_of_failed_proof_counts() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::before(upstream.address())
        .envs(&env("4"))
        .env("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true")
        .env("ORKET_WEBHOOK_TEST_TOKEN", TEST_TOKEN)
        .start()
        .await;
    for request in [
        Request::get("/v1/a"),
        Delivery::fresh().forged(PATH),
        Delivery::fresh().unsigned(PATH),
        Request::post("/webhook/test", "{}").header("X-Webhook-Test-Token", "wrong"),
    ] {
        let status = request.send(gateway.address()).await.status;
        assert!(matches!(status, 401 | 403), "{status}");
    }
    let answer = Request::get("/v1/a").send(gateway.address()).await;
    assert_refused(&answer, 429, "Rate limit exceeded");
    let test = Request::post("/webhook/test", "{}").header("X-Webhook-Test-Token", "wrong");
    assert_refused(
        &test.send(gateway.address()).await,
        429,
        "Rate limit exceeded",
    );
    upstream.untouched("failed proofs");
    let test = Request::post("/webhook/test", "{}").header("X-Webhook-Test-Token", TEST_TOKEN);
    assert_eq!(
        test.send(gateway.address()).await.status,
        200,
        "a right token still opens"
    );
}

#[tokio::test]
async fn what_is_no_proof_does_not_count() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &env("2")).await;
    for _ in 0..10 {
        assert_eq!(
            Request::get("/nowhere")
                .send(gateway.address())
                .await
                .status,
            404
        );
        assert_eq!(
            Request::get("/health").send(gateway.address()).await.status,
            200
        );
        assert_eq!(
            Request::get("/v1/a")
                .key(API_KEY)
                .send(gateway.address())
                .await
                .status,
            200
        );
    }
    assert_eq!(
        Request::get("/v1/a").send(gateway.address()).await.status,
        403
    );
}

#[tokio::test]
async fn retry_after_is_long_enough_and_no_longer_than_needed() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("failures_per_address = \"60/min\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let wrong = Request::get("/v1/a").key("wrong");
    let refused =
        orket_tests::wait::obtain("the budget is used up", orket_tests::DEADLINE, || async {
            let answer = wrong.send(gateway.address()).await;
            (answer.status == 429).then_some(answer)
        })
        .await;
    let seconds = retry_after(&refused);
    assert_eq!(seconds, 1, "60 a minute is one a second");
    // Not a guess but what the gateway said to wait.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    assert_eq!(wrong.send(gateway.address()).await.status, 403);
}
