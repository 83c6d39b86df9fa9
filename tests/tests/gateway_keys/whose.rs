//! `keys revoke` and the wrong gateway, and what it leaves behind where it was not certain.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use orket_tests::gateway::{API_KEY, run};
use orket_tests::program::Ended;
use orket_tests::{Gateway, Upstream};
use rustix::process::geteuid;

use super::{status, two_keys};

async fn revoke_with(gateway: &Gateway, arguments: &[&str]) -> Ended {
    let mut all = vec!["keys", "revoke", "--config", "gateway.toml"];
    all.extend(arguments);
    run(gateway.dir(), &all, &[]).await
}

fn text(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.dir().join("gateway.toml")).unwrap()
}

fn write(gateway: &Gateway, text: &str) {
    std::fs::write(gateway.dir().join("gateway.toml"), text).unwrap();
}

#[tokio::test]
async fn the_gateway_of_another_policy_revokes_nothing() {
    let upstream = Upstream::tcp().await;
    let meant = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let wrong = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let socket = wrong.dir().join("state/gateway.sock");
    let told = revoke_with(&meant, &["--control", socket.to_str().unwrap(), "ci"]).await;
    assert!(!told.status.success(), "{}", told.output());
    assert!(
        told.stderr.contains("gateway of another policy"),
        "{}",
        told.output()
    );
    assert_eq!(status(&meant, API_KEY).await, 200, "so it was right");
    assert_eq!(status(&wrong, API_KEY).await, 200, "it was not meant");
    // The right one is found without a hint, though the file has lost the key.
    let told = revoke_with(&meant, &["ci"]).await;
    assert!(told.status.success(), "{}", told.output());
    assert_eq!(status(&meant, API_KEY).await, 403);
}

#[tokio::test]
async fn a_gateway_of_the_state_that_the_file_names_now_says_nothing_of_the_one_that_runs_with_the_file()
 {
    let upstream = Upstream::tcp().await;
    let meant = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let wrong = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let (own, other) = (meant.dir().join("state"), wrong.dir().join("state"));
    let changed = text(&meant).replace(own.to_str().unwrap(), other.to_str().unwrap());
    write(&meant, &changed);
    let told = revoke_with(&meant, &["ci"]).await;
    assert!(!told.status.success(), "{}", told.output());
    assert!(
        told.stderr.contains("runs with another policy file"),
        "{}",
        told.output()
    );
    assert_eq!(status(&meant, API_KEY).await, 200, "so it was right");
}

#[tokio::test]
async fn what_was_uncertain_can_be_run_again_and_brings_no_key_back() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    // Another gateway had that place once, and has left its lock there.
    let mut once = Gateway::with_policy(upstream.address(), &two_keys()).await;
    once.program().kill().await;
    let (own, other) = (gateway.dir().join("state"), once.dir().join("state"));
    let changed = text(&gateway).replace(own.to_str().unwrap(), other.to_str().unwrap());
    write(&gateway, &changed);
    let told = revoke_with(&gateway, &["ci"]).await;
    assert!(!told.status.success(), "{}", told.output());
    // As it says.
    gateway.program().kill().await;
    let told = revoke_with(&gateway, &["ci"]).await;
    assert!(told.status.success(), "{}", told.output());
    let told = revoke_with(&gateway, &["no-key"]).await;
    assert!(!told.status.success(), "{}", told.output());
    // Whoever starts with that state and an older file.
    once.restart().await;
    assert_eq!(status(&once, API_KEY).await, 403);
}

/// Only root can give files away, and act for their owner.
#[tokio::test]
async fn root_lists_a_key_for_the_user_of_the_gateway() {
    if !geteuid().is_root() {
        return;
    }
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    gateway.program().kill().await;
    let before = text(&gateway);
    let state = gateway.dir().join("state");
    std::fs::set_permissions(gateway.dir(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let owned = std::fs::read_dir(&state).unwrap();
    for path in owned.map(|entry| entry.unwrap().path()) {
        chown(path, Some(65_534), Some(65_534)).unwrap();
    }
    chown(&state, Some(65_534), Some(65_534)).unwrap();
    let told = revoke_with(&gateway, &["ci"]).await;
    assert!(told.status.success(), "{}", told.output());
    let list = state.join("revoked-keys");
    assert!(std::fs::read_to_string(&list).unwrap().contains(" ci "));
    let facts = std::fs::metadata(&list).unwrap();
    assert_eq!((facts.uid(), facts.mode() & 0o777), (65_534, 0o600));
    // Where the list cannot be written, an older file would bring the key back.
    write(&gateway, &before);
    std::fs::remove_file(&list).unwrap();
    std::fs::create_dir(&list).unwrap();
    let told = revoke_with(&gateway, &["other"]).await;
    assert!(!told.status.success(), "{}", told.output());
    assert!(told.stderr.contains("--not-running"), "{}", told.output());
    write(&gateway, &before);
    let told = revoke_with(&gateway, &["--not-running", "other"]).await;
    assert!(told.status.success(), "{}", told.output());
}
