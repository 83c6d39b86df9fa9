//! What a person types: `make up`, `make release-smoke`, the setup and the product suite, as scripts with the
//! programs of this build.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use orket_tests::program::{self, Ended, Program, no_process_left};
use orket_tests::repository::root;
use orket_tests::{DEADLINE, eventually};
use regex::Regex;
use rustix::process::Signal;
use tempfile::TempDir;

/// A script of the repository, or of a copy of it, with nothing of ours in its environment.
fn script(repository: &Path, name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(repository.join("scripts").join(name));
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if text.starts_with("ORKET_") || text.starts_with("GITEA_") {
            command.env_remove(&variable);
        }
    }
    let programs = program::path_of("orket-gateway");
    command.env("ORKET_PROGRAMS", programs.parent().unwrap());
    command
}

fn up(state: &Path) -> Command {
    let mut command = script(root(), "up");
    command
        .env("ORKET_UP_DIR", state)
        .env("ORKET_UP_PORT", "0")
        .env("ORKET_UP_ADMIN_PORT", "0");
    command
}

/// Waits for a line of the script's output that holds `text`.
async fn said(program: &mut Program, text: &str) {
    eventually(text, 2 * DEADLINE, || {
        assert!(
            program.ended().is_none() || program.stdout().contains(text),
            "it ended before it said {text:?}: {}{}",
            program.stdout(),
            program.stderr()
        );
        let there = program.stdout().contains(text);
        async move { there }
    })
    .await;
}

/// Runs a script that takes longer than one wait of the harness.
async fn run(command: Command) -> Ended {
    let mut program = Program::spawn(command);
    eventually("the script ends", 4 * DEADLINE, || {
        let ended = program.ended().is_some();
        async move { ended }
    })
    .await;
    let status = program.wait().await;
    Ended {
        status,
        stdout: program.stdout(),
        stderr: program.stderr(),
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .permissions()
        .mode()
        & 0o777
}

#[tokio::test]
async fn up_once_goes_all_the_way_and_leaves_nothing_running() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("state");
    let once = || {
        let mut command = up(&state);
        command.env("ORKET_UP_ONCE", "1");
        command
    };
    let first = run(once()).await;
    assert!(first.status.success(), "{}", first.output());
    let steps = [
        "listening on",
        "SUCCESS",
        "created",
        "delivered, signed",
        ": succeeded",
        "| hello from ISSUE-UP-",
        "curl -i -X POST",
    ];
    let mut rest = first.stdout.as_str();
    for step in steps {
        let at = rest
            .find(step)
            .unwrap_or_else(|| panic!("{step:?} is not said, or too early: {}", first.output()));
        rest = &rest[at..];
    }
    for secret in ["api_key", "gitea_secret"] {
        assert_eq!(mode(&state.join(secret)), 0o600, "{secret}");
        let text = std::fs::read_to_string(state.join(secret)).unwrap();
        assert!(!first.output().contains(text.trim()), "{secret} is shown");
    }
    assert_eq!(mode(&state), 0o700);
    no_process_left(dir.path()).await;

    let key = std::fs::read(state.join("api_key")).unwrap();
    let mut policy = std::fs::read_to_string(state.join("gateway.toml")).unwrap();
    policy.push_str("# mine\n");
    std::fs::write(state.join("gateway.toml"), &policy).unwrap();
    let second = run(once()).await;
    assert!(second.status.success(), "{}", second.output());
    assert_eq!(
        std::fs::read(state.join("api_key")).unwrap(),
        key,
        "it starts from what is there"
    );
    assert_eq!(
        std::fs::read_to_string(state.join("gateway.toml")).unwrap(),
        policy
    );
    let card = Regex::new("card (ISSUE-UP-[^ ]+) created").unwrap();
    let cards: Vec<&str> = [&first, &second]
        .map(|ended| {
            card.captures(&ended.stdout)
                .unwrap()
                .get(1)
                .unwrap()
                .as_str()
        })
        .to_vec();
    assert_ne!(cards[0], cards[1], "a fresh one each time");
    no_process_left(dir.path()).await;
}

#[tokio::test]
async fn up_stays_until_it_is_told_to_stop_and_its_three_lines_do_what_they_say() {
    let dir = TempDir::new().unwrap();
    let mut program = Program::spawn(up(&dir.path().join("state")));
    said(&mut program, "Ctrl-C stops everything").await;
    let lines: Vec<String> = program
        .stdout()
        .lines()
        .filter(|line| line.starts_with("  curl "))
        .map(str::to_owned)
        .collect();
    assert_eq!(lines.len(), 3, "{}", program.stdout());
    for (line, status) in lines.iter().zip(["200", "403", "401"]) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).current_dir(root());
        let ended = program::run(command).await;
        assert!(
            ended.stdout.starts_with(&format!("HTTP/1.1 {status}")),
            "{line}: {}",
            ended.output()
        );
    }
    program.signal(Signal::TERM);
    assert!(program.wait().await.success(), "{}", program.stdout());
    no_process_left(dir.path()).await;
}

#[tokio::test]
async fn up_that_is_interrupted_ends_what_it_started() {
    for moment in ["== starting", "== canary", "== a signed pull request"] {
        let dir = TempDir::new().unwrap();
        let mut program = Program::spawn(up(&dir.path().join("state")));
        said(&mut program, moment).await;
        program.signal(Signal::TERM);
        program.wait().await;
        no_process_left(dir.path()).await;
    }
}

