//! A backend that is started while the disk of its store is full: it listens, serves what can be read,
//! refuses the rest, and begins by itself once there is room.

use orket_tests::{Backend, DEADLINE, Request, Watch, disk::Disk, eventually};
use serde_json::json;

use crate::backend_runs::{ended, reaches, submit};

const WAITS: &str = "echo begun; while [ ! -e go ]; do sleep 0.02; done";

/// A backend whose store and state lie on a small disk of their own.
async fn on_a_small_disk() -> Option<(Backend, Disk)> {
    let mut backend = Backend::start("[store]\nurl = \"sqlite:{dir}/disk/orket.db\"\n").await;
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
    eventually("its command has begun", DEADLINE, || async {
        let logs = backend.get("/v1/runs/lives/logs").await.text();
        logs.contains("begun")
    })
    .await;
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
