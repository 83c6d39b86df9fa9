//! Whether the work has come to its end: what the backend counts, what it lists and what really
//! runs say the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::backend::Backend;
use crate::leftovers;
use crate::program::no_process_left;
use crate::wait::{DEADLINE, eventually};
use crate::wire::Request;

/// The `active_tasks` of the heartbeat.
pub async fn active_tasks(backend: &Backend) -> u64 {
    let answer = Request::get("/v1/system/heartbeat")
        .send(backend.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["active_tasks"]
        .as_u64()
        .expect("active_tasks is a number")
}

/// The ids of all runs in `state`, over all pages.
pub async fn runs_in(backend: &Backend, state: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = cursor
            .as_ref()
            .map(|cursor| format!("&cursor={cursor}"))
            .unwrap_or_default();
        let answer = backend.get(&format!("/v1/runs?state={state}{page}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        for run in body["items"].as_array().expect("items is a list") {
            assert_eq!(
                run["state"], state,
                "the filter lets another state through: {run}"
            );
            ids.push(run["id"].as_str().expect("an id").to_owned());
        }
        match body["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return ids,
        }
    }
}

/// Waits until nothing is active, queued or scheduled, and no process a run started is left.
pub async fn settled(backend: &mut Backend) {
    eventually("every run has ended", DEADLINE, || async {
        // All at one moment: what is looked for state by state goes from one to the other meanwhile.
        let runs = backend.get("/v1/system/metrics").await.json()["runs"].clone();
        ["scheduled", "queued", "running", "canceling"]
            .iter()
            .all(|state| runs[state] == 0)
    })
    .await;
    assert_eq!(
        active_tasks(backend).await,
        0,
        "settled work came to life again"
    );
    let own = backend.program().pid();
    eventually("no process of a run is left", DEADLINE, || async {
        crate::program::processes_under(backend.dir())
            .iter()
            .all(|pid| *pid == own)
    })
    .await;
}

/// Waits until not even the backend's own process is left.
pub async fn gone(backend: &Backend) {
    no_process_left(backend.dir()).await;
}

/// The file in the workspace that a command of [`work`] writes to.
pub const EFFECTS: &str = "effects";

/// A script that does what `script` says and leaves a line in [`EFFECTS`] when it begins and when it
/// is done, so that a second execution is seen.
pub fn work(id: &str, script: &str) -> serde_json::Value {
    let script = format!("echo \"$0 begin\" >> {EFFECTS}; {script}\necho \"$0 end\" >> {EFFECTS}");
    serde_json::json!(["sh", "-c", script, id])
}

/// What holds after whatever has happened: waits until everything that was accepted has ended, and
/// then looks at the store, at what the commands did, and at the machine. `accepted` are the runs
/// that somebody was promised.
pub async fn invariants(backend: &mut Backend, accepted: &[String]) {
    settled(backend).await;
    leftovers::none(backend).await;
    let effects = std::fs::read_to_string(backend.workspace().join(EFFECTS)).unwrap_or_default();
    if let Err(broken) = laws(&backend.database(), &effects, accepted) {
        panic!("{broken}\n--- the backend said\n{}", backend.output());
    }
}

/// What the records say of all runs that do the same work, as far as the laws ask: a replay does
/// what the run before it did, under an id of its own.
#[derive(Default)]
struct Record {
    /// Attempts that came to life.
    spent: i64,
    succeeded: i64,
}

/// What the store must say, and how it goes with what the commands have done.
fn laws(store: &std::path::Path, effects: &str, accepted: &[String]) -> Result<(), String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = rusqlite::Connection::open_with_flags(store, flags).expect("the store");
    store
        .busy_timeout(DEADLINE)
        .expect("a timeout can be set on a connection");
    let count = |sql: &str| -> i64 {
        let counted = store.query_row(sql, [], |row| row.get(0));
        counted.unwrap_or_else(|error| panic!("{sql}: {error}"))
    };
    for (law, sql) in LAWS {
        let broken = count(sql);
        if broken != 0 {
            return Err(format!("{law}: {broken} times not so"));
        }
    }
    let sound: String = store
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("a check");
    if sound != "ok" {
        return Err(format!("the store is damaged: {sound}"));
    }
    let mut statement = store
        .prepare(
            "SELECT id, state, retries, (SELECT count(*) FROM attempts WHERE run_id = runs.id \
             AND coalesce(outcome ->> 'kind', '') <> 'never_started'), \
             coalesce(spec ->> '$.command[3]', id) FROM runs",
        )
        .expect("the runs");
    let mut rows = statement.query([]).expect("the runs");
    let mut ids = BTreeSet::new();
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    while let Some(row) = rows.next().expect("a run") {
        let (id, state): (String, String) = (row.get_unwrap(0), row.get_unwrap(1));
        let (retries, spent): (i64, i64) = (row.get_unwrap(2), row.get_unwrap(3));
        if spent > retries + 1 {
            return Err(format!(
                "run {id} has {spent} attempts and {retries} retries"
            ));
        }
        let record = records.entry(row.get_unwrap(4)).or_default();
        record.spent += spent;
        record.succeeded += i64::from(state == "succeeded");
        ids.insert(id);
    }
    if let Some(lost) = accepted.iter().find(|id| !ids.contains(*id)) {
        return Err(format!("run {lost} was accepted and has no record"));
    }
    for (name, Record { spent, succeeded }) in records {
        let lines = |what: &str| {
            let line = format!("{name} {what}");
            i64::try_from(effects.lines().filter(|found| **found == line).count()).unwrap_or(0)
        };
        let (begun, ended) = (lines("begin"), lines("end"));
        if begun > spent {
            return Err(format!("{name} began {begun} times in {spent} attempts"));
        }
        if begun > 0 && ended < succeeded {
            return Err(format!(
                "{name} succeeded {succeeded} times, and was done {ended} times"
            ));
        }
    }
    Ok(())
}

