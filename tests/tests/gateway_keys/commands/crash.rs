//! An edit that is killed, or overtaken, between its first byte and the new name. A named pipe in the place of a secret's file holds the
//! program where it judges what it has written.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use orket_tests::program::{self, Program};
use orket_tests::{DEADLINE, eventually};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{Desk, digest};

const SECRETS: &str = "[secrets]\ntoken = [{ file = \"pipe\" }]\n[[routes]]\nid = \"t\"\npath = \"/t\"\nmethods = [\"POST\"]\nauth = { kind = \"test_webhook\", enabled = true, token = \"token\" }\nupstream = \"b\"\n";

/// Lets whoever waits at the pipe read a secret. Waits for a reader.
async fn feed(pipe: &Path) {
    let opened = orket_tests::wait::obtain("somebody reads the pipe", DEADLINE, || async {
        let mut options = std::fs::OpenOptions::new();
        let options = options
            .write(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        options.open(pipe).ok()
    });
    let mut pipe = opened.await;
    std::io::Write::write_all(&mut pipe, b"a-token-of-this-test-0123456789abcdef").unwrap();
}

/// A desk whose edit hangs where the new text is judged, and that edit.
async fn held() -> (Desk, Program) {
    let desk = Desk::of(SECRETS);
    let pipe = desk.dir.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut command = program::command("orket-gateway", desk.dir.path());
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
    let edit = Program::spawn(command);
    feed(&pipe).await;
    let fresh = desk.dir.path().join(".gateway.toml.keys-edit");
    eventually("the new file is being judged", DEADLINE, || async {
        fresh.is_file()
    })
    .await;
    (desk, edit)
}

#[tokio::test]
async fn killed_before_the_new_name_it_has_changed_nothing_and_the_next_one_clears_up() {
    let (desk, mut edit) = held().await;
    let before = desk.text();
    edit.kill().await;
    assert_eq!(desk.text(), before);
    assert_eq!(edit.stdout(), "", "no key was shown");
    let fresh = desk.dir.path().join(".gateway.toml.keys-edit");
    assert!(fresh.is_file());
    std::fs::remove_file(desk.dir.path().join("pipe")).unwrap();
    std::fs::write(
        desk.dir.path().join("pipe"),
        "a-token-of-this-test-0123456789abcdef",
    )
    .unwrap();
    let key = desk.key(&["new", "--id", "y", "--scopes", "*"]).await;
    assert!(desk.text().contains(&digest(&key)) && !desk.text().contains("\"x\""));
    assert!(!fresh.exists());
}

#[tokio::test]
async fn what_somebody_else_wrote_meanwhile_is_not_overwritten() {
    let (desk, mut edit) = held().await;
    let theirs = desk.text() + "# a line of somebody else's\n";
    std::fs::write(desk.file(), &theirs).unwrap();
    feed(&desk.dir.path().join("pipe")).await;
    assert!(!edit.wait().await.success());
    assert!(
        edit.stderr().contains("was changed by somebody else"),
        "{}",
        edit.stderr()
    );
    assert_eq!(edit.stdout(), "");
    assert_eq!(desk.text(), theirs);
}
