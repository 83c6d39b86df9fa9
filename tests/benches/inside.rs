//! How fast the backend takes work in and gets it done, every submission on disk before its answer
//! (`SQLite`, WAL, `synchronous=FULL`). Prints figures; never fails for being slow.
//!
//! `cargo bench -p orket-tests --bench inside [-- SUBMISSIONS [FINISHED]]` after a release build of
//! `orket-backend`; `make bench` does both. Client and backend share the cores. "Without a process" is
//! a run whose folder is not there: it is claimed, an attempt is recorded, and it ends; what is
//! measured is the store and the scheduler alone.
#![expect(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::time::{Duration, Instant};

use orket_tests::{Backend, Connection, DEADLINE, Request, Watch, convergence, eventually};
use rand::RngExt as _;
use rusqlite::Connection as Sql;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const CLIENTS: usize = 256;
/// Readers of server-sent events.
const READERS: usize = 1_000;
/// Longer than a test waits: many runs on a small machine.
const PATIENCE: Duration = Duration::from_secs(900);

fn with_a_process() -> Value {
    json!({ "command": ["/bin/true"] })
}

fn without_a_process() -> Value {
    json!({ "command": ["/bin/true"], "workdir": "not-there" })
}

/// Sends `count` submissions of `body` over [`CLIENTS`] connections; the time each answer took.
async fn submit(backend: &Backend, count: usize, body: &Value) -> (Duration, Vec<Duration>) {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let share = count / CLIENTS + usize::from(client < count % CLIENTS);
        let address = backend.address().clone();
        let request = Request::post_json("/v1/runs", body).bytes(&address);
        clients.spawn(async move {
            let mut connection = Connection::open(&address).await;
            let mut times = Vec::with_capacity(share);
            for _ in 0..share {
                let asked = Instant::now();
                connection.send(&request).await;
                let answer = connection.answer().await;
                assert_eq!(answer.status, 201, "{}", answer.text());
                times.push(asked.elapsed());
            }
            times
        });
    }
    let times: Vec<Duration> = clients.join_all().await.concat();
    (begun.elapsed(), times)
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    format!(
        "p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        at(50),
        at(95),
        at(99),
        at(100)
    )
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// How long runs waited between being accepted and being started, from the store's own times.
fn waits(backend: &Backend) -> Vec<Duration> {
    let store = Sql::open(backend.database()).unwrap();
    let mut rows = store
        .prepare("SELECT started_at - created_at FROM runs WHERE started_at IS NOT NULL")
        .unwrap();
    let rows = rows.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    rows.map(|waited| Duration::from_micros(waited.unwrap().max(0).unsigned_abs()))
        .collect()
}

async fn all_ended(backend: &Backend) {
    eventually("all runs have ended", PATIENCE, || async {
        convergence::active_tasks(backend).await == 0
            && convergence::runs_in(backend, "queued").await.is_empty()
    })
    .await;
}

/// Taking in alone: a queue that nothing is taken from.
async fn submissions(count: usize) {
    let backend = Backend::start("[runs]\nconcurrency = 1\nqueue_limit = 1000000\n").await;
    let blocker = json!({"command": ["sleep", "3600"], "priority": 9});
    assert_eq!(backend.post("/v1/runs", &blocker).await.status, 201);
    let (time, mut times) = submit(&backend, count, &with_a_process()).await;
    println!(
        "submissions     {:>8.0}/s   {count} durable submissions; {}",
        per_second(count, time),
        percentiles(&mut times)
    );
}

/// One after the other on an idle backend: what a person feels.
async fn one_by_one() {
    let backend = Backend::start("[runs]\nconcurrency = 8\n").await;
    for _ in 0..100 {
        let answer = backend.post("/v1/runs", &with_a_process()).await;
        assert_eq!(answer.status, 201);
        eventually("it ends", DEADLINE, || async {
            convergence::active_tasks(&backend).await == 0
        })
        .await;
    }
    let mut waited = waits(&backend);
    println!(
        "submit→started  {:>8} idle   {} runs one by one; {}",
        "",
        waited.len(),
        percentiles(&mut waited)
    );
}

/// Many clients at once, and a slot for each of their runs.
async fn from_all_clients(count: usize) {
    let backend = Backend::start("[runs]\nconcurrency = 10000\n").await;
    let begun = Instant::now();
    submit(&backend, count, &without_a_process()).await;
    all_ended(&backend).await;
    let time = begun.elapsed();
    let mut waited = waits(&backend);
    println!(
        "submit→started  {:>8} {CLIENTS} clients, a slot for each run, without a process; {}",
        "",
        percentiles(&mut waited)
    );
    println!(
        "runs end to end {:>8.1}/s   {count} without a process",
        per_second(count, time)
    );
}

async fn real_runs(count: usize) {
    let mut backend = Backend::start("[runs]\nconcurrency = 8\n").await;
    let begun = Instant::now();
    submit(&backend, count, &with_a_process()).await;
    all_ended(&backend).await;
    println!(
        "runs end to end {:>8.1}/s   {count} of a real /bin/true under its supervisor, concurrency 8",
        per_second(count, begun.elapsed())
    );
    convergence::settled(&mut backend).await;
}

