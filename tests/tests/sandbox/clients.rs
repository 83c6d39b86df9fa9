//! Clients that are gone before they are answered, and sandboxes that nobody looks after.

use orket_tests::{Backend, DEADLINE, eventually, wire::Request};
use rusqlite::Connection;
use tokio::io::AsyncWriteExt as _;

use super::*;

/// Says it and is gone.
async fn say_and_go(backend: &Backend, request: &Request) {
    let mut stream = backend.address().connect().await.unwrap();
    let bytes = request.bytes(backend.address());
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
}

/// The states of all sandboxes there ever were.
fn states(backend: &Backend) -> Vec<(String, String)> {
    let store = Connection::open(backend.database()).unwrap();
    let mut rows = store.prepare("SELECT id, state FROM sandboxes").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

async fn all_are(backend: &Backend, wanted: &[&str]) {
    eventually(&format!("all are {wanted:?}"), DEADLINE, || async {
        let states = states(backend);
        states
            .iter()
            .all(|(_, state)| wanted.contains(&state.as_str()))
    })
    .await;
}

fn sleeper() -> Value {
    json!({ "services": [{ "name": "a", "command": ["sleep", "1000"] }], "credentials": [] })
}

#[tokio::test]
async fn what_is_recorded_goes_on_without_its_client() {
    // Nothing but what was asked for brings anything about.
    let more = "limit = 200\nrunning = 200\nreconcile = \"10h\"";
    let backend = Backend::start(&config_with(30, more)).await;
    for _ in 0..50 {
        say_and_go(&backend, &Request::post_json("/v1/sandboxes", &sleeper())).await;
    }
    // Whoever comes later is answered, so that they were all taken by then, or never.
    create(&backend, &sleeper()).await;
    all_are(&backend, &["running"]).await;
    let there = states(&backend);
    eprintln!("{} of 50 were recorded", there.len() - 1);
    for (at, (id, _)) in there.iter().enumerate() {
        let request = if at % 2 == 0 {
            Request::new("DELETE", &format!("/v1/sandboxes/{id}"))
        } else {
            Request::post_json(&format!("/v1/sandboxes/{id}/stop"), &json!({}))
        };
        say_and_go(&backend, &request).await;
    }
    // What was not even begun is as it was.
    all_are(&backend, &["running", "stopped", "deleted"]).await;
    for (id, _) in &there {
        delete(&backend, id).await;
    }
    all_are(&backend, &["deleted"]).await;
}

#[tokio::test]
async fn one_that_nobody_looks_after_is_found() {
    let backend = Backend::start(&config_with(31, "reconcile = \"1s\"")).await;
    let created = create(&backend, &sleeper()).await;
    reaches(&backend, id(&created), "running").await;
    // Records as a task that died would have left them: nothing was begun, and an end was asked for.
    let store = Connection::open(backend.database()).unwrap();
    let columns: Vec<String> = {
        let mut rows = store
            .prepare("SELECT name FROM pragma_table_info('sandboxes')")
            .unwrap();
        let rows = rows.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let mut ids = Vec::new();
    for (number, state, goal) in [(1, "creating", "live"), (2, "stopping", "deleted")] {
        let new = format!("sbx_01J0000000000000000000000{number}");
        let values = columns.iter().map(|name| match name.as_str() {
            "seq" => "NULL".to_owned(),
            "id" => format!("'{new}'"),
            "state" => format!("'{state}'"),
            "goal" => format!("'{goal}'"),
            other => other.to_owned(),
        });
        let values: Vec<_> = values.collect();
        let insert = format!(
            "INSERT INTO sandboxes ({}) SELECT {} FROM sandboxes WHERE id = ?1",
            columns.join(", "),
            values.join(", ")
        );
        assert_eq!(store.execute(&insert, [id(&created)]), Ok(1));
        ids.push(new);
    }
    reaches(&backend, &ids[0], "running").await;
    reaches(&backend, &ids[1], "deleted").await;
    assert!(backend.output().contains("sandbox_kept_again"));
    delete(&backend, &ids[0]).await;
    reaches(&backend, &ids[0], "deleted").await;
}
