//! The self-test by hand: `orket-backend self-test`.

use orket_tests::backend::run;

use super::is_root;

async fn said(confinement: &str) -> String {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("backend.toml");
    std::fs::write(&path, format!("[confinement]\n{confinement}")).unwrap();
    let ended = run(
        dir.path(),
        &["self-test", "--config", path.to_str().unwrap()],
    )
    .await;
    ended.output()
}

#[tokio::test]
async fn it_shows_what_is_open_and_what_is_shut() {
    let off = said("level = \"group\"\n").await;
    for line in [
        "level of runs       group",
        "open  the store",
        "open  signals to the backend",
    ] {
        assert!(off.contains(line), "{line}: {off}");
    }
    let on = said("level = \"auto\"\n").await;
    for line in [
        "shut  the store",
        "shut  signals to the backend",
        "shut  its own supervisor",
    ] {
        assert!(on.contains(line), "{line}: {on}");
    }
    assert!(!on.contains("HOLE"), "{on}");
}

#[tokio::test]
async fn a_user_needs_root() {
    if is_root() {
        let said = said("level = \"user\"\nnetwork = \"none\"\nrun_as = \"65534\"\n").await;
        assert!(said.contains("user                65534"), "{said}");
    } else {
        let said = said("run_as = \"1\"\n").await;
        assert!(said.contains("runs as root"), "{said}");
    }
}
