//! What a claim costs, beside a small past and beside a large one: the store alone, as the scheduler
//! calls it, in turns.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use orket_backend::{
    executor::{Exit, Outcome},
    plan::{Bounds, Rules},
    run::Ending,
    store::{
        Store,
        attempts::Verdict,
        runs::{Cause, Why},
        submissions::{NewRun, Subject},
    },
    work::Work,
};
use rusqlite::Connection;

use crate::report::{Report, Times};

const SMALL: usize = 1_000;
/// Claims beside each past.
const CLAIMS: usize = 400;

fn rules() -> Arc<Rules> {
    Arc::new(Rules {
        concurrency: 8,
        queue_limit: 1_000_000,
        queues: BTreeMap::new(),
        bounds: Bounds::default(),
    })
}

/// What was measured beside one past.
#[derive(Default)]
struct Measured {
    claims: Vec<Duration>,
    /// Claims that found nothing to do.
    idle: Vec<Duration>,
    /// Commits of one row, for comparison.
    commits: Vec<Duration>,
}

async fn submit(store: &Store, id: &str) {
    submit_of(store, id, None, 5).await;
}

async fn submit_of(store: &Store, id: &str, build_id: Option<String>, priority: i64) {
    let work = Work {
        command: vec!["true".to_owned()],
        ..Work::default()
    };
    let subject = Subject::Command { work, priority };
    let new = NewRun {
        build_id,
        ..NewRun::new(id, Cause::Api, "bench", "bench", subject)
    };
    let submitted = store.submit_run(Timestamp::now(), new, rules(), None, |_| ().into());
    submitted.await.unwrap();
}

async fn finish(store: &Store, id: &str, epoch: i64) {
    let exit = Exit::now(Outcome::Exited { code: 0 });
    let verdict = Verdict {
        ending: Ending::Succeeded,
        hopeless: false,
        why: Why::default(),
    };
    let finished = store.finish_attempt(Timestamp::now(), id.to_owned(), epoch, exit, verdict);
    finished.await.unwrap();
}

/// A claim beside few and beside many builds that wait.
pub(crate) async fn waiting(report: &mut Report) {
    let dir = tempfile::tempdir().unwrap();
    let mut medians = Vec::new();
    for builds in [10, 5_000] {
        let store = orket_backend::store::open(&dir.path().join(format!("{builds}.db"))).unwrap();
        // Of a lower priority than the runs that are claimed.
        for number in 0..builds {
            let build = Some(format!("build-{number}"));
            submit_of(&store, &format!("waits-{number}"), build, 0).await;
        }
        // All slots but one are taken by others.
        let others = Arc::new(Rules {
            concurrency: 7,
            ..(*rules()).clone()
        });
        let taken = store.claim_runs(Timestamp::now(), others).await.unwrap();
        assert_eq!(taken.claimed.len(), 7);
        let mut claims = Vec::new();
        for round in 0..CLAIMS {
            let id = format!("run-{round}");
            submit(&store, &id).await;
            let begun = Instant::now();
            let claimed = store.claim_runs(Timestamp::now(), rules()).await.unwrap();
            claims.push(begun.elapsed());
            assert_eq!(claimed.claimed[0].id, id);
            finish(&store, &id, claimed.claimed[0].epoch).await;
        }
        let claims = Times::of(claims);
        medians.push(claims.at(50));
        let what = format!("a claim of one run, beside {builds} builds that wait");
        report.add("claims", what, claims.to_string(), "–");
    }
    let ratio = format!("{:.2} times", medians[1] / medians[0]);
    let what = "median of a claim beside many builds that wait, by that beside few";
    report.add("claims", what, ratio, "does not grow");
}

/// A store with as many runs in its past.
async fn with_a_past(path: &Path, finished: usize) -> Store {
    let store = orket_backend::store::open(path).unwrap();
    submit(&store, "first").await;
    let claims = store.claim_runs(Timestamp::now(), rules()).await.unwrap();
    finish(&store, "first", claims.claimed[0].epoch).await;
    drop(store);
    multiply(path, finished);
    orket_backend::store::open(path).unwrap()
}

/// Makes so many of the one run that is there.
fn multiply(path: &Path, finished: usize) {
    let store = Connection::open(path).unwrap();
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
}

async fn measure(store: &Store, round: usize, measured: &mut Measured) {
    let begun = Instant::now();
    store.probe().await.unwrap();
    measured.commits.push(begun.elapsed());

    let begun = Instant::now();
    let none = store.claim_runs(Timestamp::now(), rules()).await.unwrap();
    measured.idle.push(begun.elapsed());
    assert!(none.claimed.is_empty());

    let id = format!("run-{round}");
    submit(store, &id).await;
    let begun = Instant::now();
    let claims = store.claim_runs(Timestamp::now(), rules()).await.unwrap();
    measured.claims.push(begun.elapsed());
    assert_eq!(claims.claimed.len(), 1);
    finish(store, &id, claims.claimed[0].epoch).await;
}

pub(crate) async fn pasts(report: &mut Report, large: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = Vec::new();
    for finished in [SMALL, large] {
        let store = with_a_past(&dir.path().join(format!("{finished}.db")), finished).await;
        stores.push((finished, store, Measured::default()));
    }
    for round in 0..CLAIMS {
        let first = round % 2;
        for place in [first, 1 - first] {
            let (_, store, measured) = &mut stores[place];
            measure(store, round, measured).await;
        }
    }
    let mut medians = Vec::new();
    for (finished, _, measured) in stores {
        let claims = Times::of(measured.claims);
        medians.push(claims.at(50));
        for (what, times) in [
            ("a claim of one run", claims),
            ("a claim that finds nothing", Times::of(measured.idle)),
            ("a commit of one row", Times::of(measured.commits)),
        ] {
            let what = format!("{what}, beside {finished} finished runs");
            report.add("claims", what, times.to_string(), "–");
        }
    }
    let ratio = format!("{:.2} times", medians[1] / medians[0]);
    let what = "median of a claim beside the large past, by that beside the small one";
    report.add("claims", what, ratio, "does not grow");
}
