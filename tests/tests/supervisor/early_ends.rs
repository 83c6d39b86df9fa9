//! Ends that are asked for while a command is on its way into being, and what is forked while its tree
//! is asked to end: at every level that this machine reaches, long before the grace is over.

use std::time::{Duration, Instant};

use orket_backend::{
    confine::{Limits, Network, host::Host},
    executor::{Attempt, Isolation, Launch, Outcome},
    settings::confinement::{Aim, Confinement, Groups},
};
use orket_tests::DEADLINE;

use super::{Bench, number_in, report};

const GRACE: Duration = Duration::from_secs(30);

/// One bench for each way in which this machine can confine commands, the weakest last.
async fn benches() -> Vec<(String, Bench)> {
    let settings = Confinement {
        aim: Aim::Auto,
        run_as: None,
        network: Network::Host,
        readable: Vec::new(),
        writable: Vec::new(),
        keep_out: Vec::new(),
        limits: Limits::default(),
        groups: Groups::Off,
    };
    let mut benches = Vec::new();
    for plan in Host::look(Groups::Off).plans(&settings) {
        let way = format!("{:?}, namespaces {:?}", plan.level(), plan.namespaces);
        let level = plan.level();
        let mut bench = Bench::new();
        bench.executor = bench.executor.clone().confining(plan, level).unwrap();
        let tried = bench.run(launch(&bench, "tried.1", "true")).await;
        if tried.exit.outcome == (Outcome::Exited { code: 0 }) {
            benches.push((way, bench));
        } else {
            assert_ne!(level, Isolation::Group, "{tried:?}");
            eprintln!("SKIPPED: {way} is not reached here: {tried:?}");
        }
    }
    benches
}

fn launch(bench: &Bench, id: &str, script: &str) -> Launch {
    Launch {
        writable: vec![bench.path().to_owned()],
        grace: GRACE,
        ..bench.script(id, script)
    }
}

/// Follows it to its end, which must not have waited for the grace.
async fn ends_soon(attempt: Attempt, way: &str) -> Outcome {
    let begun = Instant::now();
    let report = report(attempt).await;
    let took = begun.elapsed();
    assert!(took < GRACE / 2, "{way}: ended after {took:?}: {report:?}");
    report.exit.outcome
}

#[tokio::test]
async fn a_cancel_right_after_the_start_is_never_lost() {
    for (way, bench) in benches().await {
        for n in 0..12 {
            let id = format!("now{n}.1");
            let attempt = bench.start(launch(&bench, &id, "sleep 1000")).await;
            attempt.cancel().unwrap();
            assert_eq!(ends_soon(attempt, &way).await, Outcome::Canceled, "{way}");
        }
        // Behind the supervisor's own look: while it makes the command, and just when that begins.
        for n in 0..24 {
            let id = format!("soon{n}.1");
            let attempt = bench.start(launch(&bench, &id, "sleep 1000")).await;
            let claim = bench.path().join("attempts").join(&id).join("claim.json");
            let limit = Instant::now() + DEADLINE;
            while !claim.exists() && Instant::now() < limit {
                tokio::task::yield_now().await;
            }
            // Spread over what a launch takes.
            let until = Instant::now() + Duration::from_micros(n * 400);
            while Instant::now() < until {
                tokio::task::yield_now().await;
            }
            attempt.cancel().unwrap();
            assert_eq!(ends_soon(attempt, &way).await, Outcome::Canceled, "{way}");
        }
    }
}

#[tokio::test]
async fn a_timeout_that_is_over_before_the_command_begins_is_one() {
    for (way, bench) in benches().await {
        for n in 0..8 {
            let id = format!("over{n}.1");
            let mut late = launch(&bench, &id, "sleep 1000");
            late.timeout = Some(Duration::from_millis(n));
            let attempt = bench.start(late).await;
            assert_eq!(ends_soon(attempt, &way).await, Outcome::TimedOut, "{way}");
        }
    }
}

/// One that forks when it is asked to end and ends of it: what it forked nobody has asked.
const FORKS: &str = "sh -c 'trap \"sleep 1000 & echo \\$! > orphan; exit\" TERM; echo $$ > forks; \
                     while :; do sleep 0.05; done' &";

#[tokio::test]
async fn what_is_forked_while_the_tree_is_asked_to_end_is_asked_too() {
    for (way, bench) in benches().await {
        // The command itself stays for as long as that lives.
        let script = format!(
            "trap : TERM; {FORKS} wait; wait; until [ -s orphan ]; do sleep 0.05; done; \
             while kill -0 $(cat orphan); do sleep 0.05; done"
        );
        let attempt = bench.start(launch(&bench, "a.1", &script)).await;
        number_in(bench.path().join("forks")).await;
        attempt.cancel().unwrap();
        assert_eq!(ends_soon(attempt, &way).await, Outcome::Canceled, "{way}");
    }
}

#[tokio::test]
async fn what_is_forked_by_one_that_the_command_left_behind_is_asked_too() {
    for (way, bench) in benches().await {
        let script = format!("{FORKS} until [ -s forks ]; do sleep 0.05; done");
        let attempt = bench.start(launch(&bench, "a.1", &script)).await;
        let outcome = ends_soon(attempt, &way).await;
        assert_eq!(outcome, Outcome::Exited { code: 0 }, "{way}");
        assert!(bench.path().join("orphan").exists(), "{way}");
    }
}
