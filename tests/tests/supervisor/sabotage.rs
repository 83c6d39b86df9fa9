//! Commands and machines that turn against the files of an attempt: its end is told all the same.

use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    time::Duration,
};

use orket_backend::executor::{Executor, Outcome};
use orket_tests::{DEADLINE, eventually, program};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{Bench, number_in, report};

/// How a command finds the directory of its attempt.
const DIR: &str = "D=$(dirname \"$TMPDIR\"); ";

fn pid_of(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

#[tokio::test]
async fn a_full_disk_delays_the_end_and_changes_nothing_about_it() {
    let bench = Bench::new();
    // A limit on file sizes refuses every write, also to the log, like a full disk; its signal is
    // turned off on the way.
    let starter = bench.path().join("starter");
    let program = program::path_of("orket-backend");
    let script = format!(
        "#!/bin/sh\ntrap '' XFSZ\nexec {} \"$@\"\n",
        program.display()
    );
    std::fs::write(&starter, script).unwrap();
    std::fs::set_permissions(&starter, std::fs::Permissions::from_mode(0o755)).unwrap();
    let executor = Executor::new(bench.path().join("attempts"), starter).unwrap();
    let script = "echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done; exit 3";
    let attempt = executor.start(bench.script("a.1", script)).await.unwrap();
    number_in(bench.path().join("pid")).await;
    let supervisor = pid_of(attempt.identity.pid);
    let limit = |current| Rlimit {
        current,
        maximum: None,
    };
    prlimit(Some(supervisor), Resource::Fsize, limit(Some(0))).unwrap();
    let dir = bench.path().join("attempts/a.1");
    let changed = || std::fs::metadata(&dir).unwrap().modified().unwrap();
    let before = changed();
    std::fs::write(bench.path().join("go"), "").unwrap();
    eventually("the end was tried to be written", DEADLINE, || async {
        changed() != before
    })
    .await;
    prlimit(Some(supervisor), Resource::Fsize, limit(None)).unwrap();
    let report = report(attempt).await;
    assert_eq!(report.exit.outcome, Outcome::Exited { code: 3 });
}

#[tokio::test]
async fn whatever_lies_in_the_place_of_the_end_holds_nobody_up() {
    let bench = Bench::new();
    for (name, sabotage) in [
        ("fifo", "mkfifo $D/exit.json"),
        ("link", "ln -s /dev/zero $D/exit.json"),
        ("folder", "mkdir -p $D/exit.json/full"),
        ("output", "rm $D/output; mkfifo $D/output"),
        (
            "drafts",
            "for n in 0 1 2 3; do mkfifo $D/exit.$PPID.$n; done",
        ),
    ] {
        let script = format!("{DIR}{sabotage}; sleep 0.1; exit 6");
        let report = bench.run(bench.script(&format!("{name}.1"), &script)).await;
        assert_eq!(report.exit.outcome, Outcome::Exited { code: 6 }, "{name}");
    }
}

#[tokio::test]
async fn a_request_to_end_passes_whatever_lies_in_its_place() {
    let bench = Bench::new();
    let script = format!("{DIR}mkfifo $D/cancel; echo $$ > pid; exec sleep 1000");
    let attempt = bench.start(bench.script("a.1", &script)).await;
    number_in(bench.path().join("pid")).await;
    attempt.cancel().unwrap();
    assert_eq!(report(attempt).await.exit.outcome, Outcome::Canceled);
}

#[tokio::test]
async fn a_working_directory_that_leads_elsewhere_by_now_is_refused() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path().join("real")).unwrap();
    symlink("real", bench.path().join("swapped")).unwrap();
    let mut launch = bench.script("a.1", "pwd");
    launch.workdir = bench.path().join("swapped");
    let report = bench.run(launch).await;
    assert!(
        matches!(&report.exit.outcome, Outcome::LaunchFailed { detail } if detail.contains("leads to")),
        "{report:?}"
    );
}

#[tokio::test]
async fn an_end_that_the_command_wrote_itself_is_not_believed() {
    let bench = Bench::new();
    let forge = "echo '{\"outcome\":{\"kind\":\"exited\",\"code\":0},\"cpu_ms\":0,\
         \"memory_peak_bytes\":0,\"dropped_bytes\":0,\"ended_at\":\"2026-01-01T00:00:00Z\"}' > $D/exit.json; ";
    let script = format!("{DIR}{forge} sleep 0.3; echo still here; exit 9");
    let forged = bench.run(bench.script("a.1", &script)).await;
    assert_eq!(forged.exit.outcome, Outcome::Exited { code: 9 });
    assert_eq!(forged.text(), "still here\n");
    let script = format!("{DIR}{forge} kill -9 $PPID; sleep 1000");
    let killed = bench.run(bench.script("b.1", &script)).await;
    assert!(
        matches!(killed.exit.outcome, Outcome::Lost { .. }),
        "{killed:?}"
    );
}

#[tokio::test]
async fn a_command_that_removes_its_attempt_is_ended_all_the_same() {
    let bench = Bench::new();
    let remove = format!("{DIR}rm -rf \"$D\"; echo $$ > pid; ");
    let attempt = bench
        .start(bench.script("a.1", &format!("{remove} exec sleep 1000")))
        .await;
    let pid = number_in(bench.path().join("pid")).await;
    attempt.cancel().unwrap();
    assert_eq!(report(attempt).await.exit.outcome, Outcome::Canceled);
    assert!(!super::lives(pid));

    let mut launch = bench.script("b.1", &format!("{remove} exec sleep 1000"));
    launch.timeout = Some(Duration::from_millis(300));
    assert_eq!(bench.run(launch).await.exit.outcome, Outcome::TimedOut);
    let launch = bench.script("c.1", &format!("{remove} echo said; exit 4"));
    let report = bench.run(launch).await;
    assert_eq!(report.exit.outcome, Outcome::Exited { code: 4 });
    assert_eq!(report.text(), "said\n");
}

#[tokio::test]
async fn stopping_its_supervisor_keeps_no_command_alive() {
    let bench = Bench::new();
    let again = "echo $$ > pid; trap '' TERM; while :; do kill -STOP $PPID; sleep 0.01; done";
    let mut launch = bench.script("a.1", again);
    launch.grace = Duration::from_millis(100);
    let attempt = bench.start(launch.clone()).await;
    let first = number_in(bench.path().join("pid")).await;
    std::fs::remove_file(bench.path().join("pid")).unwrap();
    attempt.cancel().unwrap();
    launch.id = "b.1".into();
    launch.timeout = Some(Duration::from_millis(300));
    let late = bench.start(launch).await;
    let second = number_in(bench.path().join("pid")).await;
    assert_eq!(report(attempt).await.exit.outcome, Outcome::Canceled);
    assert_eq!(report(late).await.exit.outcome, Outcome::TimedOut);
    assert!(!super::lives(first) && !super::lives(second));
}
