//! `keys revoke` ends with success only where it is certain that no running gateway takes the key.

use std::path::Path;

use orket_tests::gateway::{API_KEY, run};
use orket_tests::program::Ended;
use orket_tests::{Gateway, Policy, Upstream};
use rustix::process::Signal;
use tempfile::TempDir;

use super::{OTHER_KEY, status, two_keys};

/// Runs `keys revoke` on the policy of this gateway from another folder.
async fn revoke_from_afar(gateway: &Gateway, arguments: &[&str]) -> Ended {
    let elsewhere = TempDir::new().unwrap();
    let file = gateway.dir().join("gateway.toml");
    let mut all = vec!["keys", "revoke", "--config", file.to_str().unwrap()];
    all.extend(arguments);
    run(elsewhere.path(), &all, &[]).await
}

fn rewrite(gateway: &Gateway, from: &str, to: &str) {
    let path = gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn a_relative_place_of_state_is_beside_the_policy_for_gateway_and_commands() {
    let upstream = Upstream::tcp().await;
    let policy = two_keys()
        .to_string()
        .replace("dir = \"{dir}/state\"", "dir = \"here/state\"")
        .replace("{dir}/gitea-secret", "gitea-secret");
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&policy)
        .start()
        .await;
    assert!(gateway.dir().join("here/state/gateway.sock").exists());
    let told = revoke_from_afar(&gateway, &["ci"]).await;
    assert!(told.status.success(), "{}", told.output());
    assert!(
        told.stdout.contains("refuses the key `ci` from now on"),
        "{}",
        told.output()
    );
    assert_eq!(status(&gateway, API_KEY).await, 403);
    assert_eq!(status(&gateway, OTHER_KEY).await, 200);
    let elsewhere = TempDir::new().unwrap();
    let file = gateway.dir().join("gateway.toml");
    for command in ["check", "reload"] {
        let mut arguments = vec![command];
        if command == "reload" {
            arguments.push("--config");
        }
        arguments.push(file.to_str().unwrap());
        let ended = run(elsewhere.path(), &arguments, &[]).await;
        assert!(ended.status.success(), "{command}: {}", ended.output());
    }
    assert_eq!(listing(elsewhere.path()), Vec::<String>::new());
}

#[tokio::test]
async fn all_that_a_policy_names_lies_beside_it() {
    let folder = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    let certificate = orket_tests::tls::Certificate::self_signed(&["localhost"]);
    certificate.write(folder.path());
    let policy = Policy::new()
        .https()
        .to_string()
        .replace("{dir}/", "")
        .replace(
            "address = \"{upstream}\"",
            "address = \"localhost:9\"\ntls = { ca_file = \"cert.pem\" }",
        );
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    std::fs::write(folder.path().join(name), bytes).unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, policy).unwrap();
    let ended = run(elsewhere.path(), &["check", file.to_str().unwrap()], &[]).await;
    assert!(ended.status.success(), "{}", ended.output());
}

fn listing(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_is_not_taken_for_none() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let socket = gateway.dir().join("state/gateway.sock");
    let away = gateway.dir().join("away.sock");
    std::fs::rename(&socket, &away).unwrap();
    let told = revoke_from_afar(&gateway, &["ci"]).await;
    assert!(!told.status.success(), "{}", told.output());
    assert!(
        told.stderr.contains("owns the state directory") && told.stderr.contains("--control"),
        "{}",
        told.output()
    );
    assert_eq!(status(&gateway, API_KEY).await, 200, "so it was right");
    // Not even where somebody says that none runs.
    let told = revoke_from_afar(&gateway, &["--not-running", "other"]).await;
    assert!(!told.status.success(), "{}", told.output());
    let told = revoke_from_afar(&gateway, &["--control", away.to_str().unwrap(), "ci"]).await;
    assert!(told.status.success(), "{}", told.output());
    assert_eq!(status(&gateway, API_KEY).await, 403);
    gateway.program().kill().await;
}

#[tokio::test]
async fn a_place_of_state_that_no_gateway_ever_had_proves_nothing() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    // The running one still has the old place.
    rewrite(&gateway, "/state\"", "/other-state\"");
    let told = revoke_from_afar(&gateway, &["ci"]).await;
    assert!(!told.status.success(), "{}", told.output());
    assert!(
        told.stderr.contains("no gateway was ever started")
            && told.stderr.contains("--not-running"),
        "{}",
        told.output()
    );
    assert!(told.stdout.contains("the key `ci` is out of"));
    assert_eq!(status(&gateway, API_KEY).await, 200, "so it was right");
    let told = revoke_from_afar(&gateway, &["--not-running", "other"]).await;
    assert!(told.status.success(), "{}", told.output());
    // One that was stopped, or killed, has left its lock.
    rewrite(&gateway, "/other-state\"", "/state\"");
    gateway.program().kill().await;
    let told = revoke_from_afar(&gateway, &["ci"]).await;
    assert!(
        told.stdout.contains("takes effect at its next start"),
        "{}",
        told.output()
    );
}

#[tokio::test]
async fn a_key_that_is_revoked_while_no_gateway_runs_does_not_come_back_with_an_older_file() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let file = gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    gateway.program().kill().await;
    let told = revoke_from_afar(&gateway, &["ci"]).await;
    assert!(told.status.success(), "{}", told.output());
    std::fs::write(&file, text).unwrap();
    gateway.restart().await;
    assert_eq!(status(&gateway, API_KEY).await, 403);
    assert_eq!(status(&gateway, OTHER_KEY).await, 200);
}

#[tokio::test]
async fn a_secret_that_no_reload_has_brought_is_revoked_with_its_key() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let file = gateway.dir().join("gateway.toml");
    let config = file.to_str().unwrap();
    let rotate = ["keys", "rotate", "--config", config, "ci"];
    let rotated = run(gateway.dir(), &rotate, &[]).await;
    let new_key = rotated.stdout.trim().to_owned();
    let with_new_key = std::fs::read_to_string(&file).unwrap();
    let new = [
        "keys", "new", "--config", config, "--id", "late", "--scopes", "*",
    ];
    let late_key = run(gateway.dir(), &new, &[]).await.stdout.trim().to_owned();
    let with_late_key = std::fs::read_to_string(&file).unwrap();
    for id in ["ci", "late"] {
        let told = revoke_from_afar(&gateway, &[id]).await;
        assert!(told.status.success(), "{}", told.output());
        assert!(
            told.stdout.contains("from now on"),
            "{id}: {}",
            told.output()
        );
    }
    // Somebody puts an old copy of the file back.
    for text in [with_new_key, with_late_key] {
        std::fs::write(&file, text).unwrap();
        let reloaded = run(gateway.dir(), &["reload", "--config", config], &[]).await;
        assert!(reloaded.status.success(), "{}", reloaded.output());
        for key in [API_KEY, new_key.as_str(), late_key.as_str()] {
            assert_eq!(status(&gateway, key).await, 403);
        }
    }
    assert_eq!(status(&gateway, OTHER_KEY).await, 200);
}

#[tokio::test]
async fn a_gateway_that_stands_still_does_not_hold_up_the_edit_of_the_file() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    gateway.program().signal(Signal::STOP);
    let told = revoke_from_afar(&gateway, &["ci"]).await;
    assert!(!told.status.success(), "{}", told.output());
    assert!(
        told.stderr.contains("no answer from")
            && told.stderr.contains("one may still take the key"),
        "{}",
        told.output()
    );
    assert!(told.stdout.contains("the key `ci` is out of"));
    gateway.program().signal(Signal::CONT);
}
