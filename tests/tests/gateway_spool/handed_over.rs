//! Later: in order for each source, each on its own; refused for good is kept aside; a repetition is known at every moment.

use std::sync::Arc;

use orket_tests::gateway::WEBHOOK_SECRET;
use orket_tests::gitea::sha256;
use orket_tests::{DEADLINE, Delivery, Gateway, Policy, Reaction, Upstream, eventually};
use serde_json::json;
use tempfile::TempDir;

use super::{
    PATH, deliver, emptied, files, first_waits_because, keys, logged, metric, nowhere, spool,
    spooled, spooling, waiting,
};

/// A second source with an upstream of its own, on `/webhook/other`.
fn with_other(other: &Upstream) -> Policy {
    spooling().rest(&format!(
        r#"[upstreams.other]
address = "{}"
[[routes]]
id = "other"
path = "/webhook/other"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
spool = true
upstream = "other"
"#,
        other.address()
    ))
}

#[tokio::test]
async fn sources_do_not_wait_for_each_other() {
    let dir = TempDir::new().unwrap();
    let other = Upstream::tcp().await;
    other.react(Reaction::json(500, "{}"));
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &with_other(&other)).await;
    let here: Vec<_> = (0..3).map(|_| Delivery::fresh()).collect();
    let there: Vec<_> = (0..3).map(|_| Delivery::fresh()).collect();
    for (a, b) in here.iter().zip(&there) {
        spooled(&deliver(&gateway, a).await);
        let b = b.signed("/webhook/other", WEBHOOK_SECRET);
        spooled(&b.send(gateway.address()).await);
    }
    other.react(Reaction::ok());
    other.forget();
    eventually("the other source is handed over", DEADLINE, || async {
        keys(&other) == there.iter().map(|d| sha256(&d.body)).collect::<Vec<_>>()
    })
    .await;
    assert_eq!(waiting(&gateway).await.len(), 3, "the first still waits");
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    assert_eq!(
        keys(&upstream),
        here.iter().map(|d| sha256(&d.body)).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_new_delivery_joins_those_that_wait() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Answer {
        status: 503,
        content_type: "application/json".into(),
        body: b"{}".to_vec(),
        headers: vec![("Retry-After".into(), "600".into())],
    });
    let gateway = Gateway::with_policy(upstream.address(), &spooling()).await;
    let first = Delivery::fresh();
    spooled(&deliver(&gateway, &first).await);
    // It would be taken now, but not before the one that waits.
    upstream.arrived(1).await;
    first_waits_because(&gateway, "failed").await;
    let second = Delivery::fresh();
    upstream.react(Reaction::ok());
    spooled(&deliver(&gateway, &second).await);
    spool(&gateway, &["retry"]).await.unwrap();
    emptied(&gateway).await;
    let (first, second) = (sha256(&first.body), sha256(&second.body));
    let seen = keys(&upstream);
    assert!(seen.ends_with(&[first.clone(), second.clone()]), "{seen:?}");
    assert_eq!(seen.iter().filter(|key| **key == second).count(), 1);
}

