//! What is asked before the machine's clock is set, and carried out after.

use jiff::Timestamp;
use orket_tests::{DEADLINE, Request, convergence::invariants, eventually};
use rusqlite::Connection;
use serde_json::json;

use super::{
    clocks::{HOUR, WAITS, now, set, with_a_clock},
    order,
};
use crate::backend_runs::{ended, reaches, submit};

async fn asked_while_it_is_set(jump: i64) {
    let config = "[runs]\nconcurrency = 1\ngrace = \"300ms\"\n";
    let Some(mut backend) = with_a_clock(config).await else {
        return;
    };
    submit(&backend, &order("lives", WAITS, &json!({}))).await;
    reaches(&backend, "lives", "running").await;
    let ids = ["before", "during-0", "during-1", "during-2", "after"];
    let bounded = json!({ "bounds": { "waiting": "5m" } });
    submit(&backend, &order(ids[0], "true", &bounded)).await;
    // Whatever is written waits for another program.
    let other = Connection::open(backend.database()).unwrap();
    other.busy_timeout(DEADLINE).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let batches = "store_batch_requests_count";
    let begun = backend.metric(batches).await;
    let asked: Vec<_> = ids[1..4]
        .iter()
        .map(|id| {
            let request = Request::post_json("/v1/runs", &order(id, "true", &bounded));
            let address = backend.address().clone();
            tokio::spawn(async move { request.send(&address).await })
        })
        .collect();
    eventually("one is being written", DEADLINE, || async {
        backend.metric(batches).await > begun
    })
    .await;
    set(&backend, jump);
    other.execute_batch("ROLLBACK").unwrap();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    submit(&backend, &order(ids[4], "true", &bounded)).await;
    let shown = now(&backend).await;
    for id in &ids[1..4] {
        let run = backend.get(&format!("/v1/runs/{id}")).await.json();
        let created: Timestamp = run["created_at"].as_str().unwrap().parse().unwrap();
        let since = shown.duration_since(created).as_secs();
        assert!((0..HOUR).contains(&since), "{since} {run}");
    }
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    for id in ids {
        let run = ended(&backend, id).await;
        assert_eq!(run["state"], "succeeded", "{run}");
    }
    ended(&backend, "lives").await;
    invariants(&mut backend, &ids.map(str::to_owned)).await;
}

#[tokio::test]
async fn what_is_asked_while_the_clock_is_set_on_is_not_given_up() {
    asked_while_it_is_set(HOUR).await;
}

#[tokio::test]
async fn what_is_asked_while_the_clock_is_set_back_bears_no_time_to_come() {
    asked_while_it_is_set(-HOUR).await;
}
