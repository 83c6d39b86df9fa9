//! What is done stays known across restarts, kills and damage; what cannot be read is forgotten, never invented.

use std::path::{Path, PathBuf};

use orket_tests::gateway::{self, WEBHOOK_SECRET};
use orket_tests::{DEADLINE, Delivery, Gateway, Policy, Upstream, eventually};
use serde_json::json;

use super::logged;

const PATH: &str = "/webhook/gitea";

fn log_in(dir: &Path) -> PathBuf {
    dir.join("state/replay.log")
}

async fn deliver(gateway: &Gateway, delivery: &Delivery) -> serde_json::Value {
    let answer = delivery
        .signed(PATH, WEBHOOK_SECRET)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Waits until the log holds this many marks of 36 bytes behind its 8.
async fn written(gateway: &Gateway, marks: u64) {
    let log = log_in(gateway.dir());
    eventually("the marks are written", DEADLINE, || async {
        std::fs::metadata(&log).is_ok_and(|m| m.len() >= 8 + marks * 36)
    })
    .await;
}

#[tokio::test]
async fn what_is_done_is_known_after_a_kill_and_after_a_stop() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let first = Delivery::fresh();
    deliver(&gateway, &first).await;
    written(&gateway, 1).await;
    gateway.restart().await;
    let second = Delivery::fresh();
    assert_eq!(deliver(&gateway, &first).await["status"], "duplicate");
    deliver(&gateway, &second).await;
    // A stop writes down what is remembered, without being waited for here.
    assert!(gateway.program().terminate().await.success());
    gateway.restart().await;
    for delivery in [&first, &second] {
        assert_eq!(deliver(&gateway, delivery).await["status"], "duplicate");
    }
    assert_eq!(upstream.count(), 2);
    assert_private(&gateway.dir().join("state"));
}

/// Nobody but the owner can read what lies there.
fn assert_private(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
        if path.is_dir() {
            assert_private(&path);
        }
    }
}

#[tokio::test]
async fn a_reload_keeps_it() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let delivery = Delivery::fresh();
    deliver(&gateway, &delivery).await;
    let socket = gateway.dir().join("state/gateway.sock");
    let reload = ["reload", "--control", socket.to_str().unwrap()];
    let ended = gateway::run(gateway.dir(), &reload, &[]).await;
    assert!(ended.status.success(), "{}", ended.output());
    assert_eq!(
        deliver(&gateway, &delivery).await,
        json!({"status": "duplicate"})
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_torn_or_damaged_log_forgets_and_invents_nothing() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let (first, second) = (Delivery::fresh(), Delivery::fresh());
    deliver(&gateway, &first).await;
    written(&gateway, 1).await;
    deliver(&gateway, &second).await;
    written(&gateway, 2).await;
    gateway.program().kill().await;
    // The first record's checksum no longer fits, and the second one's end is missing.
    let log = log_in(gateway.dir());
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&log, &bytes[..bytes.len() - 5]).unwrap();
    gateway.restart().await;
    logged(&gateway, "replay_damaged", 1).await;
    for delivery in [&first, &second] {
        assert!(deliver(&gateway, delivery).await["status"].is_null());
        assert_eq!(deliver(&gateway, delivery).await["status"], "duplicate");
    }
    written(&gateway, 2).await;
    gateway.program().kill().await;
    std::fs::write(&log, "no log at all, and longer than its first bytes").unwrap();
    gateway.restart().await;
    logged(&gateway, "replay_unreadable", 1).await;
    deliver(&gateway, &first).await;
    assert_eq!(upstream.count(), 5);
}

#[tokio::test]
async fn a_link_in_its_place_is_not_followed() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    gateway.program().kill().await;
    let (log, elsewhere) = (log_in(gateway.dir()), gateway.dir().join("elsewhere"));
    std::fs::write(&elsewhere, "").unwrap();
    std::fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &log).unwrap();
    gateway.restart().await;
    deliver(&gateway, &Delivery::fresh()).await;
    written(&gateway, 1).await;
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"");
    assert!(
        !log.is_symlink(),
        "the link was set aside, and a log begun in its place"
    );
}

#[tokio::test]
async fn a_second_gateway_on_the_same_state_serves_without_keeping_it() {
    let upstream = Upstream::tcp().await;
    let first = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let state = first.dir().join("state");
    let second = Gateway::before(upstream.address())
        .env("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET)
        .env("ORKET_STATE_DIR", state.to_str().unwrap())
        .start()
        .await;
    eventually("it says what it lacks", DEADLINE, || async {
        second.output().contains("state_not_kept")
    })
    .await;
    assert!(second.output().contains("another gateway owns"));
    let delivery = Delivery::fresh();
    deliver(&second, &delivery).await;
    assert_eq!(deliver(&second, &delivery).await["status"], "duplicate");
}

#[tokio::test]
async fn looking_at_a_policy_touches_no_state() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy::new().to_string();
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    std::fs::write(dir.path().join(name), bytes).unwrap();
    let ended = gateway::check(dir.path(), &policy).await;
    assert!(ended.status.success(), "{}", ended.output());
    let explain = [
        "explain",
        "--config",
        "gateway.toml",
        "--path",
        "/v1/version",
    ];
    gateway::run(dir.path(), &explain, &[]).await;
    assert!(!dir.path().join("state").exists());
}
