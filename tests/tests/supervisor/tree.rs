//! A tree is ended whole, whatever its members try.

use std::time::Duration;

use orket_backend::executor::Outcome;
use orket_tests::program::no_process_left;
use rustix::process::{Pid, Signal, kill_process};

use super::{Bench, lives, number_in, report};

/// Starts a grandchild that forked twice, left its session and ignores TERM; its pid lands in
/// `grandchild`.
const DAEMON: &str = "setsid sh -c '(trap \"\" TERM HUP; sh -c \"echo \\$PPID\" > grandchild; \
     while :; do sleep 1000; done) > /dev/null 2>&1 &' ";

#[tokio::test]
async fn a_cancel_ends_grandchildren_that_left_the_session() {
    let bench = Bench::new();
    let mut launch = bench.script(
        "a.1",
        &format!("{DAEMON}; echo $$ > child; exec sleep 1000"),
    );
    launch.grace = Duration::from_millis(200);
    let attempt = bench.start(launch).await;
    let grandchild = number_in(bench.path().join("grandchild")).await;
    let child = number_in(bench.path().join("child")).await;
    assert!(lives(grandchild) && lives(child));
    attempt.cancel().unwrap();
    attempt.cancel().unwrap();
    assert_eq!(report(attempt).await.exit.outcome, Outcome::Canceled);
    assert!(
        !lives(grandchild) && !lives(child),
        "the end is told after the tree is gone"
    );
    no_process_left(bench.path()).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() {
    let bench = Bench::new();
    let script = format!("{DAEMON}; while [ ! -s grandchild ]; do sleep 0.01; done; exit 3");
    let mut launch = bench.script("a.1", &script);
    launch.grace = Duration::from_millis(100);
    let report = bench.run(launch).await;
    assert_eq!(
        report.exit.outcome,
        Outcome::Exited { code: 3 },
        "its own end counts"
    );
    assert!(!lives(number_in(bench.path().join("grandchild")).await));
}

#[tokio::test]
async fn who_ignores_term_is_killed_and_who_heeds_it_may_finish() {
    let bench = Bench::new();
    let mut deaf = bench.script(
        "deaf.1",
        "trap '' TERM; echo $$ > deaf; while :; do sleep 1000; done",
    );
    deaf.grace = Duration::from_millis(200);
    let deaf = bench.start(deaf).await;
    number_in(bench.path().join("deaf")).await;
    deaf.cancel().unwrap();
    assert_eq!(report(deaf).await.exit.outcome, Outcome::Canceled);

    let polite = "trap 'echo bye; exit 0' TERM; echo $$ > polite; sleep 1000 & wait";
    let polite = bench.start(bench.script("polite.1", polite)).await;
    number_in(bench.path().join("polite")).await;
    polite.cancel().unwrap();
    let report = report(polite).await;
    assert_eq!(report.exit.outcome, Outcome::Canceled);
    assert_eq!(report.text(), "bye\n");
}

#[tokio::test]
async fn a_stopped_command_is_ended_too() {
    let bench = Bench::new();
    let attempt = bench
        .start(bench.script("a.1", "echo $$ > pid; kill -STOP $$; sleep 1000"))
        .await;
    number_in(bench.path().join("pid")).await;
    attempt.cancel().unwrap();
    assert_eq!(report(attempt).await.exit.outcome, Outcome::Canceled);
}

#[tokio::test]
async fn one_that_forks_without_end_is_ended() {
    let bench = Bench::new();
    let script = "trap '' TERM; echo $$ > pid; while :; do (sleep 1000) & sleep 0.002; done";
    let mut launch = bench.script("a.1", script);
    launch.grace = Duration::from_millis(50);
    let attempt = bench.start(launch).await;
    number_in(bench.path().join("pid")).await;
    attempt.cancel().unwrap();
    assert_eq!(report(attempt).await.exit.outcome, Outcome::Canceled);
    assert!(orket_tests::program::processes_under(bench.path()).len() <= 1);
    no_process_left(bench.path()).await;
}

#[tokio::test]
async fn a_command_that_signals_its_group_does_not_hit_its_supervisor() {
    let bench = Bench::new();
    let report = bench.run(bench.script("a.1", "kill -KILL 0")).await;
    assert_eq!(report.exit.outcome, Outcome::Signaled { signal: 9 });
}

#[tokio::test]
async fn a_killed_supervisor_takes_its_whole_tree_with_it() {
    let bench = Bench::new();
    let attempt = bench
        .start(bench.script(
            "a.1",
            &format!("{DAEMON}; echo $$ > child; exec sleep 1000"),
        ))
        .await;
    let grandchild = number_in(bench.path().join("grandchild")).await;
    let child = number_in(bench.path().join("child")).await;
    kill_process(
        Pid::from_raw(i32::try_from(attempt.identity.pid).unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    let report = report(attempt).await;
    assert!(
        matches!(report.exit.outcome, Outcome::Lost { .. }),
        "{report:?}"
    );
    assert!(!lives(child) && !lives(grandchild));
    // The end that was found is written down: whoever asks later hears the same.
    let again = bench.executor.adopt("a.1", 0).await.unwrap();
    let orket_backend::executor::Adoption::Running(again) = again else {
        panic!("{again:?}")
    };
    assert_eq!(super::report(again).await.exit, report.exit);
}
