//! A backend that is started while the disk of its store is full: it listens, serves what can be read,
//! refuses the rest, and begins by itself once there is room.

use std::{fs::OpenOptions, path::PathBuf};

use orket_tests::{
    Backend, DEADLINE, Request, Watch, convergence::invariants, disk::Disk, eventually,
    program::kill_processes_under, wait::obtain,
};
use serde_json::json;

use crate::backend_runs::{ended, reaches, submit};

const WAITS: &str = "echo begun; while [ ! -e go ]; do sleep 0.02; done";

/// A backend whose store and state lie on a small disk of their own.
async fn on_a_small_disk() -> Option<(Backend, Disk)> {
    on_a_small_disk_with("[store]\nurl = \"sqlite:{dir}/disk/orket.db\"\n").await
}

async fn on_a_small_disk_with(config: &str) -> Option<(Backend, Disk)> {
    let mut backend = Backend::start(config).await;
    backend.kill().await;
    let disk = Disk::small(&backend.dir().join("disk"), "6m")?;
    backend.restart().await;
    Some((backend, disk))
}

/// Everything that would change something is refused for want of room.
async fn writes_are_refused(backend: &Backend) {
    let card = json!({ "title": "t", "command": ["true"] });
    let run = json!({ "id": "new", "command": ["true"] });
    let sandbox = json!({ "services": [{ "name": "s", "command": ["true"] }] });
    let delivery = json!({});
    for (route, body) in [
        ("/v1/cards", &card),
        ("/v1/runs", &run),
        ("/v1/runs/lives/cancel", &delivery),
        ("/v1/sandboxes", &sandbox),
        ("/v1/queues/default/pause", &delivery),
        ("/webhook/gitea", &delivery),
    ] {
        let answer = backend.post(route, body).await;
        assert_eq!(answer.status, 507, "{route}: {}", answer.text());
        assert_eq!(answer.json()["reason"], "store_full", "{route}");
        assert!(answer.header("retry-after").is_some(), "{route}");
    }
    let removal = Request::new("DELETE", "/v1/cards/c");
    assert_eq!(removal.send(backend.address()).await.status, 507);
    let health = backend.get("/health").await;
    assert_eq!(health.status, 503);
    let detail = health.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("full"), "{detail}");
}

async fn has_begun(backend: &Backend, id: &str) {
    eventually("its command has begun", DEADLINE, || async {
        let logs = backend.get(&format!("/v1/runs/{id}/logs")).await.text();
        logs.contains("begun")
    })
    .await;
}