#[tokio::test]
async fn what_is_refused_for_good_is_kept_aside_and_the_rest_goes_on() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let (bad, good) = (Delivery::fresh(), Delivery::fresh());
    let bad_id = spooled(&deliver(&gateway, &bad).await);
    let upstream = Upstream::unix(dir.path());
    upstream.react(Reaction::json(422, r#"{"detail":"no"}"#));
    eventually("it is a dead letter", DEADLINE, || async {
        spool(&gateway, &["list"]).await.unwrap()["dead_total"] == 1
    })
    .await;
    upstream.react(Reaction::ok());
    assert_eq!(deliver(&gateway, &good).await.status, 200);
    let list = spool(&gateway, &["list", "--dead"]).await.unwrap();
    let dead = &list["dead"][0];
    assert_eq!(dead["id"], bad_id.as_str());
    assert_eq!(
        (&dead["why"], &dead["last_status"]),
        (&json!("refused"), &json!(422))
    );
    assert_eq!(
        metric(&gateway, "orket_gateway_spool_dead ", "").await,
        Some(1.0)
    );
    logged(&gateway, "dead_letter", 1).await;
    // It is not done: its sender may try again, and is heard.
    let before = upstream.count();
    assert_eq!(deliver(&gateway, &bad).await.status, 200);
    assert_eq!(upstream.count(), before + 1);
}

#[tokio::test]
async fn what_waits_too_long_is_a_dead_letter() {
    let dir = TempDir::new().unwrap();
    let policy = spooling().rest("[spool]\nage = \"300ms\"\n");
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &policy).await;
    spooled(&deliver(&gateway, &Delivery::fresh()).await);
    emptied(&gateway).await;
    eventually("it is a dead letter", DEADLINE, || async {
        let list = spool(&gateway, &["list"]).await.unwrap();
        list["dead"][0]["why"] == "expired"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_is_acted_on_once_at_every_moment() {
    let upstream = Upstream::tcp().await;
    let policy = spooling().upstream("response_timeout = \"20s\"");
    let mut gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let delivery = Delivery::fresh();
    let key = sha256(&delivery.body);

    // While the first try hangs: both are asked about, under one key, and kept once.
    upstream.react(Reaction::Hang);
    let gateway_address = gateway.address().clone();
    let request = delivery.signed(PATH, WEBHOOK_SECRET);
    let first = tokio::spawn({
        let (request, address) = (request.clone(), gateway_address.clone());
        async move { request.send(&address).await }
    });
    upstream.arrived(1).await;
    let second = request.send(&gateway_address).await;
    let first = first.await.unwrap();
    let mut kinds = [
        first.json()["status"].as_str().unwrap().to_owned(),
        second.json()["status"].as_str().unwrap().to_owned(),
    ];
    kinds.sort();
    assert_eq!(kinds, ["duplicate", "spooled"]);
    assert_eq!(waiting(&gateway).await.len(), 1);

    // While it waits, also after a kill.
    let known = json!({"status": "duplicate"});
    assert_eq!(deliver(&gateway, &delivery).await.json(), known);
    gateway.restart().await;
    assert_eq!(deliver(&gateway, &delivery).await.json(), known);

    // While it is being handed over.
    let before = upstream.count();
    spool(&gateway, &["retry"]).await.unwrap();
    upstream.arrived(before + 1).await;
    first_waits_because(&gateway, "on_its_way").await;
    assert_eq!(deliver(&gateway, &delivery).await.json(), known);
    let id = waiting(&gateway).await.remove(0);
    let told = spool(&gateway, &["drop", &id]).await.unwrap_err();
    assert!(told.contains("on its way"), "{told}");

    // When it is done, and after another kill.
    upstream.react(Reaction::ok());
    gateway.restart().await;
    emptied(&gateway).await;
    assert_eq!(deliver(&gateway, &delivery).await.json(), known);
    let log = gateway.dir().join("state/replay.log");
    eventually("it is written down", DEADLINE, || async {
        std::fs::metadata(&log).is_ok_and(|m| m.len() >= 44)
    })
    .await;
    gateway.restart().await;
    assert_eq!(deliver(&gateway, &delivery).await.json(), known);
    assert!(keys(&upstream).iter().all(|k| *k == key));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_kept_once_each() {
    let dir = TempDir::new().unwrap();
    let gateway = Arc::new(Gateway::with_policy(&nowhere(dir.path()), &spooling()).await);
    let deliveries: Vec<_> = (0..20).map(|_| Delivery::fresh()).collect();
    let mut senders = tokio::task::JoinSet::new();
    for delivery in deliveries.iter().flat_map(|d| [d, d, d]) {
        let (gateway, delivery) = (gateway.clone(), delivery.clone());
        senders.spawn(async move { deliver(&gateway, &delivery).await });
    }
    for answer in senders.join_all().await {
        assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    }
    assert_eq!(waiting(&gateway).await.len(), 20);
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    let mut seen = keys(&upstream);
    let mut expected: Vec<_> = deliveries.iter().map(|d| sha256(&d.body)).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn every_repetition_is_new_where_the_route_says_so() {
    let dir = TempDir::new().unwrap();
    let policy = spooling().gitea("replay = false");
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &policy).await;
    let delivery = Delivery::fresh();
    for _ in 0..3 {
        spooled(&deliver(&gateway, &delivery).await);
    }
    let upstream = Upstream::unix(dir.path());
    upstream.react(Reaction::json(500, "{}"));
    upstream.arrived(2).await;
    upstream.react(Reaction::ok());
    emptied(&gateway).await;
    let mut seen = keys(&upstream);
    // Tries of one keep its key; each has its own.
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.iter().all(|key| key.starts_with("request-")));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_an_upstream_that_does_not_answer() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Hang);
    let mut gateway = Gateway::with_policy(upstream.address(), &spooling()).await;
    spooled(&deliver(&gateway, &Delivery::fresh()).await);
    upstream.arrived(2).await;
    assert!(gateway.program().terminate().await.success());
    assert_eq!(
        files(&gateway.dir().join("state/spool/waiting")).len(),
        1,
        "what was cut short stays"
    );
    upstream.react(Reaction::ok());
    gateway.restart().await;
    emptied(&gateway).await;
}

#[tokio::test]
async fn the_upstream_is_left_alone_as_long_as_it_asks() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Answer {
        status: 429,
        content_type: "application/json".into(),
        body: b"{}".to_vec(),
        headers: vec![("Retry-After".into(), "3600".into())],
    });
    let gateway = Gateway::with_policy(upstream.address(), &spooling()).await;
    spooled(&deliver(&gateway, &Delivery::fresh()).await);
    upstream.arrived(2).await;
    let line = first_waits_because(&gateway, "throttled").await;
    let at: jiff::Timestamp = line["next_attempt"].as_str().unwrap().parse().unwrap();
    let last: jiff::Timestamp = line["last_attempt"].as_str().unwrap().parse().unwrap();
    let seconds = at.as_second() - last.as_second();
    assert!(
        (299..=302).contains(&seconds),
        "bounded to 300 s: {seconds}"
    );
}
