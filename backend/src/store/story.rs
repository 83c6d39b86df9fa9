//! What every engine is held to: one story, told to a store that was just made. The simulation adds
//! the histories that nobody would think of.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail"
)]

mod archive;
mod attempts;
mod beside;
mod clock;
mod once;
mod sandboxes;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::json;

use super::{
    Store,
    attempts::{Finished, Verdict},
    cards::NewCard,
    runs::{Cause, Why},
    submissions::{NewRun, Subject, SubmitError, Submitted},
};
use crate::{
    executor::{Exit, Outcome},
    plan::{Bounds, QueueRule, Rules},
    run::{Ending, State},
    work::Work,
};

#[tokio::test]
async fn the_embedded_engine_tells_the_story() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orket.db");
    let open = || Arc::new(super::Database::open(&path).unwrap());
    tell(open()).await;
    let database = open();
    go_on(database.clone(), async |by: i64| {
        database.clock_was_set(by).await.unwrap();
    })
    .await;
}

/// What a new store is told.
async fn tell(store: Store) {
    submissions_are_whole_and_counted(&store).await;
    once::a_key_acts_once_for_its_actor(&store).await;
    once::what_is_refused_is_not_remembered(&store).await;
    claims_keep_limits_turns_and_pauses(&store).await;
    a_key_has_its_limit_and_a_queue_its_length(&store).await;
    attempts::only_the_newest_attempt_speaks(&store).await;
    attempts::a_cancel_is_durable_and_wins(&store).await;
    attempts::bounds_are_seen_by_whoever_looks(&store).await;
    attempts::what_needs_a_run_ends_or_starts_with_it(&store).await;
    attempts::a_replay_happens_once(&store).await;
    beside::a_time_is_acted_on_once(&store).await;
    beside::a_delivery_acts_once(&store).await;
    beside::no_circle_of_cards(&store).await;
    archive::cards_are_put_away_once(&store).await;
    sandboxes::a_port_is_one_sandboxs_at_a_time(&store).await;
    sandboxes::only_steps_that_are_allowed_are_taken(&store).await;
    sandboxes::a_sandbox_ends_for_its_first_reason(&store).await;
    sandboxes::a_fault_is_kept_until_it_is_removed(&store).await;
    beside::events_have_no_gaps(&store).await;
    beside::what_is_old_goes_part_by_part(&store).await;
}