async fn is_well(backend: &Backend) {
    eventually("it is well", DEADLINE, || async {
        backend.get("/health").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn after_a_kill_it_reads_refuses_and_goes_on_by_itself() {
    let Some((mut backend, disk)) = on_a_small_disk().await else {
        return;
    };
    let order = |id: &str, script: &str| json!({ "id": id, "command": ["sh", "-c", script] });
    submit(&backend, &order("done", "echo out")).await;
    ended(&backend, "done").await;
    submit(&backend, &order("lives", WAITS)).await;
    reaches(&backend, "lives", "running").await;
    has_begun(&backend, "lives").await;
    let filler = disk.fill();
    // Twice: what it does about it makes nothing worse.
    for _ in 0..2 {
        backend.kill().await;
        backend.restart().await;
        let done = backend.get("/v1/runs/done").await;
        assert_eq!(done.status, 200, "{}", done.text());
        assert_eq!(done.json()["state"], "succeeded");
        let logs = backend.get("/v1/runs/done/logs").await.json();
        assert_eq!(logs["items"][0]["text"], "out\n");
        let lives = backend.get("/v1/runs/lives").await.json();
        assert_eq!(lives["state"], "running", "{lives}");
        let heartbeat = backend.get("/v1/system/heartbeat").await.json();
        assert_eq!(heartbeat["active_tasks"], 1);
        for route in ["/v1/cards", "/v1/system/metrics", "/v1/queues", "/metrics"] {
            assert_eq!(backend.get(route).await.status, 200, "{route}");
        }
        writes_are_refused(&backend).await;
    }
    let mut watch = Watch::open(backend.address(), "/v1/events", Some(0)).await;
    assert_eq!(watch.must_next().await.kind, "run.queued");
    // It ends while nobody can take it in.
    std::fs::write(backend.workspace().join("go"), "").unwrap();

    std::fs::remove_file(filler).unwrap();
    is_well(&backend).await;
    let lives = ended(&backend, "lives").await;
    assert_eq!(
        (&lives["state"], &lives["attempts"]),
        (&json!("succeeded"), &json!(1)),
        "{lives}"
    );
    submit(&backend, &order("new", "true")).await;
    assert_eq!(ended(&backend, "new").await["state"], "succeeded");
    assert!(backend.output().contains("\"has_room\""));
    assert!(backend.terminate().await.success());
}

#[tokio::test]
async fn after_a_stop_it_says_why_nothing_can_be_read_and_goes_on_by_itself() {
    let Some((mut backend, disk)) = on_a_small_disk().await else {
        return;
    };
    let order = json!({ "id": "done", "command": ["true"] });
    submit(&backend, &order).await;
    ended(&backend, "done").await;
    assert!(backend.terminate().await.success());
    // The files by which the store is read beside being written are gone: new ones need room.
    let filler = disk.fill();
    backend.restart().await;
    assert_eq!(backend.get("/v1/version").await.status, 200);
    let unread = backend.get("/v1/runs/done").await;
    assert_eq!(unread.status, 503, "{}", unread.text());
    assert_eq!(unread.json()["reason"], "store_unavailable");
    writes_are_refused(&backend).await;
    // A stop is heard.
    assert!(backend.terminate().await.success());
    backend.restart().await;
    std::fs::remove_file(filler).unwrap();
    is_well(&backend).await;
    assert_eq!(ended(&backend, "done").await["state"], "succeeded");
    submit(&backend, &json!({ "id": "new", "command": ["true"] })).await;
    assert_eq!(ended(&backend, "new").await["state"], "succeeded");
}

/// A number of runs whose end takes more room to record than is left, and what leaves only that.
async fn too_much_to_settle(backend: &mut Backend, disk: &Disk) -> (Vec<String>, PathBuf) {
    let ids: Vec<String> = (0..16).map(|n| format!("lost-{n}")).collect();
    for id in &ids {
        let pad = "x".repeat(40_000);
        let order = json!({ "id": id, "command": ["sh", "-c", WAITS], "env": { "PAD": pad } });
        submit(backend, &order).await;
        has_begun(backend, id).await;
    }
    backend.kill().await;
    kill_processes_under(backend.dir());
    // Nothing is left to be followed: what became of them is recorded by the start itself.
    std::fs::remove_dir_all(backend.state_dir().join("attempts")).unwrap();
    // Without a log whose room could be used again.
    let store = rusqlite::Connection::open(backend.database()).unwrap();
    let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
    store.query_row(truncate, [], |_| Ok(())).unwrap();
    drop(store);
    let filler = disk.fill();
    let file = OpenOptions::new().write(true).open(&filler).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - (300 << 10)).unwrap();
    (ids, filler)
}

#[tokio::test]
async fn a_start_that_cannot_record_all_it_settles_listens_stops_and_converges() {
    let config = "[store]\nurl = \"sqlite:{dir}/disk/orket.db\"\n[runs]\nconcurrency = 16\n";
    let Some((mut backend, disk)) = on_a_small_disk_with(config).await else {
        return;
    };
    let (ids, filler) = too_much_to_settle(&mut backend, &disk).await;
    // As often as it is started.
    for _ in 0..2 {
        backend.restart().await;
        assert_eq!(backend.get("/v1/version").await.status, 200);
        let lost = "the store does not take its end; trying again";
        assert!(backend.output().contains(lost), "{}", backend.output());
        let open = backend.get("/v1/runs?state=running&limit=500").await.json();
        assert_ne!(open["items"], json!([]), "all of it was recorded");
        let pad =
            json!({ "title": "t", "command": ["true"], "env": { "PAD": "x".repeat(60_000) } });
        obtain("a write is refused", DEADLINE, || async {
            let answer = backend.post("/v1/cards", &pad).await;
            matches!(answer.status, 503 | 507).then_some(())
        })
        .await;
        assert!(backend.terminate().await.success());
    }
    backend.restart().await;
    std::fs::remove_file(filler).unwrap();
    is_well(&backend).await;
    for id in &ids {
        let run = ended(&backend, id).await;
        assert_eq!(run["state"], "lost", "{run}");
    }
    invariants(&mut backend, &ids).await;
}
