//! What bounds a run beside the timeout of an attempt.

use orket_tests::Backend;
use serde_json::{Value, json};

use super::{HOLD, pause, resume};
use crate::backend_runs::{ended, reaches, run, submit};

fn is(run: &Value, state: &str, reason: &str, attempts: u64) {
    assert_eq!(
        (&run["state"], &run["reason"], &run["attempts"]),
        (&json!(state), &json!(reason), &json!(attempts)),
        "{run}"
    );
    assert!(
        run["detail"].as_str().is_some_and(|text| !text.is_empty()),
        "{run}"
    );
}

#[tokio::test]
async fn what_waits_too_long_ends_without_an_attempt() {
    let mut backend = Backend::start("").await;
    pause(&backend, "default").await;
    let body = json!({ "id": "late", "command": ["true"], "bounds": { "waiting": 0.2 } });
    submit(&backend, &body).await;
    let body = json!({ "id": "total", "command": ["true"], "bounds": { "total": 0.2 } });
    submit(&backend, &body).await;
    let body = json!({ "id": "needs", "command": ["true"], "depends_on": ["late"] });
    submit(&backend, &body).await;
    is(
        &ended(&backend, "late").await,
        "timed_out",
        "waited_too_long",
        0,
    );
    is(
        &ended(&backend, "total").await,
        "timed_out",
        "total_timeout",
        0,
    );
    is(
        &ended(&backend, "needs").await,
        "canceled",
        "dependency_failed",
        0,
    );
    // A bound that passes while no backend runs is seen by the next.
    let body = json!({ "id": "meanwhile", "command": ["true"], "bounds": { "waiting": 0.001 } });
    submit(&backend, &body).await;
    backend.kill_and_restart().await;
    is(
        &ended(&backend, "meanwhile").await,
        "timed_out",
        "waited_too_long",
        0,
    );
    resume(&backend, "default").await;
    orket_tests::convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn the_total_time_ends_an_attempt_and_all_retries() {
    let mut backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
    let body = json!({ "command": ["sleep", "60"], "retries": 5, "bounds": { "total": "3s" } });
    let id = submit(&backend, &body).await;
    is(&ended(&backend, &id).await, "timed_out", "total_timeout", 1);
    // A retry that could only begin after it is not waited for.
    let body = json!({ "command": ["false"], "retries": 5,
        "bounds": { "total": "5s", "retry_delay": "1h", "retry_delay_most": "1h" } });
    let id = submit(&backend, &body).await;
    is(&ended(&backend, &id).await, "failed", "exit_status", 1);
    // An attempt's own timeout is another thing, and is tried again.
    let body = json!({ "command": ["sleep", "60"], "timeout": 0.1, "retries": 1,
        "bounds": { "total": "1m", "retry_delay": 0.01 } });
    let id = submit(&backend, &body).await;
    is(&ended(&backend, &id).await, "timed_out", "timeout", 2);
    orket_tests::convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn what_is_beyond_the_limit_of_its_output_is_no_silence() {
    let backend = Backend::start("[runs]\noutput_limit = \"1KiB\"\ngrace = \"300ms\"\n").await;
    let talks = "n=0; while [ $n -lt 40 ]; do n=$((n+1)); printf '%0200d' $n; sleep 0.1; done";
    let body =
        json!({ "id": "talks", "command": ["sh", "-c", talks], "bounds": { "silence": "2s" } });
    submit(&backend, &body).await;
    // Of what is dropped the backend hears less often than this.
    let talks = "n=0; while [ $n -lt 2000 ]; do n=$((n+1)); printf '%02000d' $n; sleep 0.001; done";
    let body =
        json!({ "id": "often", "command": ["sh", "-c", talks], "bounds": { "silence": 0.15 } });
    submit(&backend, &body).await;
    for name in ["talks", "often"] {
        let run = ended(&backend, name).await;
        assert_eq!(run["state"], "succeeded", "{run}");
    }
}

#[tokio::test]
async fn silence_ends_an_attempt_and_a_talking_one_goes_on() {
    let mut backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
    let talks = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done";
    let body =
        json!({ "id": "talks", "command": ["sh", "-c", talks], "bounds": { "silence": "3s" } });
    submit(&backend, &body).await;
    let body = json!({ "id": "silent", "command": ["sh", "-c", "echo once; sleep 60"], "retries": 1,
        "bounds": { "silence": 0.3, "retry_delay": 0.01 } });
    submit(&backend, &body).await;
    is(&ended(&backend, "silent").await, "timed_out", "silence", 2);
    assert_eq!(ended(&backend, "talks").await["state"], "succeeded");
    // It is watched on by the backend that takes it over.
    let body =
        json!({ "id": "over", "command": ["sh", "-c", HOLD], "bounds": { "silence": "1s" } });
    submit(&backend, &body).await;
    reaches(&backend, "over", "running").await;
    backend.kill_and_restart().await;
    is(&ended(&backend, "over").await, "timed_out", "silence", 1);
    orket_tests::convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn defaults_come_from_the_configuration_and_are_kept_with_the_run() {
    let config =
        "[runs]\nwaiting_timeout = \"2h\"\ntotal_timeout = \"3h\"\nretry_delay = \"250ms\"\n";
    let backend = Backend::start(config).await;
    let body = json!({ "command": ["true"], "bounds": { "total": "1h" } });
    let id = submit(&backend, &body).await;
    let bounds = run(&backend, &id).await["bounds"].clone();
    assert_eq!(
        bounds,
        json!({ "waiting": 7200, "total": 3600, "silence": null, "retry_delay": 0.25, "retry_delay_most": 300 })
    );
    for (bounds, word) in [
        (json!({ "silence": 0 }), "bounds.silence"),
        (json!({ "waiting": "31d" }), "bounds.waiting"),
        (json!({ "total": -1 }), "negative"),
        (json!({ "retry_delay": "2d" }), "retry_delay"),
        (json!({ "nonsense": 1 }), "nonsense"),
    ] {
        let body = json!({ "command": ["true"], "bounds": bounds });
        let answer = backend.post("/v1/runs", &body).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains(word), "{}", answer.text());
    }
}
