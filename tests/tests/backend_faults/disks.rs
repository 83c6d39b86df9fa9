//! Disks that are full, or may only be read.

use std::path::Path;

use orket_tests::{
    Answer, Backend, DEADLINE,
    convergence::invariants,
    disk::{Disk, mount, ran, unmount},
    eventually,
};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{begun, order};
use crate::backend_runs::{ended, reaches, submit};

/// Makes a folder one that may only be read, on a disk of its own.
fn read_only(dir: &Path) {
    let text = dir.display().to_string();
    assert!(mount(&["--bind", &text], dir));
    assert!(mount(&["-o", "remount,ro,bind"], dir));
}

/// A backend whose store and state lie on a small disk of their own.
async fn on_a_small_disk() -> Option<(Backend, Disk)> {
    on_a_disk(|dir| Disk::small(dir, "6m")).await
}

/// The same on one with a journal, on blocks.
async fn on_a_disk_of_blocks() -> Option<(Backend, Disk)> {
    on_a_disk(Disk::of_blocks).await
}

async fn on_a_disk(disk: impl FnOnce(&Path) -> Option<Disk>) -> Option<(Backend, Disk)> {
    let mut backend = Backend::start("[store]\nurl = \"sqlite:{dir}/disk/orket.db\"\n").await;
    backend.kill().await;
    let disk = disk(&backend.dir().join("disk"))?;
    backend.restart().await;
    Some((backend, disk))
}

/// A run that lives until [`go`].
async fn lives(backend: &Backend, more: &Value) {
    submit(backend, &order("lives", WAITS, more)).await;
    reaches(backend, "lives", "running").await;
    begun(backend, "lives").await;
}

fn go(backend: &Backend) {
    std::fs::write(backend.workspace().join("go"), "").unwrap();
}

/// Waits until it has succeeded, at the first attempt.
async fn succeeds_at_once(backend: &Backend, id: &str) {
    let run = ended(backend, id).await;
    assert_eq!(
        (&run["state"], &run["attempts"]),
        (&json!("succeeded"), &json!(1)),
        "{run}"
    );
}

fn refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["reason"], reason, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
}

const WAITS: &str = "while [ ! -e go ]; do sleep 0.02; done";

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_loses_nothing_that_was_promised() {
    let Some((mut backend, disk)) = on_a_small_disk().await else {
        return;
    };
    submit(&backend, &order("done", "echo out", &json!({}))).await;
    ended(&backend, "done").await;
    lives(&backend, &json!({})).await;

    let filler = disk.fill();
    let more = json!({ "env": { "PAD": "x".repeat(40_000) } });
    // What is left in pages that were there before may take one or two.
    let mut accepted = vec!["done".to_owned(), "lives".to_owned()];
    let refusal = loop {
        let id = format!("more-{}", accepted.len());
        let answer = backend.post("/v1/runs", &order(&id, "true", &more)).await;
        if answer.status != 201 {
            break answer;
        }
        accepted.push(id);
        assert!(accepted.len() < 200, "a full disk takes everything");
    };
    refused(&refusal, 507, "store_full");
    let card = json!({ "id": "c", "title": "x".repeat(100), "command": ["true"],
        "env": { "PAD": "x".repeat(40_000) } });
    refused(&backend.post("/v1/cards", &card).await, 507, "store_full");
    assert_eq!(backend.get("/health").await.status, 503);
    // Reads go on.
    let run = backend.get("/v1/runs/done").await;
    assert_eq!(
        (run.status, &run.json()["state"]),
        (200, &json!("succeeded"))
    );
    assert_eq!(backend.get("/v1/runs").await.status, 200);
    assert_eq!(backend.get("/v1/system/heartbeat").await.status, 200);
    let logs = backend.get("/v1/runs/done/logs").await.json();
    assert_eq!(logs["items"][0]["text"], "out\n");
    // It ends while nothing can be written.
    go(&backend);
    let effects = backend.workspace().join("effects");
    eventually("the command is done", DEADLINE, || async {
        std::fs::read_to_string(&effects)
            .unwrap()
            .contains("lives end")
    })
    .await;

    std::fs::remove_file(filler).unwrap();
    succeeds_at_once(&backend, "lives").await;
    eventually("it is well again", DEADLINE, || async {
        backend.get("/health").await.status == 200
    })
    .await;
    submit(&backend, &order("after", "true", &json!({}))).await;
    accepted.push("after".to_owned());
    invariants(&mut backend, &accepted).await;
    for id in accepted {
        assert_eq!(ended(&backend, &id).await["state"], "succeeded");
    }
}

#[tokio::test]
async fn a_full_disk_and_a_kill_together_lose_nothing() {
    let Some((mut backend, disk)) = on_a_small_disk().await else {
        return;
    };
    lives(&backend, &json!({})).await;
    let filler = disk.fill();
    backend.kill().await;
    go(&backend);
    std::fs::remove_file(filler).unwrap();
    backend.restart().await;
    succeeds_at_once(&backend, "lives").await;
    invariants(&mut backend, &["lives".into()]).await;
}

