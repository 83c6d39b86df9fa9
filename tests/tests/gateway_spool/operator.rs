//! What an operator sees and does: list, retry, drop; and policies that change under what waits.

use orket_tests::gateway::{self, WEBHOOK_SECRET};
use orket_tests::{DEADLINE, Delivery, Gateway, Policy, Reaction, Upstream, eventually};
use serde_json::json;
use tempfile::TempDir;

use super::{
    deliver, emptied, first_waits_because, keys, logged, nowhere, spool, spooled, spooling, waiting,
};

async fn dead_letters(gateway: &Gateway, count: usize) {
    eventually("there are dead letters", DEADLINE, || async {
        spool(gateway, &["list"]).await.unwrap()["dead_total"] == count
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_taken_back_one_by_one_or_all() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let deliveries: Vec<_> = (0..3).map(|_| Delivery::fresh()).collect();
    let mut ids = Vec::new();
    for delivery in &deliveries {
        ids.push(spooled(&deliver(&gateway, delivery).await));
    }
    let upstream = Upstream::unix(dir.path());
    upstream.react(Reaction::json(400, "{}"));
    dead_letters(&gateway, 3).await;
    upstream.react(Reaction::ok());
    upstream.forget();
    let acted = spool(&gateway, &["retry", &ids[1]]).await.unwrap();
    assert_eq!(acted["ids"], json!([ids[1]]));
    emptied(&gateway).await;
    assert_eq!(upstream.only().body, deliveries[1].body);
    // Sent again by its forge meanwhile, it is done: there is nothing to take back.
    assert_eq!(deliver(&gateway, &deliveries[0]).await.status, 200);
    let told = spool(&gateway, &["retry", &ids[0]]).await.unwrap_err();
    assert!(told.contains("done or waits already"), "{told}");
    let acted = spool(&gateway, &["retry", "--all"]).await.unwrap();
    assert_eq!(acted["ids"], json!([ids[2]]));
    emptied(&gateway).await;
    assert_eq!(upstream.last().body, deliveries[2].body);
    dead_letters(&gateway, 1).await;
    let told = spool(&gateway, &["retry", "01NOSUCHENTRY"])
        .await
        .unwrap_err();
    assert!(told.contains("no such entry"), "{told}");
    logged(&gateway, "spool_retry", 1).await;
}

#[tokio::test]
async fn what_is_dropped_is_gone_and_said_so() {
    let dir = TempDir::new().unwrap();
    let mut gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let deliveries: Vec<_> = (0..3).map(|_| Delivery::fresh()).collect();
    let mut ids = Vec::new();
    for delivery in &deliveries {
        ids.push(spooled(&deliver(&gateway, delivery).await));
    }
    let acted = spool(&gateway, &["drop", &ids[0]]).await.unwrap();
    assert_eq!(acted["ids"], json!([ids[0]]));
    assert!(spool(&gateway, &["drop", &ids[0]]).await.is_err());
    assert!(spool(&gateway, &["drop"]).await.is_err());
    assert_eq!(waiting(&gateway).await, ids[1..]);
    logged(&gateway, "spool_drop", 1).await;
    gateway.restart().await;
    assert_eq!(waiting(&gateway).await, ids[1..]);
    // It is forgotten, so it can come again: at the end.
    let again = spooled(&deliver(&gateway, &deliveries[0]).await);
    assert_eq!(
        waiting(&gateway).await,
        [&ids[1], &ids[2], &again].map(Clone::clone)
    );
    let upstream = Upstream::unix(dir.path());
    upstream.react(Reaction::json(400, "{}"));
    dead_letters(&gateway, 3).await;
    let acted = spool(&gateway, &["drop", "--all-dead"]).await.unwrap();
    assert_eq!(acted["ids"].as_array().unwrap().len(), 3);
    dead_letters(&gateway, 0).await;
    gateway.restart().await;
    dead_letters(&gateway, 0).await;
}

#[tokio::test]
async fn the_list_is_for_people_too_and_shows_no_body() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let delivery = Delivery::fresh();
    let id = spooled(&deliver(&gateway, &delivery).await);
    let socket = gateway.dir().join("state/gateway.sock");
    let list = ["spool", "list", "--control", socket.to_str().unwrap()];
    let ended = gateway::run(gateway.dir(), &list, &[]).await;
    assert!(ended.status.success(), "{}", ended.output());
    assert!(ended.stdout.contains(&id), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("push") && ended.stdout.contains("unreachable"),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.ends_with("1 waiting\n"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("refs/heads"), "{}", ended.stdout);
    let config = gateway.dir().join("gateway.toml");
    let list = ["spool", "list", "--config", config.to_str().unwrap()];
    let ended = gateway::run(gateway.dir(), &list, &[]).await;
    assert!(ended.stdout.contains(&id), "{}", ended.output());
}

/// Puts another policy in force.
async fn reload(gateway: &Gateway, policy: &Policy, upstream: &str) {
    let text = policy
        .to_string()
        .replace("{dir}", &gateway.dir().to_string_lossy())
        .replace("{upstream}", upstream);
    std::fs::write(gateway.dir().join("gateway.toml"), text).unwrap();
    let socket = gateway.dir().join("state/gateway.sock");
    let arguments = ["reload", "--control", socket.to_str().unwrap()];
    let ended = gateway::run(gateway.dir(), &arguments, &[]).await;
    assert!(ended.status.success(), "{}", ended.output());
}

#[tokio::test]
async fn what_has_no_way_in_the_new_policy_waits_and_says_why() {
    let dir = TempDir::new().unwrap();
    let extra = |id: &str, more: &str| {
        Policy::new().rest(&format!(
            r#"[[routes]]
id = "{id}"
path = "/webhook/extra"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
upstream = "backend"
{more}
"#
        ))
    };
    let first = extra("extra", "spool = true");
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &first).await;
    let delivery = Delivery::fresh();
    let request = delivery.signed("/webhook/extra", WEBHOOK_SECRET);
    let id = spooled(&request.send(gateway.address()).await);

    let upstream = Upstream::tcp().await;
    let address = upstream.address().to_string();
    reload(&gateway, &extra("renamed", "source = \"extra\""), &address).await;
    first_waits_because(&gateway, "route_gone").await;
    reload(&gateway, &extra("extra", "source = \"other\""), &address).await;
    first_waits_because(&gateway, "route_changed").await;
    assert_eq!(waiting(&gateway).await, [id]);
    upstream.untouched("a policy without a way for it");
    // With its route back, it goes where that route leads now, with the headers that policy sets.
    let last = extra("extra", "")
        .upstream("set_headers = { \"X-Inner\" = \"inner\" }")
        .secrets("inner = [{ file = \"{dir}/gitea-secret\" }]");
    reload(&gateway, &last, &address).await;
    emptied(&gateway).await;
    let request = upstream.only();
    assert_eq!(request.body, delivery.body);
    assert_eq!(request.header("x-inner"), Some(WEBHOOK_SECRET));
    assert_eq!(keys(&upstream).len(), 1);
}
