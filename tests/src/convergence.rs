//! Whether the work has come to its end: what the backend counts, what it lists and what really
//! runs say the same.

use crate::backend::Backend;
use crate::program::no_process_left;
use crate::wait::{DEADLINE, eventually};
use crate::wire::Request;

/// The `active_tasks` of the heartbeat.
pub async fn active_tasks(backend: &Backend) -> u64 {
    let answer = Request::get("/v1/system/heartbeat")
        .send(backend.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["active_tasks"]
        .as_u64()
        .expect("active_tasks is a number")
}

/// The ids of all runs in `state`, over all pages.
pub async fn runs_in(backend: &Backend, state: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = cursor
            .as_ref()
            .map(|cursor| format!("&cursor={cursor}"))
            .unwrap_or_default();
        let answer = backend.get(&format!("/v1/runs?state={state}{page}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        for run in body["items"].as_array().expect("items is a list") {
            assert_eq!(
                run["state"], state,
                "the filter lets another state through: {run}"
            );
            ids.push(run["id"].as_str().expect("an id").to_owned());
        }
        match body["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return ids,
        }
    }
}

/// Waits until nothing is active, queued or scheduled, and no process a run started is left.
pub async fn settled(backend: &mut Backend) {
    eventually("active_tasks is 0", DEADLINE, || async {
        active_tasks(backend).await == 0
    })
    .await;
    for state in ["scheduled", "queued", "running", "canceling"] {
        eventually(&format!("no run is {state}"), DEADLINE, || async {
            runs_in(backend, state).await.is_empty()
        })
        .await;
    }
    assert_eq!(
        active_tasks(backend).await,
        0,
        "settled work came to life again"
    );
    let own = backend.program().pid();
    eventually("no process of a run is left", DEADLINE, || async {
        crate::program::processes_under(backend.dir())
            .iter()
            .all(|pid| *pid == own)
    })
    .await;
}

/// Waits until not even the backend's own process is left.
pub async fn gone(backend: &Backend) {
    no_process_left(backend.dir()).await;
}