#[tokio::test]
async fn a_disk_that_may_only_be_read_keeps_it_from_starting_and_costs_nothing() {
    let Some((mut backend, disk)) = on_a_small_disk().await else {
        return;
    };
    submit(&backend, &order("done", "true", &json!({}))).await;
    ended(&backend, "done").await;
    eventually("its files are gone", DEADLINE, || async {
        let attempts = backend.state_dir().join("attempts");
        std::fs::read_dir(attempts).unwrap().next().is_none()
    })
    .await;
    backend.kill().await;
    disk.remount("ro");
    let ended_with = backend.restart_refused().await;
    let said = ended_with.output();
    assert!(
        said.contains("orket.db") && said.contains("ead-only"),
        "{said}"
    );
    disk.remount("rw");
    backend.restart().await;
    submit(&backend, &order("after", "true", &json!({}))).await;
    invariants(&mut backend, &["done".into(), "after".into()]).await;
}

#[tokio::test]
async fn a_run_waits_for_a_disk_that_takes_its_attempt() {
    let Some((mut backend, _disk)) = on_a_small_disk().await else {
        return;
    };
    // The folder of attempts alone: the store can still tell what becomes of them.
    let attempts = backend.state_dir().join("attempts");
    read_only(&attempts);
    submit(&backend, &order("waits", "true", &json!({}))).await;
    let taken_back = eventually("a start is taken back", DEADLINE, || async {
        let run = backend.get("/v1/runs/waits").await.json();
        run["attempt_list"][0]["exit"]["kind"] == "never_started"
    });
    taken_back.await;
    assert_eq!(backend.get("/health").await.status, 200);
    assert!(mount(&["-o", "remount,rw,bind"], &attempts));
    succeeds_at_once(&backend, "waits").await;
    unmount(&attempts);
    invariants(&mut backend, &["waits".into()]).await;
}

#[tokio::test]
async fn starts_that_are_taken_back_do_not_begin_the_wait_anew() {
    let Some((mut backend, _disk)) = on_a_small_disk().await else {
        return;
    };
    let attempts = backend.state_dir().join("attempts");
    read_only(&attempts);
    // Longer than the pause before the first start is taken back.
    let bounds = json!({ "bounds": { "waiting": "2s" } });
    submit(&backend, &order("waits", "true", &bounds)).await;
    let run = ended(&backend, "waits").await;
    assert_eq!(
        (&run["state"], &run["reason"], &run["attempts"]),
        (&json!("timed_out"), &json!("waited_too_long"), &json!(0)),
        "{run}"
    );
    let detail = run["detail"].as_str().unwrap();
    assert!(detail.contains("ead-only"), "{detail}");
    unmount(&attempts);
    invariants(&mut backend, &["waits".into()]).await;
}

#[tokio::test]
async fn a_run_waits_where_its_supervisor_cannot_take_it_on() {
    let Some((mut backend, disk)) = on_a_small_disk().await else {
        return;
    };
    submit(&backend, &order("before", "true", &json!({}))).await;
    ended(&backend, "before").await;
    // As good as full: whoever comes first, the backend or its supervisor, meets the end of it.
    let filler = disk.fill();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&filler)
        .unwrap();
    let length = file.metadata().unwrap().len();
    let mut room = 4096;
    let mut accepted = vec!["before".to_owned()];
    while room <= 128 * 1024 {
        file.set_len(length.saturating_sub(room)).unwrap();
        let id = format!("room-{room}");
        let answer = backend
            .post("/v1/runs", &order(&id, "true", &json!({})))
            .await;
        if answer.status == 201 {
            accepted.push(id);
        }
        room += 12 * 1024;
    }
    drop(file);
    std::fs::remove_file(filler).unwrap();
    for id in &accepted {
        let run = ended(&backend, id).await;
        assert_eq!(run["state"], "succeeded", "{run}");
    }
    invariants(&mut backend, &accepted).await;
}

#[tokio::test]
async fn an_attempt_on_a_disk_that_may_only_be_read_is_followed_to_its_end() {
    let Some((mut backend, _disk)) = on_a_small_disk().await else {
        return;
    };
    lives(&backend, &json!({ "retries": 1 })).await;
    backend.kill().await;
    let attempt = backend.state_dir().join("attempts/lives.1");
    read_only(&attempt);
    backend.restart().await;
    let run = backend.get("/v1/runs/lives").await.json();
    assert_eq!(run["state"], "running", "{run}");
    assert!(mount(&["-o", "remount,rw,bind"], &attempt));
    unmount(&attempt);
    go(&backend);
    succeeds_at_once(&backend, "lives").await;
    invariants(&mut backend, &["lives".into()]).await;
}

