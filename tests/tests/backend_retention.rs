//! What is done with is removed when its time is up, and nothing else.

use std::path::Path;

use orket_tests::{Backend, DEADLINE, Request, Watch, convergence, eventually};
use rusqlite::Connection;
use serde_json::json;

use crate::backend_runs::{ended, reaches, script};

const DAY: i64 = 86_400 * 1_000_000;

/// Does something to the store of a backend that is stopped meanwhile.
async fn in_the_store(backend: &mut Backend, sql: &str) {
    assert!(backend.terminate().await.success());
    let store = Connection::open(backend.database()).unwrap();
    store.execute_batch(sql).unwrap();
    drop(store);
    backend.restart().await;
}

fn count(backend: &Backend, table: &str) -> i64 {
    let store = Connection::open(backend.database()).unwrap();
    store
        .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get(0)
        })
        .unwrap()
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[tokio::test]
async fn ended_runs_go_with_all_that_is_theirs_and_the_file_shrinks() {
    let mut backend = Backend::start("").await;
    let lives = script(
        &backend,
        "echo here; while [ ! -e go ]; do sleep 0.02; done",
    )
    .await;
    reaches(&backend, &lives, "running").await;
    let old = script(&backend, "head -c 8000000 /dev/urandom").await;
    let new = script(&backend, "echo new").await;
    ended(&backend, &old).await;
    ended(&backend, &new).await;
    in_the_store(
        &mut backend,
        &format!(
            "UPDATE runs SET ended_at = ended_at - 31 * {DAY} WHERE id = '{old}';
             UPDATE runs SET created_at = created_at - 400 * {DAY} WHERE id = '{lives}';"
        ),
    )
    .await;
    eventually("the old run is gone", DEADLINE, || async {
        backend.get(&format!("/v1/runs/{old}")).await.status == 404
    })
    .await;
    eventually("the file has shrunk", DEADLINE, || async {
        size(&backend.database()) < 4_000_000
            && backend.metric("store_free_bytes").await < 1_000_000
    })
    .await;
    assert_eq!(
        backend.get(&format!("/v1/runs/{old}/logs")).await.status,
        404
    );
    for table in ["runs", "attempts"] {
        assert_eq!(count(&backend, table), 2, "{table}");
    }
    assert_eq!(backend.get(&format!("/v1/runs/{new}")).await.status, 200);
    assert_eq!(
        backend
            .metric("retention_removed_total{what=\"runs\"}")
            .await,
        1
    );
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    assert_eq!(ended(&backend, &lives).await["state"], "succeeded");
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn logs_go_before_their_run_and_readers_are_told() {
    let mut backend = Backend::start("[retention]\nlogs = \"7d\"\n").await;
    let loud = script(&backend, "echo loud").await;
    let quiet = script(&backend, "true").await;
    ended(&backend, &loud).await;
    ended(&backend, &quiet).await;
    in_the_store(
        &mut backend,
        &format!("UPDATE runs SET ended_at = ended_at - 8 * {DAY};"),
    )
    .await;
    eventually("the output is gone", DEADLINE, || async {
        count(&backend, "output") == 0
    })
    .await;
    let page = backend.get(&format!("/v1/runs/{loud}/logs")).await.json();
    assert_eq!(page["items"], json!([]));
    assert!(page["removed_at"].is_string(), "{page}");
    let mut watch = Watch::open(backend.address(), &format!("/v1/runs/{loud}/logs"), None).await;
    assert_eq!(watch.must_next().await.kind, "removed");
    assert_eq!(watch.must_next().await.kind, "end");
    // One that wrote nothing lost nothing.
    let page = backend.get(&format!("/v1/runs/{quiet}/logs")).await.json();
    assert!(page.get("removed_at").is_none(), "{page}");
    assert_eq!(
        backend.get(&format!("/v1/runs/{loud}")).await.json()["state"],
        "succeeded"
    );
}

#[tokio::test]
async fn deliveries_and_archived_cards_go_when_they_should_only() {
    let config = "[retention]\narchived_cards = \"90d\"\ndeliveries = \"never\"\n";
    let mut backend = Backend::start(config).await;
    for id in ["old", "new", "live"] {
        let card = json!({ "id": id, "title": id, "command": ["true"] });
        assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    }
    let archive = json!({ "card_ids": ["old", "new"] });
    assert_eq!(
        backend.post("/v1/cards/archive", &archive).await.status,
        200
    );
    let delivery = Request::post("/webhook/other", "{}").header("Content-Type", "application/json");
    let first = delivery.send(backend.address()).await;
    let deliveries = i64::from(first.status < 300);
    in_the_store(
        &mut backend,
        &format!(
            "UPDATE cards SET archived_at = archived_at - 91 * {DAY} WHERE id = 'old';
             UPDATE cards SET updated_at = 0, created_at = 0;
             UPDATE deliveries SET received_at = 0;"
        ),
    )
    .await;
    eventually("the old card is gone", DEADLINE, || async {
        backend.get("/v1/cards/old").await.status == 404
    })
    .await;
    assert_eq!(
        backend.get("/v1/cards/new").await.json()["status"],
        "archived"
    );
    assert_eq!(
        backend.get("/v1/cards/live").await.json()["status"],
        "ready"
    );
    assert_eq!(count(&backend, "deliveries"), deliveries);
}

#[tokio::test]
async fn a_delivery_of_a_wrong_clock_takes_no_other_along() {
    let mut backend = Backend::start("").await;
    for key in ["before", "astray", "after"] {
        let delivery = Request::post("/webhook/gitea", "{}")
            .header("Content-Type", "application/json")
            .header("X-Orket-Actor", "webhook:gitea")
            .header("X-Orket-Webhook-Source", "gitea")
            .header("X-Orket-Webhook-Provider", "gitea")
            .header("X-Orket-Webhook-Event", "push")
            .header("X-Orket-Webhook-Key", key);
        let answer = delivery.send(backend.address()).await;
        assert!(answer.status < 300, "{}", answer.text());
    }
    in_the_store(
        &mut backend,
        "UPDATE deliveries SET received_at = 0 WHERE key = 'after';",
    )
    .await;
    eventually("the old one is gone", DEADLINE, || async {
        count(&backend, "deliveries") < 3
    })
    .await;
    assert_eq!(count(&backend, "deliveries"), 2, "only that one");
}

#[tokio::test]
async fn a_clock_that_was_ahead_keeps_no_events_for_ever() {
    let mut backend = Backend::start("").await;
    let old = script(&backend, "true").await;
    ended(&backend, &old).await;
    // A week ahead, until it was set right.
    in_the_store(
        &mut backend,
        &format!("UPDATE events SET time = time + 7 * {DAY};"),
    )
    .await;
    let new = script(&backend, "true").await;
    ended(&backend, &new).await;
    let ahead = format!(
        "SELECT count(*) FROM events WHERE subject = '{new}' \
         AND time > unixepoch() * 1000000 + {DAY} / 24"
    );
    let store = Connection::open(backend.database()).unwrap();
    let ahead: i64 = store.query_row(&ahead, [], |row| row.get(0)).unwrap();
    drop(store);
    assert_eq!(ahead, 0, "they follow the clock as it is");
}

#[tokio::test]
async fn a_store_of_before_learns_to_shrink() {
    let mut backend = Backend::start("").await;
    let id = script(&backend, "echo kept").await;
    ended(&backend, &id).await;
    in_the_store(
        &mut backend,
        "PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM;",
    )
    .await;
    assert_eq!(ended(&backend, &id).await["state"], "succeeded");
    let page = backend.get(&format!("/v1/runs/{id}/logs")).await.json();
    assert_eq!(page["items"][0]["text"], "kept\n");
    assert!(
        backend.output().contains("store_rewritten"),
        "{}",
        backend.output()
    );
    assert!(backend.terminate().await.success());
    let store = Connection::open(backend.database()).unwrap();
    let way: i64 = store
        .query_row("PRAGMA auto_vacuum", [], |row| row.get(0))
        .unwrap();
    assert_eq!(way, 2, "incremental");
    drop(store);
    backend.restart().await;
    assert!(!backend.output().contains("store_rewritten"));
}

#[tokio::test]
async fn after_a_restart_of_the_machine_nothing_is_removed_for_a_while() {
    let mut backend = Backend::start("").await;
    let old = script(&backend, "true").await;
    ended(&backend, &old).await;
    in_the_store(
        &mut backend,
        &format!(
            "UPDATE boot SET course_machine = 'before', course_offset = 0, course_since = 0;
             UPDATE runs SET ended_at = ended_at - 31 * {DAY};"
        ),
    )
    .await;
    eventually("it says so", DEADLINE, || async {
        backend.output().contains("\"retention_waits\"")
    })
    .await;
    assert_eq!(backend.get(&format!("/v1/runs/{old}")).await.status, 200);
}
