//! What becomes of attempts, and of what waits for them.

use super::{NewRun, accepted, at, claim, finish, order, rules, state, submit, work};
use crate::{
    executor::{Identity, Isolation, OutputRecord, Stream},
    plan::{Bounds, deadline::Bound, dependency::Need},
    run::{Ending, State},
    store::{Store, attempts::Finished, replays::Selection, runs::CancelOutcome},
    work::Work,
};

pub(super) async fn only_the_newest_attempt_speaks(store: &Store) {
    let retried = Work {
        retries: 1,
        ..work()
    };
    accepted(store, order("fence", retried)).await;
    assert_eq!(claim(store, at(0)).await, [("fence".to_owned(), 1)]);
    let line = |seq| {
        vec![OutputRecord {
            seq,
            stream: Stream::Stdout,
            time: at(0),
            bytes: b"line".to_vec(),
        }]
    };
    assert!(store.take_output("fence".into(), 1, line(1)).await.unwrap());
    let back = store
        .unclaim_run(at(0), "fence".into(), 1, "why".into())
        .await;
    assert_eq!(back.unwrap(), Finished::Run(State::Queued));
    assert_eq!(claim(store, at(0)).await, [("fence".to_owned(), 2)]);
    assert!(!started(store, "fence", 1).await);
    let late = store.attempt_overstepped("fence".into(), 1, Bound::Silence);
    assert!(!late.await.unwrap());
    assert!(started(store, "fence", 2).await);
    assert!(!started(store, "fence", 2).await, "it has started");
    assert_eq!(
        finish(store, "fence", 1, Ending::Succeeded).await,
        Finished::Stale
    );
    assert!(!store.take_output("fence".into(), 1, line(2)).await.unwrap());
    assert_eq!(
        finish(store, "fence", 2, Ending::Failed).await,
        Finished::Run(State::Scheduled)
    );
    assert_eq!(
        finish(store, "fence", 2, Ending::Failed).await,
        Finished::Stale
    );
    let claims = store.claim_runs(at(1), rules()).await.unwrap();
    assert!(claims.claimed.is_empty() && claims.next_due.is_some());
    assert_eq!(claim(store, at(60)).await, [("fence".to_owned(), 3)]);
    assert!(store.take_output("fence".into(), 3, line(1)).await.unwrap());
    assert_eq!(
        finish(store, "fence", 3, Ending::Lost).await,
        Finished::Run(State::Lost)
    );
    assert!(store.open_attempts().await.unwrap().is_empty());
    let seqs: Vec<i64> = store
        .output("fence".into(), 0, 9)
        .await
        .unwrap()
        .iter()
        .map(|row| row.seq)
        .collect();
    assert_eq!(seqs, [1, 2], "numbers go on over attempts");
    let run = store.run("fence".into()).await.unwrap().unwrap();
    assert_eq!(
        (run.attempts, run.epoch),
        (2, 3),
        "what never began is not spent"
    );
}

async fn started(store: &Store, id: &str, epoch: i64) -> bool {
    let supervisor = Identity {
        pid: 1,
        start_ticks: 2,
        boot_id: "boot".to_owned(),
    };
    let started = store.attempt_started(at(0), id.to_owned(), epoch, supervisor, Isolation::Group);
    started.await.unwrap()
}

pub(super) async fn a_cancel_is_durable_and_wins(store: &Store) {
    accepted(store, order("cancel", work())).await;
    claim(store, at(0)).await;
    let asked = store.cancel_run(at(0), "cancel".into()).await.unwrap();
    assert!(matches!(asked, CancelOutcome::Canceling(_)), "{asked:?}");
    let late = store.attempt_overstepped("cancel".into(), 1, Bound::Silence);
    assert!(!late.await.unwrap(), "it is being ended already");
    assert_eq!(store.active_runs().await.unwrap(), 1);
    assert_eq!(
        finish(store, "cancel", 1, Ending::Succeeded).await,
        Finished::Run(State::Canceled)
    );
    let unknown = store.cancel_run(at(0), "none".into()).await.unwrap();
    assert!(matches!(unknown, CancelOutcome::Unknown));
    let ended = store.cancel_run(at(0), "first".into()).await.unwrap();
    assert!(
        matches!(ended, CancelOutcome::Ended(State::Succeeded)),
        "{ended:?}"
    );
}

