//! Commands that work against the machine: what they do costs them, and nobody else.

use orket_tests::{
    Backend, DEADLINE,
    convergence::{invariants, work},
    disk::Disk,
    eventually,
};
use serde_json::{Value, json};

use super::{exists, order};
use crate::backend_runs::{cancel, ended, reaches, script, submit};

async fn quick(backend: &Backend, id: &str) {
    let id = submit(backend, &order(id, "true", &json!({}))).await;
    let run = ended(backend, &id).await;
    assert_eq!(run["state"], "succeeded", "{run}");
}

#[tokio::test]
async fn one_that_does_not_listen_is_killed_after_its_grace() {
    let mut backend = Backend::start("[runs]\ngrace = \"200ms\"\n").await;
    let deaf = "trap '' TERM INT HUP; touch \"deaf-$0\"; while :; do sleep 0.05; done";
    let timed = order("timed", deaf, &json!({ "timeout": "500ms" }));
    let canceled = order("canceled", deaf, &json!({}));
    for body in [timed, canceled] {
        submit(&backend, &body).await;
    }
    exists(&backend.workspace().join("deaf-canceled")).await;
    cancel(&backend, "canceled").await;
    for (id, state) in [("timed", "timed_out"), ("canceled", "canceled")] {
        assert_eq!(ended(&backend, id).await["state"], state);
    }
    invariants(&mut backend, &["timed".into(), "canceled".into()]).await;
}

#[tokio::test]
async fn what_forks_twice_into_sessions_of_its_own_is_ended_with_its_run() {
    let mut backend = Backend::start("[runs]\ngrace = \"200ms\"\n").await;
    let daemon = "trap '' TERM; echo $$ >> pids; cd /; while :; do sleep 0.05; done";
    let twice = format!(
        "for n in 1 2 3; do (setsid env -i PATH=\"$PATH\" sh -c '{daemon}' &) & done; \
         while [ \"$(wc -l < pids)\" -lt 3 ]; do sleep 0.02; done; touch all; {{}}"
    );
    let lives = twice.replace("{}", "sleep 1000");
    let leaves = twice.replace("{}", "true").replace("all", "others");
    let pids = || std::fs::read_to_string(backend.workspace().join("pids")).unwrap_or_default();
    let id = script(&backend, &format!("touch pids; {lives}")).await;
    exists(&backend.workspace().join("all")).await;
    cancel(&backend, &id).await;
    assert_eq!(ended(&backend, &id).await["state"], "canceled");
    let first = pids();
    std::fs::write(backend.workspace().join("pids"), "").unwrap();
    // One that ends by itself leaves nothing behind either.
    let id = script(&backend, &leaves).await;
    assert_eq!(ended(&backend, &id).await["state"], "succeeded");
    let all = first + &pids();
    assert_eq!(all.lines().count(), 6);
    for pid in all.lines() {
        let there = std::path::Path::new("/proc").join(pid).exists();
        assert!(!there, "process {pid} is left");
    }
    invariants(&mut backend, &[]).await;
}

/// Forks until it has made 255 processes, whatever bounds it: the machine has to live on.
const BOMB: &str = "bomb() { if [ \"$1\" -ge 7 ]; then trap '' TERM; sleep 300; return; fi; \
     bomb $(($1 + 1)) & bomb $(($1 + 1)) & wait; }; touch lit; bomb 0";

#[tokio::test]
async fn a_fork_bomb_is_ended_whole_and_others_run_meanwhile() {
    let mut backend = Backend::start("[runs]\ngrace = \"200ms\"\n").await;
    let id = submit(&backend, &order("bomb", BOMB, &json!({}))).await;
    exists(&backend.workspace().join("lit")).await;
    quick(&backend, "beside").await;
    assert_eq!(backend.get("/health").await.status, 200);
    cancel(&backend, &id).await;
    assert_eq!(ended(&backend, &id).await["state"], "canceled");
    invariants(&mut backend, &["bomb".into(), "beside".into()]).await;
}

#[tokio::test]
async fn a_flood_of_output_costs_what_it_may_and_keeps_nobody_waiting() {
    let mut backend = Backend::start("[runs]\noutput_limit = \"256KiB\"\n").await;
    let id = submit(&backend, &order("flood", "yes flood", &json!({}))).await;
    reaches(&backend, &id, "running").await;
    quick(&backend, "beside").await;
    eventually("the flood is at its cap", DEADLINE, || async {
        let logs = format!("/v1/runs/{id}/logs?after=0&limit=500");
        backend.get(&logs).await.text().contains("flood")
    })
    .await;
    assert_eq!(backend.get("/health").await.status, 200);
    cancel(&backend, &id).await;
    let run = ended(&backend, &id).await;
    assert_eq!(run["state"], "canceled");
    assert!(
        run["attempt_list"][0]["dropped_bytes"].as_u64() > Some(0),
        "{run}"
    );
    invariants(&mut backend, &["flood".into(), "beside".into()]).await;
}

#[tokio::test]
async fn one_that_closes_its_output_runs_to_its_end() {
    let mut backend = Backend::start("").await;
    let quiet = "echo before; exec >&- 2>&- <&-; while [ ! -e go ]; do sleep 0.02; done";
    let id = submit(&backend, &order("quiet", quiet, &json!({}))).await;
    reaches(&backend, &id, "running").await;
    backend.kill_and_restart().await;
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    let run = ended(&backend, &id).await;
    assert_eq!(run["state"], "succeeded", "{run}");
    let logs = backend.get("/v1/runs/quiet/logs").await.json();
    assert_eq!(logs["items"][0]["text"], "before\n", "{logs}");
    invariants(&mut backend, &["quiet".into()]).await;
}

#[tokio::test]
async fn one_that_fills_the_workspace_fails_alone() {
    let config = "[workspace]\ndir = \"{dir}/small/workspace\"\n";
    let mut backend = Backend::start(config).await;
    backend.kill().await;
    let Some(_disk) = Disk::small(&backend.dir().join("small"), "2m") else {
        return;
    };
    backend.restart().await;
    let fill = json!({ "command": ["dd", "if=/dev/zero", "of=big", "bs=64k"], "retries": 1,
        "bounds": { "retry_delay": "10ms" } });
    let run = ended(&backend, &submit(&backend, &fill).await).await;
    assert_eq!(
        (&run["state"], &run["attempts"]),
        (&json!("failed"), &json!(2)),
        "{run}"
    );
    // The store lies elsewhere: all else goes on.
    let other: Value = ended(&backend, &script(&backend, "rm big; echo well").await).await;
    assert_eq!(other["state"], "succeeded", "{other}");
    let body = json!({ "command": work("after", "true") });
    assert_eq!(
        ended(&backend, &submit(&backend, &body).await).await["state"],
        "succeeded"
    );
}
