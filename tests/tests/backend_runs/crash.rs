//! The backend is killed, and nothing it accepted is lost or done twice.

use std::fs;

use orket_tests::{Backend, DEADLINE, convergence, eventually, wait::obtain};
use serde_json::json;

use super::{ended, reaches, run, script, submit, text};

#[tokio::test]
async fn what_runs_is_adopted_and_what_waits_runs_later() {
    let mut backend = Backend::start("[runs]\nconcurrency = 4\n").await;
    let slow = "echo before; while [ ! -e go ]; do sleep 0.02; done; echo after; echo x >> done";
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(script(&backend, slow).await);
    }
    for id in &ids {
        reaches(&backend, id, "running").await;
    }
    for _ in 0..4 {
        ids.push(script(&backend, slow).await);
    }
    backend.kill().await;
    // They end while nobody looks.
    fs::write(backend.workspace().join("go"), "").unwrap();
    backend.restart().await;
    for id in &ids {
        let run = ended(&backend, id).await;
        assert_eq!(
            (&run["state"], &run["attempts"]),
            (&json!("succeeded"), &json!(1)),
            "{run}"
        );
        assert_eq!(text(&backend, id).await, "before\nafter\n");
    }
    let done = fs::read_to_string(backend.workspace().join("done")).unwrap();
    assert_eq!(
        done.lines().count(),
        ids.len(),
        "a command was executed twice, or not at all"
    );
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_storm_of_kills_loses_nothing() {
    let mut backend = Backend::start("[runs]\nconcurrency = 8\n").await;
    let mut ids = Vec::new();
    for round in 0..6 {
        for n in 0..10 {
            let body = json!({
                "id": format!("r{round}-{n}"),
                "command": ["sh", "-c", format!("echo r{round}-{n} >> done; sleep 0.0{n}")],
            });
            ids.push(submit(&backend, &body).await);
        }
        backend.kill_and_restart().await;
    }
    convergence::settled(&mut backend).await;
    for id in &ids {
        let run = run(&backend, id).await;
        assert_eq!(run["state"], "succeeded", "{run}");
    }
    let done = fs::read_to_string(backend.workspace().join("done")).unwrap();
    let mut done: Vec<_> = done.lines().map(str::to_owned).collect();
    done.sort_unstable();
    ids.sort_unstable();
    assert_eq!(done, ids, "each command is executed exactly once");
}

#[tokio::test]
async fn a_graceful_stop_spends_no_attempt() {
    let mut backend = Backend::start("").await;
    let waits = "touch begun; while [ ! -e go ]; do sleep 0.02; done; echo end";
    let id = script(&backend, waits).await;
    let begun = backend.workspace().join("begun");
    eventually("it has begun", DEADLINE, || async { begun.exists() }).await;
    assert!(backend.terminate().await.success());
    backend.restart().await;
    assert_eq!(run(&backend, &id).await["state"], "running");
    fs::write(backend.workspace().join("go"), "").unwrap();
    let run = ended(&backend, &id).await;
    assert_eq!(
        (&run["state"], &run["attempts"]),
        (&json!("succeeded"), &json!(1)),
        "{run}"
    );
}

#[tokio::test]
async fn a_stop_cancels_where_that_is_configured() {
    let mut backend = Backend::start("[runs]\non_stop = \"cancel\"\ngrace = \"1s\"\n").await;
    let id = script(&backend, "sleep 300").await;
    reaches(&backend, &id, "running").await;
    assert!(backend.terminate().await.success());
    convergence::gone(&backend).await;
    backend.restart().await;
    assert_eq!(run(&backend, &id).await["state"], "canceled");
}

#[tokio::test]
async fn a_killed_supervisor_is_a_lost_run() {
    let mut backend = Backend::start("").await;
    let id = script(&backend, "sleep 300").await;
    reaches(&backend, &id, "running").await;
    let own = backend.program().pid();
    let supervisor = obtain("its supervisor", DEADLINE, || async {
        orket_tests::program::processes_under(backend.dir())
            .into_iter()
            .filter(|pid| *pid != own)
            .find(|pid| {
                let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.split('\0').nth(1) == Some("supervise")
            })
    })
    .await;
    let pid = rustix::process::Pid::from_raw(supervisor.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let run = ended(&backend, &id).await;
    assert_eq!(
        (&run["state"], &run["reason"]),
        (&json!("lost"), &json!("supervisor_lost")),
        "{run}"
    );
    convergence::settled(&mut backend).await;
}
