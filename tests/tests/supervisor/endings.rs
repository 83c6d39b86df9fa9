//! Every way a command can end is told apart.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use orket_backend::executor::{LaunchError, Outcome};
use rustix::process::{Pid, Signal, kill_process};

use super::{Bench, number_in};

#[tokio::test]
async fn an_exit_code_is_kept() {
    let bench = Bench::new();
    for code in [0, 1, 127, 255] {
        let report = bench
            .run(bench.script(&format!("code.{code}"), &format!("exit {code}")))
            .await;
        assert_eq!(report.exit.outcome, Outcome::Exited { code });
    }
}

#[tokio::test]
async fn a_signal_is_kept() {
    let bench = Bench::new();
    let report = bench.run(bench.script("a.1", "kill -SEGV $$")).await;
    assert_eq!(report.exit.outcome, Outcome::Signaled { signal: 11 });
}

#[tokio::test]
async fn a_command_that_cannot_be_found_is_told_from_one_that_cannot_be_executed() {
    let bench = Bench::new();
    for name in ["no-such-command-anywhere", "/no/such/file", "./neither"] {
        let id = format!("missing.{}", name.len());
        let report = bench.run(bench.command(&id, &[name])).await;
        assert!(
            matches!(report.exit.outcome, Outcome::CommandNotFound { .. }),
            "{name}: {report:?}"
        );
    }
    let write = |name: &str, content: &str, mode: u32| {
        let path = bench.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("plain", "#!/bin/sh\n", 0o644);
    write("orphan", "#!/no/such/interpreter\n", 0o755);
    write("bare", "echo a shell ran this\n", 0o755);
    write("broken", "\x7fELF and nothing more", 0o755);
    for name in ["./plain", "./orphan", "./bare", "./broken", "/"] {
        let id = format!("broken.{}", name.trim_matches(['.', '/']));
        let report = bench.run(bench.command(&id, &[name])).await;
        assert!(
            matches!(report.exit.outcome, Outcome::LaunchFailed { .. }),
            "{name}: {report:?}"
        );
        assert!(report.records.is_empty(), "{name}: {report:?}");
    }
    let mut launch = bench.script("nowhere.1", "true");
    launch.workdir = bench.path().join("absent");
    let report = bench.run(launch).await;
    assert!(
        matches!(&report.exit.outcome, Outcome::LaunchFailed { detail } if detail.contains("absent")),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_timeout_ends_the_tree_and_says_so() {
    let bench = Bench::new();
    let mut launch = bench.script(
        "a.1",
        "echo begun; trap 'echo asked' TERM; sleep 1000 & wait; exit 0",
    );
    launch.timeout = Some(Duration::from_millis(300));
    let report = bench.run(launch).await;
    assert_eq!(report.exit.outcome, Outcome::TimedOut);
    assert!(report.text().starts_with("begun\n"));
    orket_tests::program::no_process_left(bench.path()).await;
}

#[tokio::test]
async fn a_supervisor_stopped_by_somebody_else_ends_its_tree_as_interrupted() {
    let bench = Bench::new();
    let attempt = bench
        .start(bench.script("a.1", "echo $$ > pid; exec sleep 1000"))
        .await;
    number_in(bench.path().join("pid")).await;
    let supervisor = Pid::from_raw(i32::try_from(attempt.identity.pid).unwrap()).unwrap();
    kill_process(supervisor, Signal::TERM).unwrap();
    assert_eq!(
        super::report(attempt).await.exit.outcome,
        Outcome::Interrupted
    );
}

#[tokio::test]
async fn what_was_used_is_counted() {
    let bench = Bench::new();
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
    let report = bench.run(bench.script("a.1", script)).await;
    assert_eq!(report.exit.outcome, Outcome::Exited { code: 0 });
    assert!(report.exit.cpu_ms > 0, "{report:?}");
    assert!(report.exit.memory_peak_bytes > 100_000, "{report:?}");
}

#[tokio::test]
async fn an_id_is_started_once() {
    let bench = Bench::new();
    let first = bench.start(bench.script("a.1", "true")).await;
    let second = bench.executor.start(bench.script("a.1", "true")).await;
    assert!(matches!(second, Err(LaunchError::Exists(_))));
    super::report(first).await;
    bench.executor.forget("a.1").await.unwrap();
    assert!(bench.executor.list().unwrap().is_empty());
    bench.run(bench.script("a.1", "true")).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_leaves_nothing_behind() {
    let bench = Bench::new();
    let executor =
        orket_backend::executor::Executor::new(bench.path().join("attempts"), "/no/such/program")
            .unwrap();
    let refused = executor.start(bench.script("a.1", "true")).await;
    assert!(
        matches!(refused, Err(LaunchError::Io { .. })),
        "{refused:?}"
    );
    assert!(executor.list().unwrap().is_empty());
}

#[tokio::test]
async fn hundreds_at_once_all_report_their_own_end_and_leave_no_zombie() {
    let bench = Bench::new();
    let mut reports = tokio::task::JoinSet::new();
    for n in 0..100 {
        let attempt = bench
            .start(bench.script(&format!("r{n}.1"), &format!("echo {n}; exit {n}")))
            .await;
        reports.spawn(async move { (n, super::report(attempt).await) });
    }
    while let Some(done) = reports.join_next().await {
        let (n, report) = done.unwrap();
        assert_eq!(report.exit.outcome, Outcome::Exited { code: n });
        assert_eq!(report.text(), format!("{n}\n"));
    }
    let own = std::process::id();
    orket_tests::eventually(
        "no supervisor is left, dead or alive",
        orket_tests::DEADLINE,
        || async {
            std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"))
                .unwrap()
                .trim()
                .is_empty()
        },
    )
    .await;
}
