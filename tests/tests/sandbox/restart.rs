//! A killed backend finds its sandboxes again, and nothing of them is lost.

use orket_tests::{Backend, DEADLINE, eventually, program::processes_under};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::*;

fn kill(pid: u32) {
    kill_process(
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
}

/// The supervisors of a sandbox's services, by their command line.
fn supervisors(backend: &Backend, id: &str) -> Vec<u32> {
    processes_under(&backend.state_dir().join("sandboxes/attempts"))
        .into_iter()
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"orket-supervisor\0") && String::from_utf8_lossy(&line).contains(id)
        })
        .collect()
}

#[tokio::test]
async fn a_living_sandbox_is_taken_over_with_its_ports() {
    let mut backend = Backend::start(&config(60)).await;
    let created = create(&backend, &json!({ "services": [api()] })).await;
    let id = id(&created).to_owned();
    reaches(&backend, &id, "running").await;
    let pid = ask(26_000, "/").await.unwrap();

    backend.kill().await;
    assert_eq!(
        ask(26_000, "/").await.as_deref(),
        Some(pid.as_str()),
        "it lives on alone"
    );
    backend.restart().await;

    let sandbox = look(&backend, &id).await;
    assert_eq!(
        (sandbox["state"].as_str(), port(&sandbox, 0)),
        (Some("running"), 26_000)
    );
    assert_eq!(listed(&backend).await, [id.as_str()]);
    assert_eq!(
        ask(26_000, "/").await.as_deref(),
        Some(pid.as_str()),
        "the same process"
    );
    assert!(logs(&backend, &id, "").await.contains("listening on 26000"));
    let second = create(&backend, &json!({ "services": [api()] })).await;
    assert_eq!(port(&second, 0), 26_001, "its port is still its own");

    // What happens from now on is seen by the new backend.
    std::fs::write(folder(&backend, &id).join("work/sick"), "").unwrap();
    reaches(&backend, &id, "unhealthy").await;
    delete(&backend, &id).await;
    reaches(&backend, &id, "deleted").await;
    assert!(is_free(26_000) && !Path::new(&format!("/proc/{pid}")).exists());
    assert!(supervisors(&backend, &id).is_empty());
}

#[tokio::test]
async fn a_service_that_died_meanwhile_is_noticed() {
    let mut backend = Backend::start(&config(61)).await;
    let created = create(&backend, &json!({ "services": [api()] })).await;
    let other = create(&backend, &json!({ "services": [api()] })).await;
    reaches(&backend, id(&created), "running").await;
    reaches(&backend, id(&other), "running").await;
    backend.kill().await;
    ask(26_100, "/exit").await;
    let pid: u32 = ask(26_101, "/").await.unwrap().parse().unwrap();
    for supervisor in supervisors(&backend, id(&other)) {
        kill(supervisor);
    }
    eventually(
        "the service is gone with its supervisor",
        DEADLINE,
        || async { !Path::new(&format!("/proc/{pid}")).exists() },
    )
    .await;
    backend.restart().await;
    assert_eq!(
        reaches(&backend, id(&created), "failed").await["reason"],
        "service_exited"
    );
    assert_eq!(
        reaches(&backend, id(&other), "failed").await["reason"],
        "service_vanished"
    );
    eventually("both ports are given back", DEADLINE, || async {
        look(&backend, id(&created)).await["ended_at"].is_string()
            && look(&backend, id(&other)).await["ended_at"].is_string()
    })
    .await;
    let next = create(&backend, &json!({ "services": [api()] })).await;
    assert_eq!(port(&next, 0), 26_100);
}

