//! Attempts outlive the process that started them, and are found again.

use std::{path::Path, process::Command};

use orket_backend::executor::{
    AdoptError, Adoption, Attempt, Executor, Identity, Outcome, Stream, Update,
};
use orket_tests::{
    DEADLINE,
    program::{Program, no_process_left},
};
use rustix::process::{Pid, Signal, kill_process};

use super::{Bench, executor_in, lives, number_in, report};

const FOLDER: &str = "ORKET_TEST_FOLDER";
const SCRIPT: &str = "ORKET_TEST_SCRIPT";

/// Not a test of its own: what [`started_elsewhere`] runs in another process.
#[tokio::test]
#[ignore = "the other process of the tests beside it"]
async fn the_process_that_starts_and_is_killed() {
    let folder = std::env::var(FOLDER).unwrap();
    let mut launch = Bench::new().script("a.1", &std::env::var(SCRIPT).unwrap());
    launch.workdir = folder.clone().into();
    let _attempt = executor_in(Path::new(&folder)).start(launch).await.unwrap();
    println!("\nstarted it");
    std::future::pending::<()>().await;
}

/// Starts `script` as attempt `a.1` from another process and kills that process with SIGKILL.
async fn started_elsewhere(bench: &Bench, script: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "supervisor::adoption::the_process_that_starts_and_is_killed",
        ])
        .env(FOLDER, bench.path())
        .env(SCRIPT, script);
    let mut other = Program::spawn(command);
    other.ready("started ").await;
    other.kill().await;
}

async fn adopt(executor: &Executor, after_seq: u64) -> Attempt {
    match executor.adopt("a.1", after_seq).await.unwrap() {
        Adoption::Running(attempt) => attempt,
        Adoption::Vanished { detail, .. } => panic!("vanished: {detail}"),
    }
}

#[tokio::test]
async fn an_attempt_survives_the_kill_of_who_started_it_and_is_taken_over() {
    let bench = Bench::new();
    let script =
        "echo before; echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done; echo after; exit 4";
    started_elsewhere(&bench, script).await;
    assert!(lives(number_in(bench.path().join("pid")).await));
    assert_eq!(bench.executor.list().unwrap(), ["a.1"]);
    let mut attempt = adopt(&bench.executor, 0).await;
    assert!(attempt.identity.is_alive());
    let Some(Update::Output(first)) = attempt.updates.recv().await else {
        panic!("no output")
    };
    assert_eq!(first[0].bytes, b"before\n");
    std::fs::write(bench.path().join("go"), "").unwrap();
    let report = report(attempt).await;
    assert_eq!(report.text(), "after\n");
    assert_eq!(report.exit.outcome, Outcome::Exited { code: 4 });
    bench.executor.forget("a.1").await.unwrap();
    assert!(bench.executor.list().unwrap().is_empty());
}

#[tokio::test]
async fn one_that_ended_while_nobody_looked_reports_what_is_missing_and_its_end() {
    let bench = Bench::new();
    started_elsewhere(
        &bench,
        "echo one; sleep 0.1; echo two; sleep 0.1; echo three >&2; exit 5",
    )
    .await;
    no_process_left(bench.path()).await;
    let all = report(adopt(&bench.executor, 0).await).await;
    assert_eq!(all.exit.outcome, Outcome::Exited { code: 5 });
    assert_eq!(
        (all.text().as_str(), all.bytes(Stream::Stderr).as_slice()),
        ("one\ntwo\n", b"three\n".as_slice())
    );
    let rest = report(adopt(&bench.executor, all.records[0].seq).await).await;
    assert_eq!(rest.records, all.records[1..]);
    let nothing = report(adopt(&bench.executor, all.records.last().unwrap().seq).await).await;
    assert!(nothing.records.is_empty());
    assert_eq!(nothing.exit, all.exit);
}

#[tokio::test]
async fn one_that_was_taken_over_is_canceled_like_any_other() {
    let bench = Bench::new();
    started_elsewhere(&bench, "echo $$ > pid; exec sleep 1000").await;
    let pid = number_in(bench.path().join("pid")).await;
    let attempt = adopt(&bench.executor, 0).await;
    assert!(matches!(
        bench.executor.forget("a.1").await,
        Err(AdoptError::StillRunning(_))
    ));
    attempt.cancel().unwrap();
    assert_eq!(report(attempt).await.exit.outcome, Outcome::Canceled);
    assert!(!lives(pid));
}

#[tokio::test]
async fn a_supervisor_killed_while_nobody_looked_is_lost_and_its_tree_is_ended() {
    let bench = Bench::new();
    let script =
        "(trap '' TERM; setsid sh -c 'echo $$ > pid; exec sleep 1000' &) ; exec sleep 1000";
    started_elsewhere(&bench, script).await;
    let left = number_in(bench.path().join("pid")).await;
    let claim = std::fs::read_to_string(bench.path().join("attempts/a.1/claim.json")).unwrap();
    let claim: serde_json::Value = serde_json::from_str(&claim).unwrap();
    let supervisor: Identity = serde_json::from_value(claim["supervisor"].clone()).unwrap();
    kill_process(
        Pid::from_raw(i32::try_from(supervisor.pid).unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    orket_tests::eventually("the supervisor is dead", DEADLINE, || async {
        !supervisor.is_alive()
    })
    .await;
    assert!(
        lives(left),
        "it had left its session; only its mark finds it"
    );
    let report = report(adopt(&bench.executor, 0).await).await;
    assert!(
        matches!(report.exit.outcome, Outcome::Lost { .. }),
        "{report:?}"
    );
    assert!(!lives(left));
}

#[tokio::test]
async fn what_never_was_has_vanished() {
    let bench = Bench::new();
    for id in ["a.1", "../a", ""] {
        let adoption = bench.executor.adopt(id, 0).await.unwrap();
        assert!(
            matches!(adoption, Adoption::Vanished { .. }),
            "{id}: {adoption:?}"
        );
        bench.executor.forget(id).await.unwrap();
    }
}

#[tokio::test]
async fn files_torn_by_the_fall_of_a_machine_hold_nothing_up() {
    let bench = Bench::new();
    for torn in ["claim.json", "spec.json", "exit.json", "output"] {
        bench.run(bench.script("a.1", "echo one")).await;
        let dir = bench.path().join("attempts/a.1");
        if torn != "exit.json" {
            std::fs::remove_file(dir.join("exit.json")).unwrap();
        }
        std::fs::write(dir.join(torn), "").unwrap();
        match bench.executor.adopt("a.1", 0).await.unwrap() {
            Adoption::Vanished { .. } => assert_eq!(torn, "claim.json"),
            Adoption::Running(attempt) => {
                let report = report(attempt).await;
                assert!(
                    matches!(report.exit.outcome, Outcome::Lost { .. }),
                    "{torn}: {report:?}"
                );
            }
        }
        bench.executor.forget("a.1").await.unwrap();
        assert!(bench.executor.list().unwrap().is_empty());
    }
}
