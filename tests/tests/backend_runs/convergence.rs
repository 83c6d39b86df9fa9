//! Many submissions at once come back to nothing: the count, the store and the machine agree.

use std::sync::Arc;

use orket_tests::{Backend, convergence};
use serde_json::json;

use super::{cancel, submit};

async fn submissions_converge(count: usize, clients: usize) {
    let mut backend = Backend::start("[runs]\nconcurrency = 16\ngrace = \"1s\"\n").await;
    let shared = Arc::new(backend);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let backend = Arc::clone(&shared);
            tokio::spawn(async move {
                for n in (client..count).step_by(clients) {
                    let command = match n % 4 {
                        0 => json!(["true"]),
                        1 => json!(["false"]),
                        2 => json!(["sh", "-c", "echo out; echo err >&2"]),
                        _ => json!(["sleep", "30"]),
                    };
                    let body = json!({ "id": format!("run-{n}"), "command": command });
                    let id = submit(&backend, &body).await;
                    if n % 4 == 3 {
                        assert_eq!(cancel(&backend, &id).await.status, 202);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    backend = Arc::into_inner(shared).unwrap();
    convergence::settled(&mut backend).await;
    let by_state = backend.get("/v1/system/metrics").await.json()["runs"].clone();
    let of = |state: &str| by_state[state].as_u64().unwrap();
    let share = |rest: usize| (0..count).filter(|n| n % 4 == rest).count() as u64;
    assert_eq!(of("succeeded"), share(0) + share(2), "{by_state}");
    assert_eq!(of("failed"), share(1), "{by_state}");
    assert_eq!(of("canceled"), share(3), "{by_state}");
    assert_eq!(
        of("running") + of("canceling") + of("queued") + of("lost"),
        0,
        "{by_state}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_concurrent_submissions_come_back_to_zero() {
    submissions_converge(20, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_concurrent_submissions_come_back_to_zero() {
    submissions_converge(1000, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_many_submissions_of_one_id_is_accepted() {
    let backend = Arc::new(Backend::start("").await);
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let backend = Arc::clone(&backend);
            tokio::spawn(async move {
                let body = json!({ "id": "one", "command": ["echo", n.to_string()] });
                backend.post("/v1/runs", &body).await.status
            })
        })
        .collect();
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.push(task.await.unwrap());
    }
    assert_eq!(
        statuses.iter().filter(|status| **status == 201).count(),
        1,
        "{statuses:?}"
    );
    assert!(
        statuses.iter().all(|status| [201, 409].contains(status)),
        "{statuses:?}"
    );
}
