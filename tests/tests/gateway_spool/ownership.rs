//! One process owns the spool, its directory is this user's alone, and a policy that needs it does not load without it.

use std::os::unix::fs::{PermissionsExt, symlink};

use orket_tests::gateway::{self, WEBHOOK_SECRET};
use orket_tests::{Delivery, Gateway, Policy, Upstream, eventually};
use tempfile::TempDir;

use super::{deliver, emptied, nowhere, spooled, spooling};

#[tokio::test]
async fn a_second_gateway_on_the_same_state_does_not_start() {
    let upstream = Upstream::tcp().await;
    let first = Gateway::with_policy(upstream.address(), &spooling()).await;
    let state = format!("dir = {:?}", first.dir().join("state"));
    let text = spooling()
        .to_string()
        .replace("dir = \"{dir}/state\"", &state);
    let ended = Gateway::before(upstream.address())
        .file("gitea-secret", WEBHOOK_SECRET.as_bytes())
        .policy(&text)
        .refused()
        .await;
    let told = ended.output();
    assert!(
        told.contains("another gateway owns the state directory"),
        "{told}"
    );
    assert!(told.contains("[state] dir"), "{told}");
    assert_eq!(deliver(&first, &Delivery::fresh()).await.status, 200);
}

#[tokio::test]
async fn a_directory_others_can_change_is_refused() {
    let upstream = Upstream::tcp().await;
    for break_it in [
        |dir: &std::path::Path| {
            std::fs::create_dir(dir.join("state")).unwrap();
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(dir.join("state"), open).unwrap();
        },
        |dir: &std::path::Path| {
            std::fs::create_dir_all(dir.join("elsewhere")).unwrap();
            std::fs::create_dir(dir.join("state")).unwrap();
            symlink(dir.join("elsewhere"), dir.join("state/spool")).unwrap();
        },
        |dir: &std::path::Path| {
            std::fs::create_dir_all(dir.join("elsewhere")).unwrap();
            std::fs::create_dir_all(dir.join("state/spool")).unwrap();
            symlink(dir.join("elsewhere"), dir.join("state/spool/waiting")).unwrap();
        },
        |dir: &std::path::Path| std::fs::write(dir.join("state"), "no directory").unwrap(),
    ] {
        let builder = Gateway::before(upstream.address()).standard(&spooling());
        break_it(builder.dir());
        let ended = builder.refused().await;
        let told = ended.output();
        assert!(told.contains("cannot be used"), "{told}");
    }
}

#[tokio::test]
async fn a_reload_to_a_policy_with_a_spool_needs_the_state() {
    let dir = TempDir::new().unwrap();
    let upstream = Upstream::tcp().await;
    let owner = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let state = owner.dir().join("state");
    let text = |policy: Policy| {
        policy
            .to_string()
            .replace("dir = \"{dir}/state\"", &format!("dir = {state:?}"))
            .replace(
                "[listen]",
                &format!(
                    "[listen]\ncontrol = \"unix:{}\"",
                    dir.path().join("c.sock").display()
                ),
            )
    };
    let second = Gateway::before(upstream.address())
        .file("gitea-secret", WEBHOOK_SECRET.as_bytes())
        .policy(&text(Policy::new()))
        .start()
        .await;
    let filled = text(spooling())
        .replace("{dir}", &second.dir().to_string_lossy())
        .replace("{upstream}", &upstream.address().to_string());
    std::fs::write(second.dir().join("gateway.toml"), filled).unwrap();
    let socket = dir.path().join("c.sock");
    let reload = ["reload", "--control", socket.to_str().unwrap()];
    let ended = gateway::run(second.dir(), &reload, &[]).await;
    assert!(!ended.status.success());
    assert!(
        ended.output().contains("does not own its state directory"),
        "{}",
        ended.output()
    );
    let list = ["spool", "list", "--control", socket.to_str().unwrap()];
    let ended = gateway::run(second.dir(), &list, &[]).await;
    assert!(
        ended.output().contains("has no spool"),
        "{}",
        ended.output()
    );
    // Where the state is its own, a reload switches the spool on.
    let filled = spooling()
        .to_string()
        .replace("{dir}", &owner.dir().to_string_lossy())
        .replace("{upstream}", &nowhere(dir.path()).to_string());
    std::fs::write(owner.dir().join("gateway.toml"), filled).unwrap();
    let socket = owner.dir().join("state/gateway.sock");
    let reload = ["reload", "--control", socket.to_str().unwrap()];
    let ended = gateway::run(owner.dir(), &reload, &[]).await;
    assert!(ended.status.success(), "{}", ended.output());
    spooled(&deliver(&owner, &Delivery::fresh()).await);
    let inside = Upstream::unix(dir.path());
    emptied(&owner).await;
    assert_eq!(inside.count(), 1);
}

#[tokio::test]
async fn what_is_kept_is_readable_by_its_owner_alone() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    spooled(&deliver(&gateway, &Delivery::fresh()).await);
    let mut looked = 0;
    let mut folders = vec![gateway.dir().join("state")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", entry.path().display());
            looked += 1;
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    assert!(looked > 6);
}

#[tokio::test]
async fn a_spool_is_for_webhooks_and_holds_no_credential() {
    let dir = TempDir::new().unwrap();
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    std::fs::write(dir.path().join(name), bytes).unwrap();
    for (policy, told) in [
        (
            Policy::new().api("spool = true"),
            "only deliveries of a webhook wait",
        ),
        (
            spooling().gitea("keep_authorization = true"),
            "exclude each other",
        ),
        (
            spooling().rest("[spool]\nentries = 0\n"),
            "between 1 and 1000000",
        ),
        (
            spooling().rest("[spool]\nage = \"400d\"\n"),
            "longer than 366d",
        ),
        (spooling().rest("[spool]\nsize = \"1MiB\"\n"), "size"),
    ] {
        let ended = gateway::check(dir.path(), &policy.to_string()).await;
        assert!(!ended.status.success());
        assert!(ended.output().contains(told), "{}", ended.output());
    }
    let fine = spooling().rest(
        "[spool]\nentries = 5\nbytes = \"1MiB\"\nage = \"30d\"\ndead_entries = 5\ndead_bytes = \"1MiB\"\n",
    );
    let ended = gateway::check(dir.path(), &fine.to_string()).await;
    assert!(ended.status.success(), "{}", ended.output());
    eventually("check made no state", orket_tests::DEADLINE, || async {
        !dir.path().join("state").exists()
    })
    .await;
}
