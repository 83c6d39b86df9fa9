//! Clients that submit, and what the store says of their runs.

use std::time::{Duration, Instant};

use orket_tests::{Backend, Connection, Request, convergence, eventually};
use rand::RngExt as _;
use rusqlite::Connection as Sql;
use serde_json::{Value, json};
use tokio::task::JoinSet;

pub(crate) const CLIENTS: usize = 256;
/// Longer than a test waits: many runs on a small machine.
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) fn with_a_process() -> Value {
    json!({ "command": ["/bin/true"] })
}

pub(crate) fn without_a_process() -> Value {
    json!({ "command": ["/bin/true"], "workdir": "not-there" })
}

/// The part of `count` that one of the clients has to do.
pub(crate) fn share(count: usize, client: usize) -> usize {
    count / CLIENTS + usize::from(client < count % CLIENTS)
}

/// Sends `count` submissions of `body` over [`CLIENTS`] connections, each as fast as it is answered, or
/// so that all together come at `rate` a second and at random. How long it took, and each answer.
pub(crate) async fn submit(
    backend: &Backend,
    count: usize,
    body: &Value,
    rate: Option<f64>,
) -> (Duration, Vec<Duration>) {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let share = share(count, client);
        let address = backend.address().clone();
        let request = Request::post_json("/v1/runs", body).bytes(&address);
        clients.spawn(async move {
            let mut connection = Connection::open(&address).await;
            let mut times = Vec::with_capacity(share);
            for _ in 0..share {
                if let Some(rate) = rate {
                    let most = 2.0 * 256.0 / rate;
                    let pause = rand::rng().random_range(0.0..most);
                    tokio::time::sleep(Duration::from_secs_f64(pause)).await;
                }
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

pub(crate) async fn all_ended(backend: &Backend) {
    eventually("all runs have ended", PATIENCE, || async {
        convergence::active_tasks(backend).await == 0
            && convergence::runs_in(backend, "queued").await.is_empty()
    })
    .await;
}

/// Differences of two times in the store, one for each row.
pub(crate) fn differences(backend: &Backend, sql: &str) -> Vec<Duration> {
    let store = Sql::open(backend.database()).unwrap();
    let mut rows = store.prepare(sql).unwrap();
    let rows = rows.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    rows.map(|micros| Duration::from_micros(micros.unwrap().max(0).unsigned_abs()))
        .collect()
}

/// How long runs waited between being accepted and being claimed.
pub(crate) fn claimed(backend: &Backend) -> Vec<Duration> {
    differences(
        backend,
        "SELECT started_at - created_at FROM runs WHERE started_at IS NOT NULL",
    )
}

/// How long runs waited between being accepted and their supervisor being there: its process exists and
/// that is recorded.
pub(crate) fn started(backend: &Backend) -> Vec<Duration> {
    differences(
        backend,
        "SELECT attempts.started_at - runs.created_at FROM attempts JOIN runs ON id = run_id \
         WHERE attempts.started_at IS NOT NULL AND attempts.epoch = 1",
    )
}
