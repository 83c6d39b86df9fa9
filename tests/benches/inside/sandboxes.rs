//! Sandboxes: how soon one is ready and gone, and what a thousand records cost.

use std::time::{Duration, Instant};

use orket_tests::{
    Backend, DEADLINE, Request,
    engine::{self, Engine, SOCKET},
    eventually,
    program::kill_processes_under,
};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    load::differences,
    report::{Report, Times},
};

/// Processes, and containers, made one after the other.
const PROCESSES: usize = 40;
const CONTAINERS: usize = 15;
const RECORDS: usize = 1_000;
/// What is aimed at for a container.
const CONTAINER_READY: &str = "p95 < 1.5 s";

fn config(ports: u16, more: &str) -> String {
    let range = |n: u16| format!("{}-{}", ports + 10 * n, ports + 10 * n + 9);
    format!(
        "[sandboxes]\ncool_down = \"0s\"\nlimit = 1000\n{more}\n[sandboxes.ports]\napi = \"{}\"\n\
         frontend = \"{}\"\ndatabase = \"{}\"\ndocument_database = \"{}\"\nadmin = \"{}\"\n",
        range(0),
        range(1),
        range(2),
        range(3),
        range(4),
    )
}

pub(crate) async fn all(report: &mut Report) {
    let service = json!({ "name": "api", "role": "api", "health": { "path": "/health" },
        "command": [engine::program()] });
    let backend = Backend::start(&config(27_000, "driver = \"process\"")).await;
    one_by_one(
        report,
        &backend,
        PROCESSES,
        &service,
        "process",
        "p95 < 50 ms",
    )
    .await;
    drop(backend);
    containers(report).await;
    records(report).await;
}

async fn containers(report: &mut Report) {
    let Some(engine) = Engine::get().await else {
        let what = "one container, image present: ready";
        report.add(
            "sandboxes",
            what,
            "SKIPPED: no container engine answers",
            CONTAINER_READY,
        );
        return;
    };
    let service = json!({ "name": "api", "role": "api", "health": { "path": "/health" },
        "image": engine.image().await });
    let more = format!("driver = \"docker\"\n[sandboxes.docker]\nsocket = \"{SOCKET}\"");
    let backend = Backend::start(&config(27_100, &more)).await;
    one_by_one(
        report,
        &backend,
        CONTAINERS,
        &service,
        "one container, image present",
        CONTAINER_READY,
    )
    .await;
}

async fn state(backend: &Backend, id: &str) -> Value {
    backend.get(&format!("/v1/sandboxes/{id}")).await.json()["state"].clone()
}

/// Makes and deletes sandboxes of one service that answers.
async fn one_by_one(
    report: &mut Report,
    backend: &Backend,
    count: usize,
    service: &Value,
    what: &str,
    aim: &'static str,
) {
    for _ in 0..count {
        let made = backend
            .post("/v1/sandboxes", &json!({ "services": [service] }))
            .await;
        assert_eq!(made.status, 201, "{}", made.text());
        let id = made.json()["id"].as_str().unwrap().to_owned();
        eventually("it is running", DEADLINE, || async {
            state(backend, &id).await == "running"
        })
        .await;
        let delete = Request::new("DELETE", &format!("/v1/sandboxes/{id}"));
        assert_eq!(delete.send(backend.address()).await.status, 202);
        eventually("it is gone", DEADLINE, || async {
            state(backend, &id).await == "deleted"
        })
        .await;
    }
    let between = |from: &str, to: &str| {
        let sql = format!(
            "SELECT later.time - earlier.time FROM events AS earlier JOIN events AS later \
             USING (subject) WHERE earlier.kind = 'sandbox.{from}' AND later.kind = 'sandbox.{to}'"
        );
        Times::of(differences(backend, &sql)).to_string()
    };
    let ready = between("creating", "running");
    report.add("sandboxes", format!("{what}: recorded → ready"), ready, aim);
    let gone = between("stopping", "deleted");
    report.add(
        "sandboxes",
        format!("{what}: delete → seen gone"),
        gone,
        "–",
    );
}

