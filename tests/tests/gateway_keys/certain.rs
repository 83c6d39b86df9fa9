//! `keys revoke` ends with success only where it is certain that no running gateway takes the key.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use orket_tests::gateway::{API_KEY, run};
use orket_tests::program::Ended;
use orket_tests::{DEADLINE, Gateway, Policy, Upstream, eventually};
use rustix::fs::{FlockOperation, flock};
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

#[tokio::test]
async fn a_gateway_with_an_earlier_place_of_state_is_seen_by_the_folder_of_its_policy() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    // Another gateway had that place once, and has left its lock there.
    let mut once = Gateway::with_policy(upstream.address(), &two_keys()).await;
    once.program().kill().await;
    let state = gateway.dir().join("state");
    let other = once.dir().join("state");
    rewrite(&gateway, state.to_str().unwrap(), other.to_str().unwrap());
    let told = revoke_from_afar(&gateway, &["ci"]).await;
    assert!(!told.status.success(), "{}", told.output());
    assert!(
        told.stderr.contains("runs with a policy file in")
            && told.stderr.contains("--control")
            && told.stderr.contains("--not-running"),
        "{}",
        told.output()
    );
    assert!(told.stdout.contains("the key `ci` is out of"));
    assert_eq!(status(&gateway, API_KEY).await, 200, "so it was right");
    let socket = state.join("gateway.sock");
    let told = revoke_from_afar(&gateway, &["--control", socket.to_str().unwrap(), "other"]).await;
    assert!(told.status.success(), "{}", told.output());
    assert_eq!(status(&gateway, OTHER_KEY).await, 403);
    gateway.program().kill().await;
}

#[tokio::test]
async fn of_several_policies_in_one_folder_the_operator_says_which_runs() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let text = std::fs::read_to_string(gateway.dir().join("gateway.toml")).unwrap();
    let state = gateway.dir().join("state");
    let other = gateway.dir().join("other-state");
    let text = text.replace(state.to_str().unwrap(), other.to_str().unwrap());
    std::fs::write(gateway.dir().join("other.toml"), text).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(other.join("gateway.lock"), "").unwrap();
    let file = gateway.dir().join("other.toml");
    let revoke = ["keys", "revoke", "--config", file.to_str().unwrap(), "ci"];
    let told = run(gateway.dir(), &revoke, &[]).await;
    assert!(!told.status.success(), "{}", told.output());
    assert!(
        told.stderr.contains("if with another one, say so"),
        "{}",
        told.output()
    );
    let file = file.to_str().unwrap();
    let revoke = ["keys", "revoke", "--config", file, "--not-running", "other"];
    let told = run(gateway.dir(), &revoke, &[]).await;
    assert!(told.status.success(), "{}", told.output());
    assert_eq!(status(&gateway, OTHER_KEY).await, 200, "the other policy's");
}

#[tokio::test]
async fn a_gateway_beside_the_owner_of_its_state_is_seen_with_the_owner_and_without() {
    let upstream = Upstream::tcp().await;
    let mut owner = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let state = owner.dir().join("state");
    let mut beside = Gateway::before(upstream.address())
        .env("ORKET_API_KEY", API_KEY)
        .env("ORKET_STATE_DIR", state.to_str().unwrap())
        .start()
        .await;
    let text = std::fs::read_to_string(owner.dir().join("gateway.toml")).unwrap();
    for owner_runs in [true, false] {
        let told = revoke_from_afar(&owner, &["ci"]).await;
        assert!(!told.status.success(), "{}", told.output());
        assert!(
            told.stderr.contains("without owning it"),
            "{}",
            told.output()
        );
        assert_eq!(status(&beside, API_KEY).await, 200, "so it was right");
        std::fs::write(owner.dir().join("gateway.toml"), &text).unwrap();
        if owner_runs {
            owner.program().kill().await;
        }
    }
    // Not even where somebody says that none runs.
    let told = revoke_from_afar(&owner, &["--not-running", "ci"]).await;
    assert!(!told.status.success(), "{}", told.output());
    std::fs::write(owner.dir().join("gateway.toml"), &text).unwrap();
    beside.program().kill().await;
    let told = revoke_from_afar(&owner, &["ci"]).await;
    assert!(told.status.success(), "{}", told.output());
}

#[tokio::test]
async fn a_folder_that_somebody_has_locked_keeps_no_gateway_from_starting_nor_from_being_seen() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::before(upstream.address()).standard(&two_keys());
    let folder = std::fs::File::open(gateway.dir()).unwrap();
    flock(&folder, FlockOperation::NonBlockingLockExclusive).unwrap();
    let mut gateway = gateway.start().await;
    eventually("it says so", DEADLINE, || async {
        gateway.output().contains("presence_waits")
    })
    .await;
    flock(&folder, FlockOperation::Unlock).unwrap();
    eventually("the gateway has its share", DEADLINE, || async {
        let free = flock(&folder, FlockOperation::NonBlockingLockExclusive);
        let _ = flock(&folder, FlockOperation::Unlock);
        free.is_err()
    })
    .await;
    gateway.program().kill().await;
    flock(&folder, FlockOperation::NonBlockingLockExclusive).unwrap();
}
