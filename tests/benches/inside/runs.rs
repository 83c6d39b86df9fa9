//! Runs: taken in, started, done, canceled.

use std::time::{Duration, Instant};

use orket_tests::{Backend, Connection, DEADLINE, Request, convergence, eventually};
use rand::RngExt as _;
use rusqlite::Connection as Sql;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    load::{
        CLIENTS, all_ended, claimed, share, started as supervised, submit, with_a_process,
        without_a_process,
    },
    report::{Report, Times, per_second},
};

const STARTED: &str = "p50 ≤ 5 ms, p99 ≤ 25 ms";

/// Taking in alone: a queue that nothing is taken from.
pub(crate) async fn submissions(report: &mut Report, count: usize) {
    let backend = Backend::start("[runs]\nconcurrency = 1\nqueue_limit = 1000000\n").await;
    let blocker = json!({"command": ["sleep", "3600"], "priority": 9});
    assert_eq!(backend.post("/v1/runs", &blocker).await.status, 201);
    let (time, times) = submit(&backend, count, &with_a_process(), None).await;
    let rate = per_second(count, time);
    let what = format!("durable submissions, {count} from {CLIENTS} clients");
    report.add("submissions", what, format!("{rate:.0}/s"), "≥ 3 000/s");
    let answers = Times::of(times).to_string();
    report.add("submissions", "until the answer", answers, "–");
}

/// From the answer's record to the start, with real processes unless it says otherwise.
pub(crate) async fn started(report: &mut Report, count: usize) {
    one_by_one(report).await;
    let rate = at_once(report).await;
    below_capacity(report, count, rate / 2.0).await;
    a_slot_for_each(report, count).await;
}

/// One after the other on an idle backend: what a person feels.
async fn one_by_one(report: &mut Report) {
    let backend = Backend::start("[runs]\nconcurrency = 8\n").await;
    for _ in 0..100 {
        let answer = backend.post("/v1/runs", &with_a_process()).await;
        assert_eq!(answer.status, 201);
        eventually("it ends", DEADLINE, || async {
            convergence::active_tasks(&backend).await == 0
        })
        .await;
    }
    tell_started(report, &backend, "idle, one by one", "–");
}

/// One run of every client, all at the same moment; how many a second were done.
async fn at_once(report: &mut Report) -> f64 {
    let backend = Backend::start("[runs]\nconcurrency = 8\n").await;
    let begun = Instant::now();
    submit(&backend, CLIENTS, &with_a_process(), None).await;
    all_ended(&backend).await;
    let rate = per_second(CLIENTS, begun.elapsed());
    tell_started(report, &backend, "256 clients in one moment, 8 slots", "–");
    rate
}

/// Clients that come and go, at half the rate at which this machine gets such runs done.
async fn below_capacity(report: &mut Report, count: usize, rate: f64) {
    let backend = Backend::start("[runs]\nconcurrency = 64\n").await;
    let count = (count / 10).max(CLIENTS);
    submit(&backend, count, &with_a_process(), Some(rate)).await;
    all_ended(&backend).await;
    let how = format!("{CLIENTS} clients, {rate:.0}/s at random (half of what it can do)");
    tell_started(report, &backend, &how, STARTED);
}

fn tell_started(report: &mut Report, backend: &Backend, how: &str, aim: &'static str) {
    let claims = Times::of(claimed(backend)).to_string();
    report.add("started", format!("submit → running, {how}"), claims, aim);
    let starts = Times::of(supervised(backend)).to_string();
    let what = format!("submit → process there and recorded, {how}");
    report.add("started", what, starts, aim);
}

/// Many clients as fast as they are answered, and a slot for each of their runs.
async fn a_slot_for_each(report: &mut Report, count: usize) {
    let backend = Backend::start("[runs]\nconcurrency = 10000\n").await;
    submit(&backend, count, &without_a_process(), None).await;
    all_ended(&backend).await;
    let times = Times::of(claimed(&backend)).to_string();
    let what = format!(
        "submit → running WITHOUT A PROCESS, {count} from {CLIENTS} clients as fast as they are answered"
    );
    report.add("started", what, times, STARTED);
}

pub(crate) async fn end_to_end(report: &mut Report, count: usize) {
    let real = (count / 20).max(CLIENTS);
    for (body, count, what) in [
        (
            with_a_process(),
            real,
            "a real /bin/true under its supervisor",
        ),
        (without_a_process(), count, "WITHOUT A PROCESS"),
    ] {
        let mut backend = Backend::start("[runs]\nconcurrency = 8\nqueue_limit = 1000000\n").await;
        let begun = Instant::now();
        submit(&backend, count, &body, None).await;
        all_ended(&backend).await;
        let rate = per_second(count, begun.elapsed());
        let what = format!("runs end to end, {count} of {what}, 8 slots");
        report.add("runs", what, format!("{rate:.1}/s"), "–");
        convergence::settled(&mut backend).await;
    }
}

/// Submissions from all clients, of which about half are canceled, some at once and some later.
pub(crate) async fn converging(report: &mut Report, count: usize) {
    let mut backend = Backend::start("[runs]\nconcurrency = 8\nqueue_limit = 1000000\n").await;
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let share = share(count, client);
        let address = backend.address().clone();
        clients.spawn(async move {
            let mut connection = Connection::open(&address).await;
            let submission = Request::post_json("/v1/runs", &with_a_process()).bytes(&address);
            let mut made: Vec<String> = Vec::new();
            for _ in 0..share {
                connection.send(&submission).await;
                let answer = connection.answer().await;
                assert_eq!(answer.status, 201, "{}", answer.text());
                made.push(answer.json()["id"].as_str().unwrap().to_owned());
                if rand::rng().random_bool(0.5) {
                    let any = rand::rng().random_range(0..made.len());
                    let target = format!("/v1/runs/{}/cancel", made[any]);
                    let cancel = Request::post_json(&target, &json!({}));
                    connection.send(&cancel.bytes(&address)).await;
                    let status = connection.answer().await.status;
                    assert!(matches!(status, 202 | 409), "{status}");
                }
            }
        });
    }
    clients.join_all().await;
    all_ended(&backend).await;
    let time = begun.elapsed();
    convergence::settled(&mut backend).await;
    let store = Sql::open(backend.database()).unwrap();
    let in_state = |state: &str| -> i64 {
        let sql = "SELECT count(*) FROM runs WHERE state = ?1";
        store.query_row(sql, [state], |row| row.get(0)).unwrap()
    };
    let (done, canceled) = (in_state("succeeded"), in_state("canceled"));
    assert_eq!(done + canceled, i64::try_from(count).unwrap());
    let active = convergence::active_tasks(&backend).await;
    let what = format!("{count} submissions from {CLIENTS} clients, {canceled} canceled at random");
    let figure = format!(
        "{active} active after {:.1} s",
        time.max(Duration::from_millis(1)).as_secs_f64()
    );
    report.add("converging", what, figure, "0 active");
}
