//! Commands that work against being ended or watched over.

use std::os::unix::fs::PermissionsExt as _;

use orket_tests::{
    Backend, DEADLINE, convergence, eventually,
    program::{self, Program},
    wait::obtain,
    wire::{Address, Connection},
};
use serde_json::json;

use super::{cancel, ended, reaches, script, submit, text};

/// Leaves a process without session, group, environment or supervisor, whose number is in `pid`.
const ESCAPE: &str = "env -i PATH=\"$PATH\" setsid sh -c 'echo $$ > pid; exec sleep 1000' & \
     while [ ! -s pid ]; do sleep 0.01; done; kill -9 $PPID; sleep 1000";

fn exists(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid).exists()
}

#[tokio::test]
async fn what_outlives_a_killed_supervisor_is_ended_before_the_run_is_lost() {
    let mut backend = Backend::start("").await;
    let witness = script(&backend, "sleep 1000").await;
    reaches(&backend, &witness, "running").await;
    let id = script(&backend, ESCAPE).await;
    let run = ended(&backend, &id).await;
    assert_eq!(run["state"], "lost", "{run}");
    let pid = std::fs::read_to_string(backend.workspace().join("pid")).unwrap();
    assert!(!exists(pid.trim()), "not even as a zombie");
    let other = super::run(&backend, &witness).await;
    assert_eq!(other["state"], "running", "others are left alone");
    cancel(&backend, &witness).await;
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_run_that_removes_its_attempt_is_canceled_like_any_other() {
    let mut backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
    let id = script(
        &backend,
        "rm -rf \"$(dirname \"$TMPDIR\")\"; touch gone; exec sleep 1000",
    )
    .await;
    let gone = backend.workspace().join("gone");
    eventually("the attempt is removed", DEADLINE, || async {
        gone.exists()
    })
    .await;
    assert_eq!(cancel(&backend, &id).await.status, 202);
    assert_eq!(ended(&backend, &id).await["state"], "canceled");
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_run_that_removes_its_attempt_does_not_outlive_a_restart_unseen() {
    let mut backend = Backend::start("").await;
    let script_text =
        "echo $$ > pid; rm -rf \"$(dirname \"$TMPDIR\")\"; touch gone; exec sleep 1000";
    let id = script(&backend, script_text).await;
    let gone = backend.workspace().join("gone");
    eventually("the attempt is removed", DEADLINE, || async {
        gone.exists()
    })
    .await;
    reaches(&backend, &id, "running").await;
    // Its supervisor is in the store once its attempt counts as started.
    eventually("it is known to have started", DEADLINE, || async {
        super::run(&backend, &id).await["attempt_list"][0]["state"] == "started"
    })
    .await;
    backend.kill_and_restart().await;
    assert_eq!(ended(&backend, &id).await["state"], "lost");
    let pid = std::fs::read_to_string(backend.workspace().join("pid")).unwrap();
    assert!(!exists(pid.trim()));
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_supervisor_killed_before_it_took_its_attempt_on_costs_none() {
    let mut backend = Backend::start("").await;
    let script_text = "touch begun; while [ ! -e go ]; do sleep 0.02; done";
    let id = script(&backend, script_text).await;
    let begun = backend.workspace().join("begun");
    eventually("it has begun", DEADLINE, || async { begun.exists() }).await;
    eventually("it is known to have started", DEADLINE, || async {
        super::run(&backend, &id).await["attempt_list"][0]["state"] == "started"
    })
    .await;
    backend.kill().await;
    // As a supervisor leaves it that is in the store, and came no further.
    let claim = backend
        .state_dir()
        .join(format!("attempts/{id}.1/claim.json"));
    let text = std::fs::read_to_string(&claim).unwrap();
    let supervisor: serde_json::Value = serde_json::from_str(&text).unwrap();
    let pid = supervisor["supervisor"]["pid"].to_string();
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid])
        .status();
    assert!(killed.unwrap().success());
    std::fs::remove_file(&claim).unwrap();
    backend.restart().await;
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    let run = ended(&backend, &id).await;
    assert_eq!(
        (&run["state"], &run["attempts"]),
        (&json!("succeeded"), &json!(1)),
        "{run}"
    );
    let first = &run["attempt_list"][0]["exit"]["kind"];
    assert_eq!(first, "never_started", "{run}");
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_run_that_removes_its_output_is_followed_after_a_restart() {
    let mut backend = Backend::start("").await;
    let script_text = "rm \"$(dirname \"$TMPDIR\")/output\"; echo x >> begun; \
         while [ ! -e go ]; do sleep 0.02; done";
    let body = json!({ "command": ["sh", "-c", script_text], "retries": 1 });
    let id = submit(&backend, &body).await;
    let begun = backend.workspace().join("begun");
    eventually("it has begun", DEADLINE, || async { begun.exists() }).await;
    backend.kill_and_restart().await;
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    let run = ended(&backend, &id).await;
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(std::fs::read_to_string(begun).unwrap(), "x\n");
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_stopped_supervisor_keeps_no_run_from_its_timeout_or_a_restart() {
    let mut backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
    let stop = "touch stopped; kill -STOP $PPID; exec sleep 1000";
    let body = json!({ "command": ["sh", "-c", stop], "timeout": "1s" });
    let id = submit(&backend, &body).await;
    let stopped = backend.workspace().join("stopped");
    eventually("it is stopped", DEADLINE, || async { stopped.exists() }).await;
    backend.kill_and_restart().await;
    assert_eq!(ended(&backend, &id).await["state"], "timed_out");
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn an_attempt_without_a_record_is_ended_and_forgotten_at_the_start() {
    let mut backend = Backend::start("").await;
    let id = script(&backend, "exec sleep 1000").await;
    reaches(&backend, &id, "running").await;
    backend.kill().await;
    let attempts = backend.state_dir().join("attempts");
    for suffix in ["", "-wal", "-shm"] {
        let mut file = backend.database().into_os_string();
        file.push(suffix);
        // The last two may have been cleared away.
        let removed = std::fs::remove_file(file);
        assert!(removed.is_ok() || !suffix.is_empty());
    }
    backend.restart().await;
    eventually("nothing of it is left", DEADLINE, || async {
        std::fs::read_dir(&attempts).unwrap().next().is_none()
    })
    .await;
    convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_process_without_a_trace_of_its_run_does_not_reach_the_socket() {
    let backend = Backend::start("").await;
    let socket = backend.dir().join("backend.sock");
    let ask = format!(
        "env -i PATH=\"$PATH\" setsid sh -c 'curl -sS -m 5 --unix-socket {} http://x/health; echo; \
         echo over' 2>&1",
        socket.display()
    );
    let id = script(&backend, &ask).await;
    let said = obtain("an answer", DEADLINE, || async {
        let said = text(&backend, &id).await;
        said.contains("over").then_some(said)
    })
    .await;
    assert!(!said.contains("\"ok\""), "{said}");
}

#[tokio::test]
async fn one_that_became_an_admitted_user_does_not_reach_the_socket() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let backend = Backend::start("[listen]\npeers = [\"65534\"]\n").await;
    let socket = backend.dir().join("backend.sock");
    let open = std::fs::Permissions::from_mode(0o777);
    for path in [backend.dir(), &socket] {
        std::fs::set_permissions(path, open.clone()).unwrap();
    }
    let ask = format!(
        "setpriv --reuid=65534 --clear-groups curl -sS -m 5 --unix-socket {} http://x/health 2>&1; \
         echo; echo over",
        socket.display()
    );
    let id = script(&backend, &ask).await;
    ended(&backend, &id).await;
    let said = text(&backend, &id).await;
    assert!(said.contains("over") && !said.contains("\"ok\""), "{said}");
}

#[tokio::test]
async fn a_start_that_finds_leavings_is_taken_back_and_made_again() {
    let backend = Backend::start("").await;
    let attempts = backend.state_dir().join("attempts");
    std::fs::create_dir(attempts.join("one.1")).unwrap();
    submit(&backend, &json!({ "id": "one", "command": ["true"] })).await;
    let run = ended(&backend, "one").await;
    assert_eq!(run["state"], "succeeded", "{run}");
    assert!(!attempts.join("one.1").exists());
}

#[tokio::test]
async fn idle_connections_keep_no_run_from_starting() {
    runs_start_beside(b"").await;
}

#[tokio::test]
async fn websockets_keep_no_run_from_starting() {
    let handshake =
        b"GET /ws/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    runs_start_beside(handshake).await;
}

/// Runs start beside more connections than there are descriptors, each of which has sent this.
async fn runs_start_beside(sent: &[u8]) {
    let dir = tempfile::TempDir::new().unwrap();
    let place = dir.path().display();
    let config = dir.path().join("backend.toml");
    let text = format!(
        "[listen]\naddress = \"unix:{place}/b.sock\"\n[store]\nurl = \"sqlite:{place}/o.db\"\n\
         [workspace]\ndir = \"{place}/workspace\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "ulimit -n 96; exec \"$@\"", "sh"])
        .arg(program::path_of("orket-backend"))
        .arg("serve")
        .arg("--config")
        .arg(&config);
    let mut program = Program::spawn(command);
    let address = Address::parse(&program.ready("orket-backend listening on ").await);
    let mut first = Connection::open(&address).await;
    let mut ask = async |method: &str, target: &str, body: &str| {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        first.send(head.as_bytes()).await;
        first.answer().await
    };
    assert_eq!(ask("GET", "/health", "").await.status, 200);
    let mut idle = Vec::new();
    for _ in 0..150 {
        let mut connection = Connection::open(&address).await;
        connection.send(sent).await;
        idle.push(connection);
    }
    for n in 0..5 {
        let body = json!({ "id": format!("r{n}"), "command": ["true"] }).to_string();
        assert_eq!(ask("POST", "/v1/runs", &body).await.status, 201);
        let run = loop {
            let run = ask("GET", &format!("/v1/runs/r{n}"), "").await.json();
            if super::FINAL.iter().any(|state| run["state"] == *state) {
                break run;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert_eq!(run["state"], "succeeded", "{run}");
    }
    drop(idle);
    assert!(program.terminate().await.success());
}
