//! How fast the backend takes work in and gets it done, every submission on disk before its answer
//! (`SQLite`, WAL, `synchronous=FULL`). Prints figures; never fails for being slow.
//!
//! `cargo bench -p orket-tests --bench inside [-- SUBMISSIONS]` after a release build of `orket-backend`;
//! `make bench` does both. Client and backend share the cores.
#![expect(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::time::{Duration, Instant};

use orket_tests::{Backend, Connection, DEADLINE, Request, convergence, eventually};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const CLIENTS: usize = 256;

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
async fn waits(backend: &Backend, count: usize) -> Vec<Duration> {
    let items = backend.get(&format!("/v1/runs?limit={count}")).await.json();
    let time = |run: &Value, name: &str| {
        run[name]
            .as_str()
            .and_then(|t| t.parse::<jiff::Timestamp>().ok())
    };
    items["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|run| {
            let waited = time(run, "started_at")?.duration_since(time(run, "created_at")?);
            Duration::try_from(waited).ok()
        })
        .collect()
}

#[tokio::main]
async fn main() {
    let count: usize = std::env::args()
        .skip(1)
        .find_map(|a| a.parse().ok())
        .unwrap_or(10_000);
    println!(
        "machine: {} cores; unix socket; {CLIENTS} clients; SQLite, WAL, synchronous=FULL",
        std::thread::available_parallelism().unwrap()
    );

    // A queue that nothing is taken from: what is measured is taking in.
    let backend = Backend::start("[runs]\nconcurrency = 1\nqueue_limit = 1000000\n").await;
    let blocker = json!({"command": ["sleep", "3600"], "priority": 9});
    assert_eq!(backend.post("/v1/runs", &blocker).await.status, 201);
    let (time, mut times) = submit(&backend, count, &json!({"command": ["true"]})).await;
    println!(
        "submissions     {:>8.0}/s   {count} durable submissions; {}",
        per_second(count, time),
        percentiles(&mut times)
    );
    drop(backend);

    // One after the other on an idle backend: what a person feels.
    let backend = Backend::start("[runs]\nconcurrency = 8\n").await;
    for _ in 0..100 {
        assert_eq!(
            backend
                .post("/v1/runs", &json!({"command": ["true"]}))
                .await
                .status,
            201
        );
        eventually("it ends", DEADLINE, || async {
            convergence::active_tasks(&backend).await == 0
        })
        .await;
    }
    let mut waited = waits(&backend, 100).await;
    println!(
        "submit→started  {:>8} idle   {} runs one by one; {}",
        "",
        waited.len(),
        percentiles(&mut waited)
    );
    drop(backend);

    let runs = (count / 20).max(CLIENTS);
    let mut backend = Backend::start("[runs]\nconcurrency = 8\n").await;
    let begun = Instant::now();
    submit(&backend, runs, &json!({"command": ["true"]})).await;
    convergence::settled(&mut backend).await;
    println!(
        "runs end to end {:>8.1}/s   {runs} real processes under their supervisors, concurrency 8",
        per_second(runs, begun.elapsed())
    );
    println!(
        "active_tasks after all of it: {}",
        convergence::active_tasks(&backend).await
    );
}