#[tokio::test]
async fn up_ends_what_a_killed_one_left() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("state");
    let mut program = Program::spawn(up(&state));
    said(&mut program, "Ctrl-C stops everything").await;
    program.kill().await;
    // Nobody waits for it any more, so the rest goes by itself.
    no_process_left(dir.path()).await;
    let mut command = up(&state);
    command.env("ORKET_UP_ONCE", "1");
    let ended = run(command).await;
    assert!(ended.status.success(), "{}", ended.output());
    no_process_left(dir.path()).await;
}

#[tokio::test]
async fn up_says_which_port_is_taken_and_how_to_choose_another() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = TempDir::new().unwrap();
    let mut command = up(&dir.path().join("state"));
    command.env("ORKET_UP_PORT", &port);
    let ended = run(command).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.output());
    assert!(
        ended.stderr.contains(&format!("port {port}")) && ended.stderr.contains("ORKET_UP_PORT="),
        "{}",
        ended.output()
    );
    no_process_left(dir.path()).await;
}

#[tokio::test]
async fn up_names_the_step_that_failed() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("gateway.toml"), "version = 1\nnonsense = true\n").unwrap();
    let ended = run(up(&state)).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.output());
    assert!(ended.stderr.contains("FAILED at"), "{}", ended.output());
    no_process_left(dir.path()).await;
}

#[tokio::test]
async fn the_release_smoke_ends_in_success() {
    let ended = run(script(root(), "release-smoke")).await;
    assert!(ended.status.success(), "{}", ended.output());
    assert_eq!(
        ended.stdout.trim_end().lines().last(),
        Some("SUCCESS"),
        "{}",
        ended.output()
    );
    assert!(
        ended.stdout.contains("== canary"),
        "the canary is on: {}",
        ended.stdout
    );
}

/// A copy of what the scripts read, for a test that changes it.
fn copy(dir: &Path) {
    for folder in ["scripts", "deploy"] {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), dir.join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    let body = "tests/corpus/gitea/pull_request_opened.json";
    std::fs::create_dir_all(dir.join(body).parent().unwrap()).unwrap();
    std::fs::copy(root().join(body), dir.join(body)).unwrap();
}

#[tokio::test]
async fn the_release_smoke_fails_on_a_weakened_policy_and_skips_the_canary_only_loudly() {
    let dir = TempDir::new().unwrap();
    copy(dir.path());
    let policy = dir.path().join("deploy/gateway.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    let weak = text.replace(
        "auth = { kind = \"api_key\" }",
        "auth = { kind = \"none\" }",
    );
    assert_ne!(text, weak);
    // A budget by key has no place on a route without keys.
    let weak = weak.replace("rate_limits = [\"per-key\"]\n", "");
    std::fs::write(&policy, &weak).unwrap();
    let ended = run(script(dir.path(), "release-smoke")).await;
    let noticed = "deploy/gateway.toml does not load";
    assert!(
        ended.stderr.contains(noticed),
        "the policy's own tests notice it: {}",
        ended.output()
    );

    // Whoever weakens it may take its tests out as well.
    std::fs::write(&policy, weak.split("[[tests]]").next().unwrap()).unwrap();
    let ended = run(script(dir.path(), "release-smoke")).await;
    assert!(!ended.status.success(), "{}", ended.output());
    assert!(
        !ended.stdout.lines().any(|line| line == "SUCCESS"),
        "{}",
        ended.output()
    );
    assert!(
        ended.stderr.contains("FAILED at: canary"),
        "{}",
        ended.output()
    );

    let mut command = script(dir.path(), "release-smoke");
    command.env("ORKET_SMOKE_CANARY", "0");
    let ended = run(command).await;
    assert!(
        ended.stderr.contains("THE CANARY IS SKIPPED"),
        "{}",
        ended.output()
    );
}

#[tokio::test]
async fn the_setup_is_quiet_where_nothing_is_missing() {
    let ended = run(script(root(), "setup")).await;
    assert!(ended.status.success(), "{}", ended.output());
    assert_eq!(ended.output(), "");
}

#[tokio::test]
async fn the_product_suite_is_absent_passed_or_failed_and_never_silent() {
    let dir = TempDir::new().unwrap();
    copy(dir.path());
    let suite = || run(script(dir.path(), "product-suite"));
    let ended = suite().await;
    assert_eq!(
        ended.output(),
        "product suite: not present, excluded by policy\n"
    );
    assert!(ended.status.success());

    let tests = dir.path().join("product/shop/tests");
    std::fs::create_dir_all(&tests).unwrap();
    assert!(
        !suite().await.status.success(),
        "a folder without a test is a mistake"
    );

    let write = |name: &str, code: u32| {
        let file = tests.join(name);
        std::fs::write(
            &file,
            format!("#!/bin/sh\ntest -d tests && exit {code}\nexit 9\n"),
        )
        .unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("passes", 0);
    let ended = suite().await;
    assert!(
        ended.status.success()
            && ended
                .stdout
                .ends_with("product suite: 1 passed, 0 failed\n"),
        "{}",
        ended.output()
    );
    write("fails", 1);
    let ended = suite().await;
    assert!(
        !ended.status.success()
            && ended
                .stdout
                .ends_with("product suite: 1 passed, 1 failed\n"),
        "{}",
        ended.output()
    );
}