/// Submissions from all clients, of which about half are canceled, some at once and some later.
async fn converging(count: usize) {
    let mut backend = Backend::start("[runs]\nconcurrency = 8\nqueue_limit = 1000000\n").await;
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let share = count / CLIENTS + usize::from(client < count % CLIENTS);
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
    println!(
        "converging      {:>8.1}/s   {count} submissions from {CLIENTS} clients, {canceled} canceled at random; active_tasks is {}",
        per_second(count, time),
        convergence::active_tasks(&backend).await
    );
}

/// Readers that all see every event.
async fn readers(events: usize) {
    let backend = Backend::start("").await;
    let mut watching = JoinSet::new();
    for _ in 0..READERS {
        let mut watch = Watch::open(backend.address(), "/v1/events", Some(0)).await;
        watching.spawn(async move {
            for seq in 1..=i64::try_from(events).unwrap() {
                let told = watch.must_next().await;
                assert_eq!(told.id, Some(seq));
            }
        });
    }
    eventually("all are being served", DEADLINE, || async {
        backend.metric("readers{kind=\"events_sse\"}").await >= 1_000
    })
    .await;
    let begun = Instant::now();
    let mut connection = Connection::open(backend.address()).await;
    for _ in 0..events {
        let card = json!({ "title": "t", "command": ["true"] });
        let request = Request::post_json("/v1/cards", &card).bytes(backend.address());
        connection.send(&request).await;
        assert_eq!(connection.answer().await.status, 201);
    }
    let made = begun.elapsed();
    watching.join_all().await;
    println!(
        "readers         {:>8.0}/s   {READERS} readers of server-sent events saw {events} events each; the last {:.0} ms after it was made",
        per_second(READERS * events, begun.elapsed()),
        begun.elapsed().saturating_sub(made).as_secs_f64() * 1000.0
    );
}

/// A backend with as many runs in its past.
async fn with_a_past(finished: usize) -> Backend {
    let config = "[runs]\nconcurrency = 8\nqueue_limit = 1000000\n[retention]\nfinished_runs = \"never\"\nlogs = \"never\"\n";
    let mut backend = Backend::start(config).await;
    let first = backend.post("/v1/runs", &without_a_process()).await;
    assert_eq!(first.status, 201);
    all_ended(&backend).await;
    assert!(backend.terminate().await.success());
    let store = Sql::open(backend.database()).unwrap();
    let columns = |table: &str, but: &[&str]| -> Vec<String> {
        let mut names = store
            .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))
            .unwrap();
        let names = names.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let names = names.map(Result::unwrap);
        names.filter(|name| !but.contains(&name.as_str())).collect()
    };
    for (table, id, but) in [
        ("runs", "id", ["seq", "id"]),
        ("attempts", "run_id", ["run_id", "run_id"]),
    ] {
        let rest = columns(table, &but).join(", ");
        let sql = format!(
            "INSERT INTO {table} ({id}, {rest}) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL \
             SELECT i + 1 FROM n WHERE i < {finished}) SELECT 'past-' || i, {rest} FROM n, \
             (SELECT * FROM {table} LIMIT 1)"
        );
        assert_eq!(store.execute(&sql, []).unwrap(), finished);
    }
    drop(store);
    backend.restart().await;
    backend
}

/// The cost of a claim beside a small past and beside a large one, round by round.
async fn pasts(large: usize) {
    const SMALL: usize = 1_000;
    const RUNS: usize = 1_000;
    let backends = [with_a_past(SMALL).await, with_a_past(large).await];
    let mut best = [0.0_f64; 2];
    for round in 0..6 {
        // Each goes first in half of the rounds; the best of three is least disturbed.
        for place in [round % 2, (round + 1) % 2] {
            let backend = &backends[place];
            let begun = Instant::now();
            submit(backend, RUNS, &without_a_process()).await;
            all_ended(backend).await;
            best[place] = best[place].max(per_second(RUNS, begun.elapsed()));
        }
    }
    for (backend, (finished, rate)) in backends.iter().zip([SMALL, large].into_iter().zip(best)) {
        let sum = backend.metric_sum("store_commit_seconds_sum").await;
        let count = backend.metric_sum("store_commit_seconds_count").await;
        println!(
            "runs end to end {rate:>8.1}/s   beside {finished} finished runs, without a process, concurrency 8; {:.2} ms for a commit",
            sum / count * 1000.0
        );
    }
    println!(
        "                {:>8.2}     of the small past's rate beside the large one",
        best[1] / best[0]
    );
}

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse().ok());
    let count: usize = numbers.next().unwrap_or(10_000);
    let large: usize = numbers.next().unwrap_or(1_000_000);
    println!(
        "machine: {} cores; unix socket; {CLIENTS} clients; SQLite, WAL, synchronous=FULL",
        std::thread::available_parallelism().unwrap()
    );
    submissions(count).await;
    one_by_one().await;
    from_all_clients(count).await;
    real_runs((count / 20).max(CLIENTS)).await;
    converging(count).await;
    readers(200).await;
    pasts(large).await;
}
