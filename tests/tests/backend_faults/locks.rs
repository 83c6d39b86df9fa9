//! Somebody else has the store.

use std::time::Duration;

use orket_tests::{Backend, DEADLINE, convergence::invariants, eventually};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::json;

use super::{begun, order};
use crate::backend_runs::{ended, reaches, submit};

/// A second program that has the engine's own lock, such as a backup or a person with a shell.
fn hold(backend: &Backend) -> Connection {
    let other = Connection::open(backend.database()).unwrap();
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    other
}

#[tokio::test]
async fn a_locked_store_refuses_after_a_while_and_goes_on_when_it_is_free() {
    let mut backend = Backend::start("").await;
    let waits = "while [ ! -e go ]; do sleep 0.02; done";
    submit(&backend, &order("lives", waits, &json!({}))).await;
    reaches(&backend, "lives", "running").await;
    begun(&backend, "lives").await;
    let other = hold(&backend);
    // All at once: they wait together, not one behind the other.
    let orders: Vec<_> = (0..8)
        .map(|n| order(&format!("refused-{n}"), "true", &json!({})))
        .collect();
    let answers =
        futures_util::future::join_all(orders.iter().map(|body| backend.post("/v1/runs", body)));
    for answer in answers.await {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.json()["reason"], "store_unavailable");
        assert!(answer.header("retry-after").is_some());
    }
    // Reads go on, and what runs does.
    assert_eq!(
        backend.get("/v1/runs/lives").await.json()["state"],
        "running"
    );
    assert_eq!(backend.get("/v1/system/heartbeat").await.status, 200);
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    let effects = backend.workspace().join("effects");
    eventually("the command is done", DEADLINE, || async {
        std::fs::read_to_string(&effects)
            .unwrap()
            .contains("lives end")
    })
    .await;
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    let run = ended(&backend, "lives").await;
    assert_eq!(
        (&run["state"], &run["attempts"]),
        (&json!("succeeded"), &json!(1)),
        "{run}"
    );
    submit(&backend, &order("after", "true", &json!({}))).await;
    invariants(&mut backend, &["lives".into(), "after".into()]).await;
    let runs = backend.get("/v1/runs").await.json();
    assert_eq!(
        runs["items"].as_array().unwrap().len(),
        2,
        "what was refused left nothing"
    );
}

#[tokio::test]
async fn a_short_lock_is_waited_for() {
    let mut backend = Backend::start("").await;
    let other = hold(&backend);
    let body = order("one", "true", &json!({}));
    let submitted = backend.post("/v1/runs", &body);
    let freed = async {
        // Once it waits: its transaction cannot begin.
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(other);
    };
    let (answer, ()) = tokio::join!(submitted, freed);
    assert_eq!(answer.status, 201, "{}", answer.text());
    invariants(&mut backend, &["one".into()]).await;
}

#[tokio::test]
async fn a_start_on_a_locked_store_says_what_is_the_matter() {
    let mut backend = Backend::start("").await;
    backend.kill().await;
    let other = hold(&backend);
    let said = backend.restart_refused().await.output();
    assert!(
        said.contains("another program has the store") && said.contains("locked"),
        "{said}"
    );
    drop(other);
    backend.restart().await;
    invariants(&mut backend, &[]).await;
}

#[tokio::test]
async fn a_backend_that_is_stopped_keeps_its_store_from_a_second_one() {
    let mut backend = Backend::start("").await;
    backend.program().signal(Signal::STOP);
    let url = format!(
        "[store]\nurl = \"sqlite:{}\"\n",
        backend.database().display()
    );
    let second = Backend::refused(&url).await;
    let pid = backend.program().pid().to_string();
    assert!(
        second.stderr.contains("another backend") && second.stderr.contains(&pid),
        "{}",
        second.stderr
    );
    backend.program().signal(Signal::CONT);
    submit(&backend, &order("one", "true", &json!({}))).await;
    invariants(&mut backend, &["one".into()]).await;
}
