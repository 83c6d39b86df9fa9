//! Why a backend, or a command on its store, does not start: said once, with what to do, and nothing is
//! made or changed by it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
};

use orket_tests::{Backend, backend, disk::Disk, snapshot};
use rusqlite::Connection;
use tempfile::TempDir;

/// What the program says of itself: the last line that is no record of the log.
fn said(stderr: &str, dir: &Path) -> String {
    let line = stderr
        .lines()
        .rfind(|line| line.starts_with("orket-backend: "))
        .unwrap_or_else(|| panic!("it says nothing: {stderr}"));
    line.replace(&dir.display().to_string(), "DIR")
}

fn store(path: &Path) -> String {
    format!("[store]\nurl = \"sqlite:{}\"\n", path.display())
}

/// Names and contents of all files below.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap_or_default());
        }
    }
    found
}

#[tokio::test]
async fn every_refusal_names_its_cause_once_and_what_to_do() {
    let dir = TempDir::new().unwrap();
    let place = dir.path();
    let mut text = String::new();
    let mut hold = |what: &str, stderr: &str, port: u16, holder: u32| {
        let line = said(stderr, place)
            .replace(&format!(":{port}"), ":PORT")
            .replace(&format!("process {holder}"), "process PID");
        writeln!(text, "{what}\n  {line}").unwrap();
    };

    let mut owner = Backend::start(&store(&place.join("owned.db"))).await;
    let refused = Backend::refused(&store(&place.join("owned.db"))).await;
    hold("another backend", &refused.stderr, 0, owner.pid());
    std::fs::hard_link(place.join("owned.db"), place.join("linked.db")).unwrap();
    let refused = Backend::refused(&store(&place.join("linked.db"))).await;
    hold("another backend, by another name", &refused.stderr, 0, 0);
    assert!(owner.terminate().await.success());

    let database = |name: &str, sql: &str| {
        let path = place.join(name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        store(&path)
    };
    let file = |name: &str, content: &str| {
        std::fs::write(place.join(name), content).unwrap();
        place.join(name)
    };
    let damaged = format!("SQLite format 3\0{}", "?".repeat(5_000));
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let plain = file("plain", "precious");
    for (what, config) in [
        (
            "a newer schema",
            database("owned.db", "PRAGMA user_version = 9999"),
        ),
        (
            "a foreign database",
            database("foreign.db", "CREATE TABLE precious (x)"),
        ),
        (
            "a file that is no database",
            store(&file("text.db", "precious")),
        ),
        ("a damaged store", store(&file("damaged.db", &damaged))),
        ("a folder that is a file", store(&plain.join("orket.db"))),
        (
            "a workspace that is a file",
            format!("[workspace]\ndir = \"{}\"\n", plain.display()),
        ),
        (
            "a port that is taken",
            format!("[listen]\naddress = \"127.0.0.1:{port}\"\n"),
        ),
        (
            "a file in place of the socket",
            format!("[listen]\naddress = \"unix:{}\"\n", plain.display()),
        ),
        (
            "a socket below a file",
            format!("[listen]\naddress = \"unix:{}/s\"\n", plain.display()),
        ),
    ] {
        let refused = Backend::refused(&config).await;
        hold(what, &refused.stderr, port, 0);
    }
    let missing = place.join("missing.toml");
    let missing = missing.to_str().unwrap();
    let refused = backend::run(place, &["serve", "--config", missing]).await;
    hold("a configuration that is not there", &refused.stderr, 0, 0);
    assert_eq!(std::fs::read_to_string(&plain).unwrap(), "precious");
    snapshot::hold("backend_refusals.txt", &text);
}

#[tokio::test]
async fn a_disk_that_may_only_be_read_is_named_with_what_to_do() {
    let mut backend = Backend::start("[store]\nurl = \"sqlite:{dir}/disk/orket.db\"\n").await;
    backend.kill().await;
    let Some(disk) = Disk::small(&backend.dir().join("disk"), "6m") else {
        return;
    };
    backend.restart().await;
    assert!(backend.terminate().await.success());
    disk.remount("ro");
    let refused = backend.restart_refused().await;
    let line = said(&refused.stderr, backend.dir());
    assert_eq!(line.matches("ead-only").count(), 1, "{line}");
    assert!(line.contains("DIR/disk/orket.db"), "{line}");
    assert!(
        line.contains("choose another place in [store] url"),
        "{line}"
    );
}

#[tokio::test]
async fn a_command_on_a_store_that_is_not_there_makes_none() {
    let dir = TempDir::new().unwrap();
    let place = dir.path();
    std::fs::write(place.join("empty.db"), "").unwrap();
    std::fs::write(place.join("text.db"), "precious").unwrap();
    for (name, why) in [
        ("orkt.db", "there is no store at"),
        ("nowhere/orket.db", "there is no store at"),
        ("empty.db", "there is no store at"),
        ("text.db", "is not Orket's"),
    ] {
        let config = place.join("backend.toml");
        std::fs::write(&config, store(&place.join(name))).unwrap();
        let config = config.to_str().unwrap();
        let before = everything(place);
        for command in [
            &["archive", "--config", config, "--card", "c"][..],
            &["runs", "--config", config],
            &["replay", "--config", config, "--state", "failed"],
        ] {
            let ended = backend::run(place, command).await;
            assert!(!ended.status.success(), "{name} {command:?}");
            assert!(ended.stderr.contains(why), "{name}: {}", ended.stderr);
            assert!(ended.stderr.contains("[store] url"), "{}", ended.stderr);
            assert_eq!(everything(place), before, "{name} {command:?}");
        }
        assert!(!place.join("nowhere").exists());
    }
}
