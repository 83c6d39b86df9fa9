//! Full is said, with 503: by the policy's bounds, by a disk that is full, by one that takes nothing. Nothing is dropped silently.

use orket_tests::{
    DEADLINE, Delivery, Gateway, Policy, Reaction, Upstream, assert_refused, eventually,
};
use tempfile::TempDir;

use super::disk::{Disk, remount};
use super::{
    deliver, emptied, files, keys, logged, metric, nowhere, spool, spooled, spooling, waiting,
};

#[tokio::test]
async fn more_than_the_policy_allows_is_refused_with_503() {
    for bounds in ["entries = 3", "bytes = \"3KiB\""] {
        let dir = TempDir::new().unwrap();
        let policy = spooling().rest(&format!("[spool]\n{bounds}\n"));
        let gateway = Gateway::with_policy(&nowhere(dir.path()), &policy).await;
        let mut kept = Vec::new();
        let refused = loop {
            let answer = deliver(&gateway, &Delivery::fresh()).await;
            if answer.status != 202 {
                break answer;
            }
            kept.push(spooled(&answer));
            assert!(kept.len() < 10, "{bounds}");
        };
        assert_refused(&refused, 503, "Try again later");
        assert!(refused.header("retry-after").is_some());
        assert!(!kept.is_empty(), "{bounds}");
        assert_eq!(waiting(&gateway).await, kept, "nothing was dropped for it");
        logged(&gateway, "spool_full", 1).await;
        let upstream = Upstream::unix(dir.path());
        emptied(&gateway).await;
        assert_eq!(upstream.count(), kept.len());
        assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, 200);
    }
}

#[tokio::test]
async fn dead_letters_are_bounded_and_dropped_loudly() {
    let dir = TempDir::new().unwrap();
    let policy = spooling().rest("[spool]\ndead_entries = 2\n");
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &policy).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(spooled(&deliver(&gateway, &Delivery::fresh()).await));
    }
    let upstream = Upstream::unix(dir.path());
    upstream.react(Reaction::json(400, "{}"));
    emptied(&gateway).await;
    eventually("two are left", DEADLINE, || async {
        files(&gateway.dir().join("state/spool/dead")).len() == 2
    })
    .await;
    let list = spool(&gateway, &["list", "--dead"]).await.unwrap();
    assert_eq!(list["dead"][0]["id"], ids[3].as_str());
    assert_eq!(list["dead"][1]["id"], ids[4].as_str());
    let dropped = "orket_gateway_spool_dead_dropped_total{";
    assert_eq!(metric(&gateway, dropped, "gitea").await, Some(3.0));
    logged(&gateway, "dead_letter_dropped", 3).await;
}

#[tokio::test]
async fn a_full_disk_is_a_503_and_what_waits_is_handed_over_all_the_same() {
    let dir = TempDir::new().unwrap();
    let builder = Gateway::before(&nowhere(dir.path())).standard(&spooling());
    let Some(_disk) = Disk::small(&builder.dir().join("state")) else {
        return;
    };
    let gateway = builder.start().await;
    let first = Delivery::fresh();
    spooled(&deliver(&gateway, &first).await);
    // Bodies fill it up until one does not fit.
    let mut kept = 1;
    let refused = loop {
        let big = Delivery::new(
            "push",
            format!("{{\"a\":\"{kept}{}\"}}", "x".repeat(30_000)),
        );
        let answer = deliver(&gateway, &big).await;
        if answer.status != 202 {
            break answer;
        }
        kept += 1;
        assert!(kept < 20, "256 KiB hold no more");
    };
    assert_refused(&refused, 503, "Try again later");
    assert!(refused.header("retry-after").is_some());
    logged(&gateway, "spool_not_written", 1).await;
    logged(&gateway, "spool_unavailable", 1).await;
    assert!(
        files(&gateway.dir().join("state/spool/new")).is_empty(),
        "its room is given back"
    );
    assert_eq!(waiting(&gateway).await.len(), kept);
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    assert_eq!(upstream.count(), kept);
    assert_eq!(upstream.requests()[0].body, first.body);
    assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, 200);
}

#[tokio::test]
async fn a_full_disk_keeps_dead_letters_all_the_same() {
    let dir = TempDir::new().unwrap();
    let builder = Gateway::before(&nowhere(dir.path())).standard(&spooling());
    let Some(_disk) = Disk::small(&builder.dir().join("state")) else {
        return;
    };
    let gateway = builder.start().await;
    let id = spooled(&deliver(&gateway, &Delivery::fresh()).await);
    let ballast = gateway.dir().join("state/ballast");
    let _ = std::fs::write(&ballast, vec![0; 512 * 1024]);
    assert_refused(
        &deliver(&gateway, &Delivery::fresh()).await,
        503,
        "Try again later",
    );
    let upstream = Upstream::unix(dir.path());
    upstream.react(Reaction::json(422, "{}"));
    emptied(&gateway).await;
    let list = spool(&gateway, &["list"]).await.unwrap();
    assert_eq!(list["dead"][0]["id"], id.as_str());
    assert_eq!(keys(&upstream).len(), 1);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_a_503_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let builder = Gateway::before(&nowhere(dir.path())).standard(&spooling());
    let state = builder.dir().join("state");
    let Some(_disk) = Disk::small(&state) else {
        return;
    };
    let mut gateway = builder.start().await;
    let delivery = Delivery::fresh();
    spooled(&deliver(&gateway, &delivery).await);
    // Whatever holds a file open for writing would keep it writable.
    gateway.program().kill().await;
    assert!(remount("ro", &state));
    let ended = Gateway::before(&nowhere(dir.path()))
        .standard(&spooling())
        .policy(
            &spooling()
                .to_string()
                .replace("dir = \"{dir}/state\"", &format!("dir = {state:?}")),
        )
        .refused()
        .await;
    assert!(
        ended.output().contains("cannot be used"),
        "{}",
        ended.output()
    );
    assert!(remount("rw", &state));
    gateway.restart().await;
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    assert_eq!(upstream.only().body, delivery.body);
}

#[tokio::test]
async fn without_a_disk_a_policy_without_a_spool_is_served() {
    let upstream = Upstream::tcp().await;
    let builder = Gateway::before(upstream.address()).standard(&Policy::new());
    let state = builder.dir().join("state");
    let Some(_disk) = Disk::small(&state) else {
        return;
    };
    assert!(remount("ro", &state));
    let gateway = builder.start().await;
    assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, 200);
    eventually("it says so", DEADLINE, || async {
        gateway.output().contains("state_not_kept")
    })
    .await;
}
