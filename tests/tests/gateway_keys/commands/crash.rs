//! An edit that is killed, or overtaken, between its first byte and the new name. What it has written is judged by the policy's own
//! tests, of which there are enough to find it there.

use std::fmt::Write as _;

use orket_tests::program::{self, Program};
use orket_tests::{DEADLINE, eventually};

use super::{Desk, digest};

const FRESH: &str = ".gateway.toml.keys-edit";

/// A desk whose edit is where the new text is judged, and that edit.
async fn held() -> (Desk, Program) {
    let mut sections = "[limits]\nfailures_per_address = \"none\"\n".to_owned();
    for number in 0..30_000 {
        let _ = write!(
            sections,
            "[[tests]]\nname = \"t{number}\"\nrequest = {{ path = \"/nowhere\" }}\nexpect = {{ status = 404 }}\n"
        );
    }
    let desk = Desk::of(&sections);
    let mut command = program::command("orket-gateway", desk.dir.path());
    command.args(["keys", "new", "--config", "gateway.toml"]);
    command.args(["--id", "x", "--scopes", "*"]);
    let edit = Program::spawn(command);
    let fresh = desk.dir.path().join(FRESH);
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
    let fresh = desk.dir.path().join(FRESH);
    assert!(fresh.is_file());
    let key = desk.key(&["new", "--id", "y", "--scopes", "*"]).await;
    assert!(desk.text().contains(&digest(&key)) && !desk.text().contains("\"x\""));
    assert!(!fresh.exists());
}

#[tokio::test]
async fn what_somebody_else_wrote_meanwhile_is_not_overwritten() {
    let (desk, mut edit) = held().await;
    let theirs = desk.text() + "# a line of somebody else's\n";
    std::fs::write(desk.file(), &theirs).unwrap();
    assert!(!edit.wait().await.success());
    assert!(
        edit.stderr().contains("was changed by somebody else"),
        "{}",
        edit.stderr()
    );
    assert_eq!(edit.stdout(), "");
    assert_eq!(desk.text(), theirs);
}
