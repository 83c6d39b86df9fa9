//! What somebody else writes into a repository costs us no more than it should.

use std::{fmt::Write as _, fs, path::Path};

use orket_tests::program;
use tempfile::TempDir;

/// What `stack check` says of a folder, which it has to say at last.
async fn said(folder: &Path) -> (bool, String) {
    let mut command = program::command("orket-backend", folder);
    command.args(["stack", "check"]).arg(folder);
    let ended = program::run(command).await;
    (ended.status.success(), ended.output())
}

fn built(ignored: &str, dockerfile: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("compose.yaml", "services:\n  web:\n    build: .\n");
    write("Dockerfile", dockerfile);
    write(".dockerignore", ignored);
    write(&"a".repeat(200), "");
    dir
}

#[tokio::test]
async fn one_line_with_thousands_of_mistakes_is_answered_shortly() {
    let mut keys = String::new();
    for number in 0..3000 {
        let _ = write!(keys, "key{number:05}: 1, ");
    }
    let dir = tempfile::tempdir().unwrap();
    let text = format!("services: {{web: {{image: 'a:1', {keys}}}}}\n");
    fs::write(dir.path().join("compose.yaml"), text).unwrap();
    let (good, said) = said(dir.path()).await;
    assert!(!good);
    assert!(said.len() < 100_000, "{} bytes", said.len());
    assert_eq!(said.matches("[unknown-key]").count(), 50);
    assert!(said.contains("and 2950 more: mend these first"), "{said}");
    // The caret stands below the key that is meant.
    let lines: Vec<_> = said.lines().collect();
    let last = lines.iter().rposition(|line| line.contains('^')).unwrap();
    let at = lines[last].chars().position(|c| c == '^').unwrap();
    let key: String = lines[last - 1].chars().skip(at).take(8).collect();
    assert_eq!(key, "key00049");
}

#[tokio::test]
async fn patterns_of_files_that_are_not_sent_take_no_time() {
    let slow = format!("{}*b\n{}b\n", "*a".repeat(25), "**/a*/".repeat(25));
    let (good, words) = said(built(&slow, "FROM a:1\n").path()).await;
    assert!(good && words.contains("begins with a:1"), "{words}");
    let many = "*a*\n".repeat(501);
    let (good, words) = said(built(&many, "FROM a:1\n").path()).await;
    assert!(!good && words.contains(".dockerignore:501:"), "{words}");
    // What is behind the bound would be sent.
    let long = format!("#{}\nsecret\n", "x".repeat(64 << 10));
    let (good, words) = said(built(&long, "FROM a:1\n").path()).await;
    assert!(!good && words.contains("too large"), "{words}");
    let long = "FROM a:1\n".to_owned() + &"#".repeat(64 << 10);
    let (good, words) = said(built("", &long).path()).await;
    assert!(!good && words.contains("too large"), "{words}");
}

#[tokio::test]
async fn the_images_of_a_dockerfile_are_told_as_the_builder_would_read_them() {
    let hidden = "FROM scratch AS goo\nFROM scratch\nCOPY -\\\n-from=evil:1 /a /a\nCOPY --from=goo\\\nd:1 /a /a\n";
    let (good, words) = said(built("", hidden).path()).await;
    assert!(
        good && words.contains("begins with evil:1, good:1"),
        "{words}"
    );
    let blank = "FROM scratch\nRUN [\"x\"] \\\u{a0}\nADD http://192.0.2.1/x /x\n";
    let (good, words) = said(built("", blank).path()).await;
    assert!(!good && words.contains("Dockerfile:2: "), "{words}");
}
