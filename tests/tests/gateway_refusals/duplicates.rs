//! Repetitions of a delivery that is done.

use orket_tests::gateway::WEBHOOK_SECRET;
use orket_tests::gitea::sha256;
use orket_tests::refusal::assert_request_id;
use orket_tests::{Delivery, Gateway, Policy, Upstream};

const PATH: &str = "/webhook/gitea";

#[tokio::test]
async fn a_delivery_already_done_is_answered_without_asking() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let mut delivery = Delivery::fresh();
    assert_eq!(
        delivery
            .signed(PATH, WEBHOOK_SECRET)
            .send(gateway.address())
            .await
            .status,
        200
    );
    for _ in 0..5 {
        // The delivery's id is not signed: a new one makes no new delivery.
        delivery.id = Delivery::fresh().id;
        let answer = delivery
            .signed(PATH, WEBHOOK_SECRET)
            .send(gateway.address())
            .await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, r#"{"status":"duplicate"}"#)
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_request_id(&answer);
    }
    assert_eq!(
        upstream.only().header("x-orket-webhook-key"),
        Some(sha256(&delivery.body).as_str())
    );
}

#[tokio::test]
async fn a_forged_repetition_is_refused_as_any_forgery() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let delivery = Delivery::fresh();
    assert_eq!(
        delivery
            .signed(PATH, WEBHOOK_SECRET)
            .send(gateway.address())
            .await
            .status,
        200
    );
    let answer = delivery.forged(PATH).send(gateway.address()).await;
    orket_tests::assert_refused(&answer, 401, "Invalid signature");
    let answer = delivery.unsigned(PATH).send(gateway.address()).await;
    orket_tests::assert_refused(&answer, 401, "Missing signature");
}

#[tokio::test]
async fn without_replay_memory_every_repetition_is_forwarded_as_new() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().gitea("replay = false");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let delivery = Delivery::fresh();
    for _ in 0..3 {
        let answer = delivery
            .signed(PATH, WEBHOOK_SECRET)
            .send(gateway.address())
            .await;
        assert_eq!(answer.json()["upstream"], "reached");
    }
    let mut keys: Vec<String> = upstream
        .requests()
        .iter()
        .map(|request| request.header("x-orket-webhook-key").unwrap().to_owned())
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(
        keys.len(),
        3,
        "every request has a key of its own: {keys:?}"
    );
}

#[tokio::test]
async fn routes_of_one_source_share_one_memory_and_others_do_not() {
    let upstream = Upstream::tcp().await;
    let route = |id: &str, source: &str| {
        format!(
            "[[routes]]\nid = \"{id}\"\npath = \"/webhook/{id}\"\nmethods = [\"POST\"]\nauth = {{ kind = \"webhook\", provider = \"gitea\", secret = \"gitea\" }}\nsource = \"{source}\"\nupstream = \"backend\"\n"
        )
    };
    let policy = Policy::new()
        .rest(&route("same", "gitea"))
        .rest(&route("other", "forge-2"));
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let delivery = Delivery::fresh();
    let send = async |path: &str| {
        delivery
            .signed(path, WEBHOOK_SECRET)
            .send(gateway.address())
            .await
            .json()
    };
    assert_eq!(send(PATH).await["upstream"], "reached");
    assert_eq!(send("/webhook/same").await["status"], "duplicate");
    assert_eq!(send("/webhook/other").await["upstream"], "reached");
    assert_eq!(
        upstream.last().header("x-orket-webhook-source"),
        Some("forge-2")
    );
    assert_eq!(upstream.count(), 2);
}
