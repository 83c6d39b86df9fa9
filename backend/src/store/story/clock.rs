//! A clock that is set: what waits goes on waiting for as long as was meant.

use std::{collections::BTreeSet, time::Duration};

use super::{NewRun, accepted, at, claim, finish, order, rules, state, work};
use crate::{
    plan::Bounds,
    run::{Ending, State},
    sandbox_state::Reason,
    store::{Store, attempts::Finished, sandboxes::Goal},
    work::Work,
};

const HOUR: i64 = 3_600;

fn bounded(id: &str, queue: &str, waiting_ms: Option<u64>, total_ms: Option<u64>) -> NewRun {
    let work = Work {
        retries: 1,
        bounds: Bounds {
            waiting_ms,
            total_ms,
            ..Bounds::default()
        },
        ..work()
    };
    NewRun {
        queue: queue.to_owned(),
        ..order(id, work)
    }
}

async fn pause(store: &Store, queue: &str) {
    let paused = store.pause_queue(at(0), queue.to_owned(), "me".to_owned());
    paused.await.unwrap();
}

/// Whether a run that may wait, one that has a total time and a retry wait as long as they should,
/// at so many seconds more than the clock showed before.
async fn waits_as_meant(store: &Store, name: &str, moved: i64) {
    let [waits, total, again] = ["waits", "total", "again"].map(|id| format!("{id}-{name}"));
    let now = at(moved + 1);
    let early = store.claim_runs(now, rules()).await.unwrap();
    assert!(early.claimed.is_empty(), "{early:?}");
    assert!(early.next_due.is_some_and(|due| due > now), "{early:?}");
    assert_eq!(state(store, &waits).await, State::Queued);
    assert_eq!(state(store, &again).await, State::Scheduled);
    let due = claim(store, at(moved + 4)).await;
    assert_eq!(due, [(again.clone(), 2)]);
    finish(store, &again, 2, Ending::Succeeded).await;
    assert_eq!(state(store, &waits).await, State::Queued);
    claim(store, at(moved + 5)).await;
    assert_eq!(state(store, &waits).await, State::TimedOut);
    assert_eq!(state(store, &total).await, State::Queued);
    claim(store, at(moved + 10)).await;
    let run = store.run(total).await.unwrap().unwrap();
    assert_eq!(run.state, State::TimedOut);
    assert_eq!(run.created_at, at(0), "what is recorded stays");
}

pub(super) async fn what_waits_is_moved_with_the_clock(
    store: &Store,
    set_clock: &impl AsyncFn(i64),
) {
    // Two clocks that are set: forwards, and backwards behind everything.
    for (name, hours) in [("on", 1), ("back", -1)] {
        let again = bounded(&format!("again-{name}"), "default", None, None);
        let again_id = again.id.clone();
        accepted(store, again).await;
        assert_eq!(claim(store, at(0)).await, [(again_id.clone(), 1)]);
        let retried = finish(store, &again_id, 1, Ending::Failed).await;
        assert_eq!(retried, Finished::Run(State::Scheduled));
        pause(store, "one").await;
        accepted(
            store,
            bounded(&format!("waits-{name}"), "one", Some(5_000), None),
        )
        .await;
        accepted(
            store,
            bounded(&format!("total-{name}"), "one", None, Some(10_000)),
        )
        .await;
        set_clock(hours * HOUR * 1_000_000).await;
        waits_as_meant(store, name, hours * HOUR).await;
        // Back to where it was, for what comes next.
        set_clock(-hours * HOUR * 1_000_000).await;
    }

    let expires = async || {
        store
            .sandbox("s4".into())
            .await
            .unwrap()
            .unwrap()
            .expires_at
    };
    let before = expires().await;
    set_clock(HOUR * 1_000_000).await;
    assert_eq!(expires().await.duration_since(before).as_secs(), HOUR);
    set_clock(-HOUR * 1_000_000).await;
    assert_eq!(expires().await, before);
}

pub(super) async fn what_has_ended_stays_as_it_was(store: &Store, set_clock: &impl AsyncFn(i64)) {
    let id = "s4".to_owned();
    store
        .ask_sandbox_end(at(400), id.clone(), Goal::Deleted, Reason::DeleteRequested)
        .await
        .unwrap();
    store.sandbox_gone(at(400), id.clone()).await.unwrap();
    store.sandbox_removed(at(400), id.clone()).await.unwrap();
    let before = store.sandbox(id.clone()).await.unwrap().unwrap();
    let run = store.run("next".into()).await.unwrap().unwrap();
    set_clock(HOUR * 1_000_000).await;
    let after = store.sandbox(id).await.unwrap().unwrap();
    assert_eq!(after.expires_at, before.expires_at);
    let same = store.run("next".into()).await.unwrap().unwrap();
    assert_eq!(
        (same.since, same.counted_from, same.ended_at),
        (run.since, run.counted_from, run.ended_at)
    );
    // A port cools down for as long as was meant.
    let cool_down = Duration::from_secs(10);
    let held = |second| store.held_ports(at(HOUR + second), cool_down);
    assert_eq!(held(409).await.unwrap(), BTreeSet::from([8003]));
    assert!(held(410).await.unwrap().is_empty());
    set_clock(-HOUR * 1_000_000).await;
}