fn resident_kib(backend: &Backend) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", backend.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.and_then(|value| value.parse().ok()).unwrap()
}

/// How many sandboxes are in this state, from the store.
fn in_state(backend: &Backend, state: &str) -> usize {
    let store = Connection::open(backend.database()).unwrap();
    let sql = "SELECT count(*) FROM sandboxes WHERE state = ?1";
    let count: i64 = store.query_row(sql, [state], |row| row.get(0)).unwrap();
    usize::try_from(count).unwrap()
}

/// Makes so many of the one sandbox that is there.
fn multiply(backend: &Backend, records: usize) {
    let store = Connection::open(backend.database()).unwrap();
    let mut names = store
        .prepare("SELECT name FROM pragma_table_info('sandboxes')")
        .unwrap();
    let names = names.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let rest: Vec<String> = names
        .map(Result::unwrap)
        .filter(|name| name != "seq" && name != "id")
        .collect();
    let rest = rest.join(", ");
    let sql = format!(
        "INSERT INTO sandboxes (id, {rest}) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL \
         SELECT i + 1 FROM n WHERE i < {records}) SELECT printf('01BENCH%019d', i), {rest} \
         FROM n, (SELECT * FROM sandboxes LIMIT 1)"
    );
    assert_eq!(store.execute(&sql, []).unwrap(), records);
}

/// A thousand records of running sandboxes whose processes are gone, as after a restart of the machine:
/// all of them looked for, found gone and recorded so; and what they cost from then on.
async fn records(report: &mut Report) {
    let mut backend = Backend::start(&config(27_200, "driver = \"process\"")).await;
    let service = json!({ "name": "idle", "command": ["sleep", "1000"] });
    let made = backend
        .post("/v1/sandboxes", &json!({ "services": [service] }))
        .await;
    assert_eq!(made.status, 201, "{}", made.text());
    eventually("it is running", DEADLINE, || async {
        in_state(&backend, "running") == 1
    })
    .await;
    backend.kill().await;
    kill_processes_under(backend.dir());
    backend.restart().await;
    eventually("it is seen", DEADLINE, || async {
        in_state(&backend, "failed") == 1
    })
    .await;
    backend.kill_and_restart().await;
    let before = settled_kib(&backend).await;
    backend.kill().await;
    let store = Connection::open(backend.database()).unwrap();
    store
        .execute(
            "UPDATE sandboxes SET state = 'running', reason = NULL, detail = NULL, ended_at = NULL",
            [],
        )
        .unwrap();
    drop(store);
    multiply(&backend, RECORDS - 1);
    let begun = Instant::now();
    backend.restart().await;
    let listening = begun.elapsed();
    eventually("all are seen", DEADLINE * 10, || async {
        in_state(&backend, "failed") == RECORDS
    })
    .await;
    let all = begun.elapsed();
    let figure = format!(
        "{:.0} ms after listening, which came {:.0} ms after the start",
        all.saturating_sub(listening).as_secs_f64() * 1000.0,
        listening.as_secs_f64() * 1000.0
    );
    let what = format!("{RECORDS} records of running sandboxes that are gone: all recorded so");
    report.add("sandboxes", what, figure, "< 1 s");
    backend.kill_and_restart().await;
    let after = settled_kib(&backend).await;
    let each = (after - before) / i64::try_from(RECORDS).unwrap();
    let what = format!("resident memory for each of {RECORDS} idle records");
    let figure = format!("{each} KiB ({before} → {after} KiB in all)");
    report.add("sandboxes", what, figure, "–");
}

/// The resident memory once nothing is done any more.
async fn settled_kib(backend: &Backend) -> i64 {
    tokio::time::sleep(Duration::from_secs(2)).await;
    resident_kib(backend)
}