/// What the same store is told at the next boot, where all of it has to be there. `set_clock` does as
/// when the machine's clock was set by so many microseconds.
async fn go_on(store: Store, set_clock: impl AsyncFn(i64)) {
    assert_eq!(store.active_runs().await.unwrap(), 0);
    assert!(store.run("next".into()).await.unwrap().is_some());
    sandboxes::only_the_boot_that_looks_after_it_speaks(&store).await;
    clock::what_waits_is_moved_with_the_clock(&store, &set_clock).await;
    clock::what_has_ended_stays_as_it_was(&store, &set_clock).await;
    once::a_key_is_kept_for_a_week(&store).await;
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn rules() -> Arc<Rules> {
    let one = QueueRule {
        concurrency: Some(1),
        ..QueueRule::default()
    };
    let keyed = QueueRule {
        key_concurrency: Some(1),
        length: Some(2),
        ..QueueRule::default()
    };
    Arc::new(Rules {
        concurrency: 2,
        queue_limit: 5,
        queues: BTreeMap::from([("one".to_owned(), one), ("keyed".to_owned(), keyed)]),
        bounds: Bounds {
            retry_delay_ms: Some(1_000),
            ..Bounds::default()
        },
    })
}

fn order(id: &str, work: Work) -> NewRun {
    let subject = Subject::Command { work, priority: 5 };
    NewRun::new(id, Cause::Api, "actor", "request", subject)
}

fn work() -> Work {
    Work {
        command: vec!["true".to_owned()],
        ..Work::default()
    }
}

fn new_card(id: &str, depends_on: &[&str]) -> NewCard {
    NewCard {
        id: id.to_owned(),
        title: id.to_owned(),
        build_id: None,
        priority: 0,
        depends_on: depends_on.iter().map(ToString::to_string).collect(),
        work: work(),
    }
}

async fn submit(store: &Store, new: NewRun) -> Result<Submitted, SubmitError> {
    let answer = |run: &super::runs::Run| json!({ "id": run.id });
    store.submit_run(at(0), new, rules(), None, answer).await
}

async fn accepted(store: &Store, new: NewRun) {
    let submitted = submit(store, new).await;
    assert!(matches!(submitted, Ok(Submitted::New(_))), "{submitted:?}");
}

async fn claim(store: &Store, now: Timestamp) -> Vec<(String, i64)> {
    let claims = store.claim_runs(now, rules()).await.unwrap();
    let runs = claims.claimed.into_iter();
    runs.map(|run| (run.id, run.epoch)).collect()
}

async fn finish(store: &Store, id: &str, epoch: i64, ending: Ending) -> Finished {
    let exit = Exit {
        outcome: Outcome::Exited { code: 0 },
        cpu_ms: 1,
        memory_peak_bytes: 1,
        dropped_bytes: 0,
        ended_at: at(1),
    };
    let verdict = Verdict {
        ending,
        hopeless: false,
        why: Why::default(),
    };
    let finished = store.finish_attempt(at(1), id.to_owned(), epoch, exit, verdict);
    finished.await.unwrap()
}

async fn state(store: &Store, id: &str) -> State {
    store.run(id.to_owned()).await.unwrap().unwrap().state
}

async fn submissions_are_whole_and_counted(store: &Store) {
    accepted(store, order("first", work())).await;
    let again = submit(store, order("first", work())).await;
    assert!(matches!(again, Err(SubmitError::Exists(_))), "{again:?}");
    let unknown = NewRun {
        queue: "none".to_owned(),
        ..order("second", work())
    };
    let unknown = submit(store, unknown).await;
    assert!(
        matches!(unknown, Err(SubmitError::UnknownQueue(_))),
        "{unknown:?}"
    );

    for id in ["second", "third"] {
        accepted(store, order(id, work())).await;
    }
    accepted(store, order("fourth", work())).await;
    accepted(store, order("fifth", work())).await;
    let full = submit(store, order("sixth", work())).await;
    assert!(
        matches!(full, Err(SubmitError::QueueFull { limit: 5 })),
        "{full:?}"
    );
    for id in ["second", "third", "fourth", "fifth"] {
        store.cancel_run(at(0), id.to_owned()).await.unwrap();
    }
    assert_eq!(store.active_runs().await.unwrap(), 0);
}

async fn claims_keep_limits_turns_and_pauses(store: &Store) {
    for (id, queue, build) in [
        ("one1", "one", "a"),
        ("one2", "one", "b"),
        ("b1", "default", "b"),
    ] {
        let new = NewRun {
            queue: queue.to_owned(),
            build_id: Some(build.to_owned()),
            ..order(id, work())
        };
        accepted(store, new).await;
    }
    store
        .pause_queue(at(0), "default".into(), "me".into())
        .await
        .unwrap();
    assert_eq!(claim(store, at(0)).await, [("one1".to_owned(), 1)]);
    let queues = store.queues().await.unwrap();
    assert_eq!((queues["one"].active, queues["one"].queued), (1, 1));
    assert_eq!(queues["default"].paused_by.as_deref(), Some("me"));
    store
        .resume_queue(at(0), "default".into(), "me".into())
        .await
        .unwrap();
    // Neither lane was served yet: the one without a build comes first by name.
    assert_eq!(claim(store, at(0)).await, [("first".to_owned(), 1)]);
    assert!(claim(store, at(0)).await.is_empty());
    for (id, next) in [("first", "b1"), ("one1", "one2")] {
        assert_eq!(
            finish(store, id, 1, Ending::Succeeded).await,
            Finished::Run(State::Succeeded)
        );
        assert_eq!(claim(store, at(1)).await, [(next.to_owned(), 1)]);
    }
    for id in ["b1", "one2"] {
        finish(store, id, 1, Ending::Succeeded).await;
    }
    assert_eq!(store.active_runs().await.unwrap(), 0);
}

async fn a_key_has_its_limit_and_a_queue_its_length(store: &Store) {
    let keyed = |id: &str, key: &str| NewRun {
        queue: "keyed".to_owned(),
        build_id: Some(key.to_owned()),
        ..order(id, work())
    };
    accepted(store, keyed("x1", "x")).await;
    accepted(store, keyed("x2", "x")).await;
    let full = submit(store, keyed("x3", "x")).await;
    assert!(
        matches!(full, Err(SubmitError::QueueFull { limit: 2 })),
        "{full:?}"
    );
    assert_eq!(claim(store, at(0)).await, [("x1".to_owned(), 1)]);
    // Asked again, what runs still counts.
    assert!(claim(store, at(0)).await.is_empty());
    accepted(store, keyed("y1", "y")).await;
    assert_eq!(claim(store, at(0)).await, [("y1".to_owned(), 1)]);
    for (id, next) in [("y1", None), ("x1", Some(("x2".to_owned(), 1)))] {
        finish(store, id, 1, Ending::Succeeded).await;
        assert_eq!(claim(store, at(1)).await, Vec::from_iter(next));
    }
    finish(store, "x2", 1, Ending::Succeeded).await;
}