#[tokio::test]
async fn an_attempt_that_cannot_be_read_for_a_while_stays_open_and_is_taken_over_then() {
    let Some((mut backend, disk)) = on_a_small_disk().await else {
        return;
    };
    lives(&backend, &json!({ "retries": 1 })).await;
    backend.kill().await;
    let attempts = backend.state_dir().join("attempts");
    let (claim, aside) = (
        attempts.join("lives.1/claim.json"),
        disk.dir().join("claim"),
    );
    std::fs::rename(&claim, &aside).unwrap();
    // Neither read nor staked: as on a disk that fails.
    read_only(&attempts.join("lives.1"));
    backend.restart().await;
    eventually("it was asked again", DEADLINE, || async {
        backend.output().contains("it cannot be read; trying again")
    })
    .await;
    let run = backend.get("/v1/runs/lives").await.json();
    assert_eq!(run["state"], "running", "{run}");
    // By another way to the same disk, at once.
    let view = backend.dir().join("view");
    std::fs::create_dir(&view).unwrap();
    assert!(mount(&["--bind", &disk.dir().display().to_string()], &view));
    let same = |path: &Path| view.join(path.strip_prefix(disk.dir()).unwrap());
    std::fs::rename(same(&aside), same(&claim)).unwrap();
    for place in [view.clone(), attempts.join("lives.1")] {
        unmount(&place);
    }
    go(&backend);
    succeeds_at_once(&backend, "lives").await;
    invariants(&mut backend, &["lives".into()]).await;
}

/// Lets the files of the store be written no more, or again, whoever has them open. Not the index of its
/// log, which is shared memory: a disk that gives its journal up still takes that.
fn immutable(backend: &Backend, how: &str) {
    for file in ["db", "db-wal"] {
        let file = backend.database().with_extension(file);
        assert!(ran("chattr", &[how, &file.display().to_string()]));
    }
}

/// The store changes, and all of that is on the disk and moved from its log into the file itself: the
/// next write begins the log anew. What is only in memory could be changed there although nothing can
/// be written.
async fn written_and_moved(backend: &Backend, disk: &Disk) {
    let card = json!({ "id": "last", "title": "t", "command": ["true"] });
    assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    let other = Connection::open(backend.database()).unwrap();
    other.busy_timeout(DEADLINE).unwrap();
    let (left, all, moved): (i64, i64, i64) = other
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!((left, all), (0, moved), "all of it is in the file itself");
    drop(other);
    disk.sync();
}

/// Nothing new is taken in, and what is there can be looked at.
async fn only_reads_go_on(backend: &Backend) {
    let run = order("new", "true", &json!({}));
    refused(
        &backend.post("/v1/runs", &run).await,
        503,
        "store_unavailable",
    );
    let card = json!({ "id": "c", "title": "t", "command": ["true"] });
    refused(
        &backend.post("/v1/cards", &card).await,
        503,
        "store_unavailable",
    );
    assert_eq!(backend.get("/health").await.status, 503);
    let done = backend.get("/v1/runs/done").await.json();
    assert_eq!(done["state"], "succeeded", "{done}");
    let runs = backend.get("/v1/runs").await.json();
    assert!(!runs["items"].as_array().unwrap().is_empty());
    assert_eq!(backend.get("/v1/system/heartbeat").await.status, 200);
    let logs = backend.get("/v1/runs/done/logs").await.json();
    assert_eq!(logs["items"][0]["text"], "out\n");
}

#[tokio::test]
async fn a_store_that_turns_read_only_is_read_on_and_written_again_without_a_restart() {
    let Some((mut backend, disk)) = on_a_disk_of_blocks().await else {
        return;
    };
    submit(&backend, &order("done", "echo out", &json!({}))).await;
    ended(&backend, "done").await;
    lives(&backend, &json!({})).await;
    written_and_moved(&backend, &disk).await;
    immutable(&backend, "+i");
    for _ in 0..3 {
        only_reads_go_on(&backend).await;
    }
    go(&backend);
    let effects = backend.workspace().join("effects");
    eventually("the command is done", DEADLINE, || async {
        std::fs::read_to_string(&effects)
            .unwrap()
            .contains("lives end")
    })
    .await;
    only_reads_go_on(&backend).await;
    immutable(&backend, "-i");
    succeeds_at_once(&backend, "lives").await;
    eventually("it is well again", DEADLINE, || async {
        backend.get("/health").await.status == 200
    })
    .await;
    submit(&backend, &order("after", "true", &json!({}))).await;
    let accepted = ["done", "lives", "after"].map(str::to_owned);
    invariants(&mut backend, &accepted).await;
}

#[tokio::test]
async fn a_disk_that_gives_its_journal_up_is_read_on_and_nothing_is_lost_when_it_is_mounted_anew() {
    let Some((mut backend, disk)) = on_a_disk_of_blocks().await else {
        return;
    };
    submit(&backend, &order("done", "echo out", &json!({}))).await;
    ended(&backend, "done").await;
    eventually("its files are gone", DEADLINE, || async {
        let attempts = backend.state_dir().join("attempts");
        std::fs::read_dir(attempts).unwrap().next().is_none()
    })
    .await;
    written_and_moved(&backend, &disk).await;
    disk.give_up();
    for _ in 0..3 {
        only_reads_go_on(&backend).await;
    }
    // The kernel lets nobody write to it again before that.
    backend.kill().await;
    let dir = disk.dir().to_owned();
    drop(disk);
    let _disk = Disk::again(&dir).unwrap();
    backend.restart().await;
    submit(&backend, &order("after", "true", &json!({}))).await;
    invariants(&mut backend, &["done".into(), "after".into()]).await;
}
