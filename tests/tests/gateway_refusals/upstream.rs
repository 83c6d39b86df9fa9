//! What is answered when the inside fails.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::refusal::assert_request_id;
use orket_tests::{Delivery, Gateway, Policy, Reaction, Request, Upstream, assert_refused};

#[tokio::test]
async fn a_backend_that_is_down_is_a_502() {
    let upstream = Upstream::tcp().await;
    let address = upstream.address().clone();
    drop(upstream);
    orket_tests::eventually("the upstream is gone", orket_tests::DEADLINE, || async {
        !address.accepts().await
    })
    .await;
    for text in [
        address.to_string(),
        "unix:/nonexistent/backend.sock".to_owned(),
    ] {
        let gateway = Gateway::before_text(&text)
            .env("ORKET_API_KEY", API_KEY)
            .env("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET)
            .start()
            .await;
        let answers = [
            Request::get("/v1/version")
                .key(API_KEY)
                .send(gateway.address())
                .await,
            Request::post("/v1/runs", "{}")
                .key(API_KEY)
                .send(gateway.address())
                .await,
            Delivery::fresh()
                .signed("/webhook/gitea", WEBHOOK_SECRET)
                .send(gateway.address())
                .await,
        ];
        for answer in answers {
            assert_refused(&answer, 502, "");
            assert!(
                !answer.text().contains(&text),
                "the answer names the inside: {}",
                answer.text()
            );
        }
        // Who has no proof does not learn that the inside is down.
        let answer = Request::get("/v1/version").send(gateway.address()).await;
        assert_refused(&answer, 403, "Could not validate credentials");
        let answer = Delivery::fresh()
            .forged("/webhook/gitea")
            .send(gateway.address())
            .await;
        assert_refused(&answer, 401, "Invalid signature");
        assert_eq!(
            Request::get("/health").send(gateway.address()).await.status,
            200
        );
    }
}

#[tokio::test]
async fn a_backend_that_breaks_off_is_a_502() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Close);
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 502, "");
    let delivery = Delivery::fresh().signed("/webhook/gitea", WEBHOOK_SECRET);
    let before = upstream.count();
    assert_refused(&delivery.send(gateway.address()).await, 502, "");
    assert_eq!(
        upstream.count(),
        before + 1,
        "a webhook is never sent twice by the gateway"
    );
}

#[tokio::test]
async fn a_backend_that_is_too_slow_is_a_504() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Hang);
    let policy = Policy::new().upstream("response_timeout = \"300ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let delivery = Delivery::fresh().signed("/webhook/gitea", WEBHOOK_SECRET);
    for request in [
        Request::get("/v1/version").key(API_KEY),
        Request::post("/v1/runs", "{}").key(API_KEY),
        delivery.clone(),
    ] {
        assert_refused(&request.send(gateway.address()).await, 504, "");
    }
    assert_eq!(upstream.count(), 3, "what was sent is not sent again");
    // Nothing was remembered as done: the sender's next attempt asks again.
    upstream.react(Reaction::ok());
    assert_eq!(delivery.send(gateway.address()).await.status, 200);
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn the_backends_own_answers_pass_as_they_are() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for (status, body) in [
        (200, r#"{"a":1}"#),
        (201, r#"{"id":"x"}"#),
        (400, r#"{"detail":"No asset ID provided."}"#),
        (404, r#"{"detail":"Unknown card"}"#),
        (409, r#"{"detail":"exists"}"#),
        (429, r#"{"detail":"queue full"}"#),
        (500, r#"{"detail":"broken"}"#),
        (503, r#"{"detail":"store"}"#),
    ] {
        upstream.react(Reaction::json(status, body));
        let answer = Request::get("/v1/version")
            .key(API_KEY)
            .send(gateway.address())
            .await;
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_request_id(&answer);
        assert_eq!(
            upstream.last().header("x-request-id"),
            answer.header("x-request-id")
        );
    }
}

#[tokio::test]
async fn a_failed_delivery_works_when_it_comes_again() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let delivery = Delivery::fresh().signed("/webhook/gitea", WEBHOOK_SECRET);
    for status in [500, 503, 429, 404] {
        upstream.react(Reaction::json(status, "{}"));
        assert_eq!(delivery.send(gateway.address()).await.status, status);
    }
    upstream.react(Reaction::json(202, r#"{"status":"accepted"}"#));
    assert_eq!(delivery.send(gateway.address()).await.status, 202);
    assert_eq!(upstream.count(), 5);
    let answer = delivery.send(gateway.address()).await;
    assert_eq!(answer.json(), serde_json::json!({ "status": "duplicate" }));
    assert_eq!(upstream.count(), 5);
}