#[tokio::test]
async fn a_service_that_removes_its_attempt_does_not_outlive_a_restart_unseen() {
    let mut backend = Backend::start(&config(65)).await;
    let script = "echo $$ > pid; rm -rf \"$(dirname \"$TMPDIR\")\"; touch gone; exec sleep 1000";
    let service = json!({ "name": "a", "command": ["sh", "-c", script] });
    let created = create(&backend, &json!({ "services": [service] })).await;
    let id = id(&created).to_owned();
    reaches(&backend, &id, "running").await;
    let work = folder(&backend, &id).join("work");
    eventually("its files are gone", DEADLINE, || async {
        work.join("gone").exists()
    })
    .await;
    let pid = std::fs::read_to_string(work.join("pid")).unwrap();
    backend.kill_and_restart().await;
    assert_eq!(
        reaches(&backend, &id, "failed").await["reason"],
        "service_vanished"
    );
    eventually("its end is recorded", DEADLINE, || async {
        look(&backend, &id).await["ended_at"].is_string()
    })
    .await;
    let there = Path::new("/proc").join(pid.trim()).exists();
    assert!(!there, "it lives on, and nobody knows");
    delete(&backend, &id).await;
    reaches(&backend, &id, "deleted").await;
}

#[tokio::test]
async fn one_that_was_being_created_is_brought_to_its_end() {
    let mut backend = Backend::start(&config(62)).await;
    // Nobody listens, so it stays where it is.
    let service = json!({ "name": "a", "command": ["sleep", "1000"], "role": "api" });
    let created = create(&backend, &json!({ "services": [service] })).await;
    let id = id(&created).to_owned();
    eventually("its service was begun", DEADLINE, || async {
        !supervisors(&backend, &id).is_empty()
    })
    .await;
    backend.kill_and_restart().await;
    assert_eq!(
        reaches(&backend, &id, "failed").await["reason"],
        "interrupted"
    );
    eventually("nothing of it lives", DEADLINE, || async {
        look(&backend, &id).await["ended_at"].is_string() && supervisors(&backend, &id).is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_end_that_was_asked_for_is_finished_by_the_next_start() {
    let mut backend = Backend::start(&config(63)).await;
    let deaf = "trap '' TERM; while :; do sleep 1000; done";
    let service = json!({ "name": "a", "command": ["sh", "-c", deaf] });
    let stopped = create(&backend, &json!({ "services": [service] })).await;
    let deleted = create(&backend, &json!({ "services": [service] })).await;
    for sandbox in [&stopped, &deleted] {
        reaches(&backend, id(sandbox), "running").await;
    }
    assert_eq!(post(&backend, id(&stopped), "stop").await.status, 202);
    assert_eq!(delete(&backend, id(&deleted)).await.status, 202);
    backend.kill_and_restart().await;
    reaches(&backend, id(&stopped), "stopped").await;
    reaches(&backend, id(&deleted), "deleted").await;
    assert!(supervisors(&backend, "sbx_").is_empty());
    assert!(!folder(&backend, id(&deleted)).exists() && folder(&backend, id(&stopped)).exists());
}

#[tokio::test]
async fn kills_at_any_moment_leave_every_sandbox_with_an_end() {
    let mut backend = Backend::start(&config(64)).await;
    let mut ids = Vec::new();
    for round in 0..6_u64 {
        let first = create(&backend, &json!({ "services": [api()] })).await;
        ids.push(id(&first).to_owned());
        if round % 2 == 1 {
            delete(&backend, &ids[ids.len() - 2]).await;
        }
        // Not a wait for something: the kill shall fall somewhere else each time.
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        backend.kill_and_restart().await;
    }
    for id in &ids {
        delete(&backend, id).await;
    }
    for id in &ids {
        reaches(&backend, id, "deleted").await;
    }
    assert!(listed(&backend).await.is_empty());
    assert!((26_400..26_410).all(is_free));
    assert!(supervisors(&backend, "sbx_").is_empty());
    for sub in ["boxes", "attempts"] {
        let left: Vec<_> = std::fs::read_dir(backend.state_dir().join("sandboxes").join(sub))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "{sub}: {left:?}");
    }
}
