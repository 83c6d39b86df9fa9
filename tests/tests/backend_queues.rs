//! Queues, bounds, dependencies and replays, with the real backend.

mod bounds;
mod replay;

use orket_tests::{Backend, DEADLINE, wait::eventually};
use serde_json::{Value, json};

use crate::backend_runs::{cancel, ended, reaches, run, script, submit};

/// The queue as it is.
async fn queue(backend: &Backend, name: &str) -> Value {
    let answer = backend.get("/v1/queues").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let queues = answer.json()["items"].as_array().unwrap().clone();
    queues
        .into_iter()
        .find(|queue| queue["name"] == name)
        .unwrap_or_else(|| panic!("no queue {name}"))
}

async fn pause(backend: &Backend, name: &str) -> Value {
    let answer = backend
        .post(&format!("/v1/queues/{name}/pause"), &json!({}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

async fn resume(backend: &Backend, name: &str) -> Value {
    let answer = backend
        .post(&format!("/v1/queues/{name}/resume"), &json!({}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

const HOLD: &str = "echo on; while [ ! -e go ]; do sleep 0.02; done";

#[tokio::test]
async fn each_limit_holds_and_what_it_holds_back_comes_later() {
    let mut backend = Backend::start(
        "[runs]\nconcurrency = 6\n[queues.slow]\nconcurrency = 2\n[queues.wide]\nkey_concurrency = 1\n",
    )
    .await;
    for (name, queue, build) in [
        ("slow1", "slow", "a"),
        ("slow2", "slow", "b"),
        ("slow3", "slow", "c"),
        ("wide1", "wide", "a"),
        ("wide2", "wide", "a"),
        ("wide3", "wide", "b"),
    ] {
        let body =
            json!({ "id": name, "command": ["sh", "-c", HOLD], "queue": queue, "build_id": build });
        submit(&backend, &body).await;
    }
    for name in ["slow1", "slow2", "wide1", "wide3"] {
        reaches(&backend, name, "running").await;
    }
    // Everything that may run does; a claim that came after found no room for the others.
    for (name, queued, active) in [("slow", 1, 2), ("wide", 1, 2)] {
        let queue = queue(&backend, name).await;
        assert_eq!(
            (&queue["queued"], &queue["active"]),
            (&json!(queued), &json!(active)),
            "{queue}"
        );
    }
    // Other queues go on past them.
    let free = submit(&backend, &json!({ "command": ["true"] })).await;
    ended(&backend, &free).await;
    for name in ["slow3", "wide2"] {
        assert_eq!(run(&backend, name).await["state"], "queued");
    }
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    for name in ["slow3", "wide2"] {
        assert_eq!(ended(&backend, name).await["state"], "succeeded");
    }
    orket_tests::convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_queue_of_its_own_length_refuses_what_is_too_much() {
    let backend = Backend::start("[runs]\nconcurrency = 1\n[queues.short]\nlength = 1\n").await;
    pause(&backend, "short").await;
    submit(&backend, &json!({ "command": ["true"], "queue": "short" })).await;
    let body = json!({ "command": ["true"], "queue": "short" });
    let answer = backend.post("/v1/runs", &body).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    submit(&backend, &json!({ "command": ["true"] })).await;
    let body = json!({ "command": ["true"], "queue": "none-such" });
    let answer = backend.post("/v1/runs", &body).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let answer = backend.post("/v1/queues/none-such/pause", &json!({})).await;
    assert_eq!(answer.status, 404, "{}", answer.text());
}

#[tokio::test]
async fn a_paused_queue_stays_so_over_a_kill_and_goes_on_when_resumed() {
    let mut backend = Backend::start("").await;
    let before = script(&backend, HOLD).await;
    reaches(&backend, &before, "running").await;
    let paused = pause(&backend, "default").await;
    assert_eq!(paused["paused_by"], "local");
    let waits = submit(&backend, &json!({ "command": ["true"] })).await;
    let unwanted = submit(&backend, &json!({ "command": ["true"] })).await;
    backend.kill_and_restart().await;
    assert_eq!(
        queue(&backend, "default").await["paused_at"],
        paused["paused_at"]
    );
    // What ran before runs on, and its end lets nothing else start.
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    assert_eq!(ended(&backend, &before).await["state"], "succeeded");
    assert_eq!(
        pause(&backend, "default").await["paused_at"],
        paused["paused_at"]
    );
    assert_eq!(run(&backend, &waits).await["state"], "queued");
    // A cancel is not held back.
    assert_eq!(cancel(&backend, &unwanted).await.status, 202);
    assert_eq!(run(&backend, &unwanted).await["state"], "canceled");
    assert_eq!(resume(&backend, "default").await["paused_at"], Value::Null);
    assert_eq!(ended(&backend, &waits).await["state"], "succeeded");
    assert_eq!(run(&backend, &unwanted).await["attempts"], 0);
    orket_tests::convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_run_waits_for_those_it_needs_and_ends_with_them() {
    let mut backend = Backend::start("").await;
    let body =
        json!({ "id": "first", "command": ["sh", "-c", format!("{HOLD}; echo first >> order")] });
    submit(&backend, &body).await;
    let order = |name: &str| json!(["sh", "-c", format!("echo {name} >> order")]);
    let body = json!({ "id": "second", "command": order("second"), "depends_on": ["first"] });
    submit(&backend, &body).await;
    let body =
        json!({ "id": "third", "command": order("third"), "depends_on": ["second", "first"] });
    submit(&backend, &body).await;
    assert_eq!(run(&backend, "third").await["state"], "scheduled");
    assert_eq!(
        run(&backend, "second").await["depends_on"],
        json!(["first"])
    );
    // A dependency is on disk as the run is.
    backend.kill_and_restart().await;
    assert_eq!(run(&backend, "second").await["state"], "scheduled");
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    assert_eq!(ended(&backend, "third").await["state"], "succeeded");
    let written = std::fs::read_to_string(backend.workspace().join("order")).unwrap();
    assert_eq!(written, "first\nsecond\nthird\n");

    std::fs::remove_file(backend.workspace().join("go")).unwrap();
    let body = json!({ "id": "bad", "command": ["sh", "-c", format!("{HOLD}; exit 1")] });
    submit(&backend, &body).await;
    for (name, needs) in [
        ("after", "bad"),
        ("long-after", "after"),
        ("last", "long-after"),
    ] {
        let body = json!({ "id": name, "command": ["true"], "depends_on": [needs] });
        submit(&backend, &body).await;
    }
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    for name in ["after", "long-after", "last"] {
        let run = ended(&backend, name).await;
        assert_eq!(
            (&run["state"], &run["reason"], &run["attempts"]),
            (&json!("canceled"), &json!("dependency_failed"), &json!(0)),
            "{run}"
        );
    }
    for (needs, status, word) in [
        (json!(["bad"]), 409, "bad"),
        (json!(["no-such-run"]), 400, "no-such-run"),
        (json!(["itself"]), 400, "itself"),
        (json!(["../x"]), 400, "depends_on"),
    ] {
        let body = json!({ "id": "itself", "command": ["true"], "depends_on": needs });
        let answer = backend.post("/v1/runs", &body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains(word), "{}", answer.text());
    }
    let done = json!({ "command": ["true"], "depends_on": ["first"] });
    let id = submit(&backend, &done).await;
    assert_eq!(ended(&backend, &id).await["state"], "succeeded");
    orket_tests::convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn no_stop_spends_an_attempt_and_a_drain_waits() {
    let mut backend = Backend::start("").await;
    let id = script(&backend, HOLD).await;
    reaches(&backend, &id, "running").await;
    assert!(backend.terminate().await.success());
    backend.restart().await;
    assert_eq!(run(&backend, &id).await["state"], "running");
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    let run = ended(&backend, &id).await;
    assert_eq!(
        (&run["state"], &run["attempts"]),
        (&json!("succeeded"), &json!(1)),
        "{run}"
    );

    let mut backend =
        Backend::start("[runs]\nconcurrency = 1\non_stop = \"drain\"\ndrain_timeout = \"1m\"\n")
            .await;
    let id = script(&backend, HOLD).await;
    reaches(&backend, &id, "running").await;
    let waits = submit(&backend, &json!({ "command": ["true"] })).await;
    let go = backend.workspace().join("go");
    let pid = backend.program().pid();
    let log = backend.dir().join("workspace");
    let release = async {
        // The stop has begun once the socket takes nobody any more.
        eventually("the backend stops", DEADLINE, || async {
            std::os::unix::net::UnixStream::connect(log.with_file_name("backend.sock")).is_err()
        })
        .await;
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        std::fs::write(&go, "").unwrap();
    };
    let (status, ()) = tokio::join!(backend.terminate(), release);
    assert!(status.success());
    backend.restart().await;
    for id in [&id, &waits] {
        let run = ended(&backend, id).await;
        assert_eq!(
            (&run["state"], &run["attempts"]),
            (&json!("succeeded"), &json!(1)),
            "{run}"
        );
    }
}
