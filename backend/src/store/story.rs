//! What every engine is held to: one story, told to a store that was just made. The simulation adds
//! the histories that nobody would think of.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail"
)]

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::json;

use super::{
    Store,
    attempts::{Finished, Verdict},
    cards::{CardError, NewCard},
    deliveries::{Intent, NewDelivery},
    replays::Selection,
    runs::{CancelOutcome, Cause, Why},
    schedules::{NewSchedule, Scheduled},
    submissions::{Idempotency, NewRun, Subject, SubmitError, Submitted},
};
use crate::{
    executor::{Exit, Outcome, OutputRecord, Stream},
    plan::{Bounds, QueueRule, Rules, deadline::Bound, dependency::Need},
    run::{Ending, State},
    schedule::{Due, Missed, Overlap},
    work::Work,
};

#[tokio::test]
async fn the_embedded_engine_tells_the_story() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orket.db");
    tell(super::open(&path).unwrap()).await;
    // It is all there for the next boot.
    let store = super::open(&path).unwrap();
    assert_eq!(store.active_runs().await.unwrap(), 0);
    assert!(store.run("first".into()).await.unwrap().is_some());
}

async fn tell(store: Store) {
    submissions_are_whole_and_counted(&store).await;
    claims_keep_limits_turns_and_pauses(&store).await;
    only_the_newest_attempt_speaks(&store).await;
    a_cancel_is_durable_and_wins(&store).await;
    bounds_are_seen_by_whoever_looks(&store).await;
    what_needs_a_run_ends_or_starts_with_it(&store).await;
    a_replay_happens_once(&store).await;
    a_time_is_acted_on_once(&store).await;
    a_delivery_acts_once(&store).await;
    no_circle_of_cards(&store).await;
    events_have_no_gaps(&store).await;
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn rules() -> Arc<Rules> {
    let one = QueueRule {
        concurrency: Some(1),
        ..QueueRule::default()
    };
    Arc::new(Rules {
        concurrency: 2,
        queue_limit: 5,
        queues: BTreeMap::from([("one".to_owned(), one)]),
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

    let keyed = async |id: &str, actor: &str, body: &str| {
        let idempotency = Idempotency {
            actor: actor.to_owned(),
            key: "key".to_owned(),
            body: body.into(),
        };
        let answer = |run: &super::runs::Run| json!({ "id": run.id });
        let new = order(id, work());
        store
            .submit_run(at(0), new, rules(), Some(idempotency), answer)
            .await
    };
    assert!(matches!(keyed("k1", "a", "x").await, Ok(Submitted::New(_))));
    let same = keyed("k2", "a", "x").await;
    assert!(
        matches!(&same, Ok(Submitted::Before(answer)) if answer["id"] == "k1"),
        "{same:?}"
    );
    let other = keyed("k3", "a", "y").await;
    assert!(matches!(other, Err(SubmitError::KeyReused)), "{other:?}");
    assert!(matches!(keyed("k4", "b", "x").await, Ok(Submitted::New(_))));
    assert!(store.run("k2".into()).await.unwrap().is_none());

    accepted(store, order("fourth", work())).await;
    accepted(store, order("fifth", work())).await;
    let full = submit(store, order("sixth", work())).await;
    assert!(
        matches!(full, Err(SubmitError::QueueFull { limit: 5 })),
        "{full:?}"
    );
    for id in ["k1", "k4", "fourth", "fifth"] {
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

async fn only_the_newest_attempt_speaks(store: &Store) {
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

async fn a_cancel_is_durable_and_wins(store: &Store) {
    accepted(store, order("cancel", work())).await;
    claim(store, at(0)).await;
    let asked = store.cancel_run(at(0), "cancel".into()).await.unwrap();
    assert!(matches!(asked, CancelOutcome::Canceling(_)), "{asked:?}");
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

async fn bounds_are_seen_by_whoever_looks(store: &Store) {
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

async fn what_needs_a_run_ends_or_starts_with_it(store: &Store) {
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

async fn a_replay_happens_once(store: &Store) {
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
    assert_eq!(claim(store, at(2)).await, [(first.made[0].1.clone(), 1)]);
    finish(store, &first.made[0].1, 1, Ending::Succeeded).await;
}

async fn a_time_is_acted_on_once(store: &Store) {
    let new = NewSchedule {
        id: "schedule".to_owned(),
        cron: "@hourly".to_owned(),
        time_zone: "UTC".to_owned(),
        missed: Missed::Skip,
        overlap: Overlap::Skip,
        catch_up: 1,
        subject: Scheduled::Command {
            command: work(),
            priority: 0,
        },
        queue: "default".to_owned(),
        build_id: None,
        actor: "actor".to_owned(),
    };
    let seen = store
        .create_schedule(at(0), new, Some(at(10)))
        .await
        .unwrap();
    assert_eq!(store.due_schedules(at(9)).await.unwrap().1, Some(at(10)));
    assert_eq!(store.due_schedules(at(10)).await.unwrap().0.len(), 1);
    let due = Due {
        fire: vec![at(10)],
        passed_over: 0,
        next: Some(at(20)),
    };
    let fire = || store.fire_schedule(at(10), seen.clone(), due.clone(), rules());
    assert_eq!(fire().await.unwrap().made.len(), 1);
    assert_eq!(
        fire().await.unwrap().made.len(),
        0,
        "as seen by somebody too late"
    );
    let again = store.schedule("schedule".into()).await.unwrap().unwrap();
    let due = Due {
        fire: vec![at(20)],
        next: Some(at(30)),
        ..due.clone()
    };
    let fired = store.fire_schedule(at(20), again, due, rules()).await;
    assert_eq!(fired.unwrap().made.len(), 0, "the run before has not ended");
    let schedule = store.schedule("schedule".into()).await.unwrap().unwrap();
    assert_eq!((schedule.made, schedule.passed_over), (1, 1));
    assert_eq!(schedule.next_at, Some(at(30)));
    let run = schedule.last_run.unwrap();
    assert_eq!(claim(store, at(20)).await, [(run.clone(), 1)]);
    finish(store, &run, 1, Ending::Succeeded).await;
    store
        .delete_schedule(at(30), "schedule".into())
        .await
        .unwrap();
}

async fn a_delivery_acts_once(store: &Store) {
    let deliver = |id: &str| {
        let new = NewDelivery {
            id: id.to_owned(),
            source: "forge".to_owned(),
            key: "key".to_owned(),
            provider: "gitea".to_owned(),
            event: "push".to_owned(),
            sender_delivery: None,
            actor: "webhook:forge".to_owned(),
            request_id: "request".to_owned(),
            replay_of: None,
        };
        let intent = Intent::Ignore("no use".to_owned());
        store.deliver(at(0), new, "body".into(), intent, rules())
    };
    let first = deliver("d1").await.unwrap();
    let again = deliver("d2").await.unwrap();
    assert_eq!(first.body, again.body);
    assert_eq!(first.body["delivery_id"], "d1");
    assert!(store.delivery("d2".into()).await.unwrap().is_none());
}

async fn no_circle_of_cards(store: &Store) {
    let card = |id: &str, depends_on: &[&str]| NewCard {
        id: id.to_owned(),
        title: id.to_owned(),
        build_id: None,
        priority: 0,
        depends_on: depends_on.iter().map(ToString::to_string).collect(),
        work: work(),
    };
    let own = store.create_card(at(0), card("C0", &["C0"])).await;
    assert!(matches!(own, Err(CardError::Circle(_))), "{own:?}");
    store.create_card(at(0), card("C1", &[])).await.unwrap();
    store.create_card(at(0), card("C2", &["C1"])).await.unwrap();
    let circle = card("C1", &["C2"]);
    let change = store.change_card(
        at(0),
        "C1".into(),
        Box::new(|_| {
            Ok(super::cards::Change {
                to: circle,
                status: None,
            })
        }),
    );
    let refused = change.await;
    assert!(matches!(refused, Err(CardError::Circle(_))), "{refused:?}");
    let subject = Subject::Card {
        id: "C2".to_owned(),
        exclusive: false,
    };
    let early = submit(store, NewRun::new("early", Cause::Card, "a", "q", subject)).await;
    assert!(
        matches!(early, Err(SubmitError::Dependency { .. })),
        "{early:?}"
    );
}

async fn events_have_no_gaps(store: &Store) {
    let newest = store.feed().newest();
    let mut seen = 0;
    loop {
        let events = store.events_after(seen, 7).await.unwrap();
        if events.is_empty() {
            break;
        }
        for event in events {
            assert_eq!(event.seq, seen + 1);
            seen = event.seq;
        }
    }
    assert_eq!(seen, newest);
    let kinds: Vec<String> = store
        .events_of("first".into())
        .await
        .unwrap()
        .into_iter()
        .map(|event| event.kind)
        .collect();
    assert_eq!(kinds, ["run.queued", "run.running", "run.succeeded"]);
    store.probe().await.unwrap();
}
