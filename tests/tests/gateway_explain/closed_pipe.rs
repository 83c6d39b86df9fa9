//! Whoever reads what a command says may stop reading, as `… | head -1` does: the command ends quietly. A disk that takes
//! nothing is told.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use orket_tests::gateway::API_KEY;
use orket_tests::{Cases, Gateway, Policy, Upstream, program};

fn command(program: &str, dir: &Path, arguments: &str) -> Command {
    let mut command = program::command(program, dir);
    command.args(arguments.split(' ')).env("K", API_KEY);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Ends with nobody to read what it says; on the standard error neither where `deaf`.
fn unread(mut command: Command, deaf: bool) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    if deaf {
        command.stderr(writer.try_clone().unwrap());
    }
    command
        .stdout(writer)
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_nobody_reads_ends_quietly() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let dir = gateway.dir();
    std::fs::write(dir.join("bad.toml"), "version = 2\n").unwrap();
    std::fs::write(dir.join("backend.toml"), "").unwrap();
    let canary = format!(
        "canary --url http://{} --api-key-env K",
        gateway.address().host()
    );
    let mut cases = Cases::new();
    for (name, arguments, code) in [
        (
            "orket-gateway",
            "explain --config gateway.toml --path /v1/a",
            0,
        ),
        (
            "orket-gateway",
            "explain --config gateway.toml --path /v1/a --live --format json",
            0,
        ),
        ("orket-gateway", "explain --config bad.toml --path /v1/a", 1),
        ("orket-gateway", "check gateway.toml", 0),
        ("orket-gateway", "check bad.toml --format json", 1),
        ("orket-gateway", "keys list --config gateway.toml", 0),
        ("orket-gateway", "reload --config gateway.toml", 0),
        ("orket-gateway", "spool list --config gateway.toml", 0),
        // What stands behind this gateway is no backend.
        ("orket-gateway", &canary, 1),
        ("orket-gateway", "--help", 0),
        ("orket-backend", "check backend.toml", 0),
        ("orket-backend", "export-openapi", 0),
        ("orket-backend", "--help", 0),
    ] {
        for deaf in [false, true] {
            let ended = unread(command(name, dir, arguments), deaf);
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            let quiet = ended.status.code() == Some(code) && !said.contains("a fault");
            cases.holds(&format!("{name} {arguments} {deaf}"), quiet, || {
                format!("{}: {said}", ended.status)
            });
        }
    }
    cases.finish();
}

#[tokio::test]
async fn a_key_that_nobody_could_read_is_told_as_lost() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let arguments = "keys new --id new --config gateway.toml --scopes *";
    let ended = unread(command("orket-gateway", gateway.dir(), arguments), false);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = Cases::new();
    for (name, arguments) in [
        ("orket-gateway", "explain --path /v1/a"),
        ("orket-backend", "export-openapi"),
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = command(name, dir.path(), arguments);
        let ended = command.stdout(full).spawn().unwrap();
        let ended = ended.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let told = ended.status.code() == Some(1) && said.contains("cannot be written");
        cases.holds(name, told, || format!("{}: {said}", ended.status));
    }
    cases.finish();
}