/// What has to be 0 once everything has ended.
const LAWS: &[(&str, &str)] = &[
    (
        "every run has ended",
        "SELECT count(*) FROM runs WHERE state IN ('scheduled', 'queued', 'running', 'canceling')",
    ),
    (
        "every attempt has ended",
        "SELECT count(*) FROM attempts WHERE state <> 'ended'",
    ),
    (
        "a run has one result, told once",
        "SELECT count(*) FROM (SELECT count(*) AS told FROM runs LEFT JOIN events ON \
         subject = runs.id AND kind IN ('run.succeeded', 'run.failed', 'run.timed_out', \
         'run.canceled', 'run.lost') GROUP BY runs.id HAVING count(kind) <> 1)",
    ),
    (
        "what was told last of a run is its state",
        "SELECT count(*) FROM runs WHERE 'run.' || state <> (SELECT kind FROM events \
         WHERE subject = runs.id AND kind LIKE 'run.%' ORDER BY seq DESC LIMIT 1)",
    ),
    (
        "events have no gaps",
        "SELECT coalesce(max(seq) - min(seq) + 1, 0) - count(*) FROM events",
    ),
    (
        "the times of events never go backwards",
        "SELECT count(*) FROM events JOIN events AS next ON next.seq = events.seq + 1 \
         WHERE next.time < events.time",
    ),
    (
        "the times of a run never go backwards",
        "SELECT count(*) FROM runs WHERE queued_at < created_at OR started_at < created_at \
         OR ended_at < coalesce(canceling_at, started_at, created_at)",
    ),
    (
        "the times of an attempt never go backwards",
        "SELECT count(*) FROM attempts WHERE started_at < claimed_at OR ended_at < claimed_at",
    ),
    (
        "only the newest attempt may have succeeded",
        "SELECT count(*) FROM attempts JOIN runs ON runs.id = run_id WHERE attempts.epoch < \
         runs.epoch AND outcome ->> 'kind' = 'exited' AND outcome ->> 'code' = 0",
    ),
    (
        "a run is replayed once",
        "SELECT count(*) FROM (SELECT 1 FROM runs WHERE replay_of IS NOT NULL GROUP BY replay_of \
         HAVING count(*) > 1)",
    ),
    (
        "a schedule makes one run for a time",
        "SELECT count(*) FROM (SELECT 1 FROM events WHERE kind = 'schedule.fired' \
         GROUP BY subject, data ->> 'time' HAVING count(*) > 1)",
    ),
    (
        "a run was started only when what it needs had succeeded",
        "SELECT count(*) FROM run_needs JOIN runs ON runs.id = run_id JOIN runs AS before \
         ON before.id = needs WHERE need = 'success' AND runs.started_at IS NOT NULL \
         AND before.state <> 'succeeded'",
    ),
    (
        "no card is said to be worked on without a run",
        "SELECT count(*) FROM cards WHERE status = 'in_progress'",
    ),
    (
        "a port belongs to a sandbox that lives",
        "SELECT count(*) FROM sandbox_ports JOIN sandboxes ON id = sandbox_id \
         WHERE ended_at IS NOT NULL",
    ),
];