pub(super) async fn bounds_are_seen_by_whoever_looks(store: &Store) {
    let bounded = Work {
        bounds: Bounds {
            waiting_ms: Some(5_000),
            ..Bounds::default()
        },
        ..work()
    };
    let paused = || store.pause_queue(at(0), "default".into(), "me".into());
    paused().await.unwrap();
    accepted(store, order("late", bounded)).await;
    assert!(claim(store, at(4)).await.is_empty());
    assert_eq!(state(store, "late").await, State::Queued);
    assert!(claim(store, at(5)).await.is_empty());
    let late = store.run("late".into()).await.unwrap().unwrap();
    assert_eq!(late.state, State::TimedOut);
    assert_eq!(late.reason.as_deref(), Some(Bound::Waiting.reason()));
    store
        .resume_queue(at(0), "default".into(), "me".into())
        .await
        .unwrap();

    accepted(store, order("silent", work())).await;
    claim(store, at(0)).await;
    let recorded = store.attempt_overstepped("silent".into(), 1, Bound::Silence);
    assert!(recorded.await.unwrap());
    assert_eq!(
        finish(store, "silent", 1, Ending::Canceled).await,
        Finished::Run(State::TimedOut)
    );
    let again = store.attempt_overstepped("silent".into(), 1, Bound::Silence);
    assert!(!again.await.unwrap());
}

pub(super) async fn what_needs_a_run_ends_or_starts_with_it(store: &Store) {
    let after = |id: &str, needs: &str, need| NewRun {
        needs: vec![(needs.to_owned(), need)],
        ..order(id, work())
    };
    accepted(store, order("base", work())).await;
    accepted(store, after("needs", "base", Need::Success)).await;
    accepted(store, after("chain", "needs", Need::Success)).await;
    accepted(store, after("follows", "base", Need::End)).await;
    assert_eq!(claim(store, at(0)).await, [("base".to_owned(), 1)]);
    finish(store, "base", 1, Ending::Failed).await;
    assert_eq!(state(store, "needs").await, State::Canceled);
    assert_eq!(state(store, "chain").await, State::Canceled);
    assert_eq!(claim(store, at(0)).await, [("follows".to_owned(), 1)]);
    finish(store, "follows", 1, Ending::Succeeded).await;
    for (new, word) in [
        (after("x", "x", Need::Success), "itself"),
        (after("x", "none", Need::Success), "none"),
        (after("x", "base", Need::Success), "failed"),
    ] {
        let refused = submit(store, new).await.unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }
    assert_eq!(store.needs("chain".into()).await.unwrap(), ["needs"]);
}

pub(super) async fn a_replay_happens_once(store: &Store) {
    let selection = Selection {
        states: vec![State::Failed],
        limit: 10,
        ..Selection::default()
    };
    let replay = || {
        let selection = selection.clone();
        store.replay_runs(at(2), selection, "actor".into(), "request".into(), rules())
    };
    let first = replay().await.unwrap();
    assert_eq!(first.made.len(), 1, "{first:?}");
    assert_eq!(first.made[0].0, "base");
    assert!(replay().await.unwrap().made.is_empty());
    // Named, it is not passed over in silence.
    let named = Selection {
        ids: vec!["base".to_owned(), "first".to_owned(), "none".to_owned()],
        ..selection.clone()
    };
    let named = store.replay_runs(at(2), named, "actor".into(), "request".into(), rules());
    let named = named.await.unwrap();
    assert!(named.made.is_empty(), "{named:?}");
    let skipped: Vec<&str> = named.skipped.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(skipped, ["base", "first", "none"]);
    assert!(named.skipped[0].1.contains(&first.made[0].1), "{named:?}");
    assert_eq!(claim(store, at(2)).await, [(first.made[0].1.clone(), 1)]);
    finish(store, &first.made[0].1, 1, Ending::Succeeded).await;
}
