//! Ending runs: the whole tree, and said only after looking.

use orket_tests::{Backend, convergence};
use serde_json::json;

use super::{cancel, ended, reaches, script, submit};

#[tokio::test]
async fn the_whole_tree_ends_and_a_repetition_is_fine() {
    let mut backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
    let deep = "setsid sh -c 'trap \"\" TERM; sleep 300 & sleep 301' & sleep 302";
    let id = script(&backend, deep).await;
    reaches(&backend, &id, "running").await;
    let answer = cancel(&backend, &id).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert!(["canceling", "canceled"].contains(&answer.json()["state"].as_str().unwrap()));
    let run = ended(&backend, &id).await;
    assert_eq!(
        (&run["state"], &run["reason"]),
        (&json!("canceled"), &json!("canceled")),
        "{run}"
    );
    convergence::settled(&mut backend).await;
    assert_eq!(cancel(&backend, &id).await.status, 202);
}

#[tokio::test]
async fn what_waits_is_canceled_at_once_and_never_starts() {
    let mut backend = Backend::start("[runs]\nconcurrency = 1\n").await;
    let holds = script(&backend, "sleep 300").await;
    reaches(&backend, &holds, "running").await;
    let waits = script(&backend, "touch started").await;
    assert_eq!(cancel(&backend, &waits).await.json()["state"], "canceled");
    cancel(&backend, &holds).await;
    convergence::settled(&mut backend).await;
    assert!(!backend.workspace().join("started").exists());
    assert_eq!(ended(&backend, &waits).await["attempts"], 0);
}

#[tokio::test]
async fn what_ended_otherwise_or_never_was_cannot_be_canceled() {
    let backend = Backend::start("").await;
    let id = submit(&backend, &json!({ "command": ["true"] })).await;
    ended(&backend, &id).await;
    let answer = cancel(&backend, &id).await;
    assert_eq!(
        (answer.status, answer.json()["reason"].clone()),
        (409, json!("run_ended"))
    );
    for unknown in ["no-such-run", "%ff", "-", &"x".repeat(300)] {
        assert_eq!(cancel(&backend, unknown).await.status, 404, "{unknown}");
    }
}

#[tokio::test]
async fn a_cancel_survives_a_kill_of_the_backend() {
    let mut backend = Backend::start("[runs]\ngrace = \"2s\"\n").await;
    let stubborn = "trap '' TERM; while :; do sleep 0.05; done";
    let id = script(&backend, stubborn).await;
    reaches(&backend, &id, "running").await;
    assert_eq!(cancel(&backend, &id).await.status, 202);
    backend.kill_and_restart().await;
    let run = ended(&backend, &id).await;
    assert_eq!(run["state"], "canceled", "{run}");
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_cancel_right_behind_the_submission_ends_it_long_before_the_grace_is_over() {
    // Confined as this machine can: with a namespace of its own, where it has one.
    let config = "[runs]\nconcurrency = 4\ngrace = \"30s\"\n[confinement]\nlevel = \"auto\"\n";
    let backend = Backend::start(config).await;
    for _ in 0..25 {
        let begun = std::time::Instant::now();
        let id = script(&backend, "sleep 1000").await;
        assert_eq!(cancel(&backend, &id).await.status, 202);
        let run = ended(&backend, &id).await;
        assert_eq!(run["state"], "canceled", "{run}");
        let took = begun.elapsed();
        assert!(took.as_secs() < 15, "it took {took:?}: {run}");
    }
}
