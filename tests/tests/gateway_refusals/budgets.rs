//! Budgets that are used up.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{Delivery, Gateway, Policy, Request, Upstream, assert_refused};

const PATH: &str = "/webhook/gitea";
const KEY: (&str, &str) = ("ORKET_API_KEY", API_KEY);
const SECRET: (&str, &str) = ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET);

#[tokio::test]
async fn a_source_over_its_budget_waits() {
    let upstream = Upstream::tcp().await;
    let env = [SECRET, ("ORKET_RATE_LIMIT", "3")];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    for _ in 0..3 {
        let answer = Delivery::fresh()
            .signed(PATH, WEBHOOK_SECRET)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let answer = Delivery::fresh()
        .signed(PATH, WEBHOOK_SECRET)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 429, "Webhook rate limit exceeded");
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn a_key_over_its_budget_waits() {
    let upstream = Upstream::tcp().await;
    let env = [KEY, ("ORKET_API_RATE_LIMIT", "3")];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    let request = Request::get("/v1/version").key(API_KEY);
    for _ in 0..3 {
        assert_eq!(request.send(gateway.address()).await.status, 200);
    }
    assert_refused(
        &request.send(gateway.address()).await,
        429,
        "Rate limit exceeded",
    );
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn an_address_over_its_failures_waits() {
    let upstream = Upstream::tcp().await;
    let env = [KEY, SECRET, ("ORKET_FAILURE_LIMIT", "3")];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    let wrong = Request::get("/v1/version").key("wrong");
    for _ in 0..3 {
        let answer = wrong.send(gateway.address()).await;
        assert_refused(&answer, 403, "Could not validate credentials");
    }
    for request in [
        wrong.clone(),
        Request::get("/v1/version"),
        Request::get("/v1/runs").key("other"),
    ] {
        assert_refused(
            &request.send(gateway.address()).await,
            429,
            "Rate limit exceeded",
        );
    }
    upstream.untouched("failed proofs");
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "a valid key still works");
}

#[tokio::test]
async fn a_limit_of_nothing_is_no_limit() {
    let upstream = Upstream::tcp().await;
    let env = [
        KEY,
        SECRET,
        ("ORKET_API_RATE_LIMIT", "0"),
        ("ORKET_FAILURE_LIMIT", "0"),
    ];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    for _ in 0..150 {
        let answer = Request::get("/v1/version")
            .key("wrong")
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 403);
        let answer = Request::get("/v1/version")
            .key(API_KEY)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn the_limits_of_a_policy_file_hold() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .limits("failures_per_address = \"2/min\"")
        .api("rate_limits = [\"per-key\"]")
        .gitea("rate_limits = [\"per-source\"]")
        .rest(
            r#"
[[rate_limits]]
id = "per-key"
by = "key"
rate = "600/min"
burst = 2

[[rate_limits]]
id = "per-source"
by = "source"
rate = "1/min"
"#,
        );
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let address = gateway.address();
    assert_eq!(
        Delivery::fresh()
            .signed(PATH, WEBHOOK_SECRET)
            .send(address)
            .await
            .status,
        200
    );
    let answer = Delivery::fresh()
        .signed(PATH, WEBHOOK_SECRET)
        .send(address)
        .await;
    assert_refused(&answer, 429, "Webhook rate limit exceeded");
    for _ in 0..2 {
        assert_eq!(Request::get("/v1/version").send(address).await.status, 403);
    }
    let answer = Request::get("/v1/version").send(address).await;
    assert_refused(&answer, 429, "Rate limit exceeded");
}
