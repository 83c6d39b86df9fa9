//! The file itself: replaced whole, as it was in mode and place, by one editor at a time.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use orket_tests::program;

use super::{Desk, digest, keys, listing};

const NEW: [&str; 5] = ["new", "--id", "x", "--scopes", "*"];

#[tokio::test]
async fn mode_and_owner_stay_and_a_link_is_followed() {
    let desk = Desk::of("");
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("real.toml");
    std::fs::rename(desk.file(), &real).unwrap();
    symlink(&real, desk.file()).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    // Only root can give a file away; others at least keep their own.
    let given = std::os::unix::fs::chown(&real, Some(1234), Some(4321)).is_ok();
    let before = std::fs::metadata(&real).unwrap();
    let key = desk.key(&NEW).await;
    let after = std::fs::metadata(&real).unwrap();
    assert_eq!(after.mode(), before.mode());
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    assert!(!given || after.uid() == 1234);
    assert_ne!(
        after.ino(),
        before.ino(),
        "it was replaced, not written into"
    );
    assert!(std::fs::symlink_metadata(desk.file()).unwrap().is_symlink());
    assert!(
        std::fs::read_to_string(&real)
            .unwrap()
            .contains(&digest(&key))
    );
    assert_eq!(listing(elsewhere.path()).len(), 1, "nothing is left behind");
    assert_eq!(listing(desk.dir.path()).len(), 1);
}

#[tokio::test]
async fn what_cannot_be_replaced_is_left_alone() {
    let desk = Desk::of("");
    std::fs::hard_link(desk.file(), desk.dir.path().join("other.toml")).unwrap();
    desk.refused(&NEW, "a hard link").await;

    let desk = Desk::of("");
    std::fs::write(desk.file(), b"version = 1 # \xff\n").unwrap();
    desk.refused(&NEW, "is not UTF-8").await;
    std::fs::remove_file(desk.file()).unwrap();
    desk.refused(&NEW, "cannot be read").await;
    std::fs::create_dir(desk.file()).unwrap();
    desk.refused(&NEW, "is not a plain file").await;

    // What stands in the way of the new file, as a directory that cannot be written would, also for root.
    let desk = Desk::of("");
    std::fs::create_dir(desk.dir.path().join(".gateway.toml.keys-edit")).unwrap();
    desk.refused(&NEW, "its directory has to be writable").await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_said() {
    let desk = Desk::of("");
    let read_only = std::fs::Permissions::from_mode(0o555);
    std::fs::set_permissions(desk.dir.path(), read_only).unwrap();
    // Root writes where it likes.
    if std::fs::write(desk.dir.path().join("probe"), "").is_ok() {
        std::fs::remove_file(desk.dir.path().join("probe")).unwrap();
        return;
    }
    desk.refused(&NEW, "its directory has to be writable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_at_once_are_all_there() {
    let desk = Desk::of("");
    let dir = desk.dir.path().to_owned();
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let dir = dir.clone();
            tokio::spawn(async move {
                let id = format!("k{n}");
                let ended = keys(&dir, &["new", "--id", &id, "--scopes", "*"]).await;
                super::printed(&ended)
            })
        })
        .collect();
    for task in tasks {
        let key = task.await.unwrap();
        assert!(desk.text().contains(&digest(&key)), "{key}");
    }
    assert_eq!(desk.text().matches("[[keys]]").count(), 20);
    assert_eq!(listing(&dir).len(), 1);
}

#[tokio::test]
async fn a_key_that_could_not_be_printed_is_said_to_be_lost() {
    let desk = Desk::of("");
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command: Command = program::command("orket-gateway", desk.dir.path());
    command.args([
        "keys",
        "new",
        "--config",
        "gateway.toml",
        "--id",
        "x",
        "--scopes",
        "*",
    ]);
    let ended = command.stdout(full).output().unwrap();
    assert!(!ended.status.success());
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("revoke it and make another"), "{said}");
    assert!(!said.contains("ork_"), "{said}");
}
