//! What stands beside runs: schedules, deliveries, cards, events, and what becomes of all of it.

use serde_json::json;

use super::{
    Cause, NewRun, Subject, SubmitError, accepted, at, claim, finish, new_card, order, rules,
    state, submit, work,
};
use crate::{
    run::{Ending, State},
    schedule::{Due, Missed, Overlap},
    store::{
        Store,
        cards::{self, CardError},
        deliveries::{Intent, NewDelivery},
        idempotency::Once,
        retention::{Cutoffs, Removed},
        schedules::{NewSchedule, Scheduled},
    },
};

pub(super) async fn a_time_is_acted_on_once(store: &Store) {
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
        .create_schedule(at(0), new, Some(at(10)), None, |_| json!({}))
        .await
        .unwrap();
    let Once::New(seen) = seen else {
        panic!("no key, no answer from before: {seen:?}")
    };
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

pub(super) async fn a_delivery_acts_once(store: &Store) {
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

pub(super) async fn no_circle_of_cards(store: &Store) {
    let own = store
        .create_card(at(0), new_card("C0", &["C0"]), None, |_| json!({}))
        .await;
    assert!(matches!(own, Err(CardError::Circle(_))), "{own:?}");
    store
        .create_card(at(0), new_card("C1", &[]), None, |_| json!({}))
        .await
        .unwrap();
    store
        .create_card(at(0), new_card("C2", &["C1"]), None, |_| json!({}))
        .await
        .unwrap();
    let circle = new_card("C1", &["C2"]);
    let change = store.change_card(
        at(0),
        "C1".into(),
        Box::new(|_| {
            Ok(cards::Change {
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

pub(super) async fn events_have_no_gaps(store: &Store) {
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

/// Told last: nothing is left of it.
pub(super) async fn what_is_old_goes_part_by_part(store: &Store) {
    let cutoffs = Cutoffs {
        finished_runs: Some(at(1_000)),
        logs: Some(at(1_000)),
        events: Some(at(1_000)),
        deliveries: Some(at(1_000)),
        archived_cards: Some(at(1_000)),
        deleted_sandboxes: Some(at(1_000)),
    };
    let newest = store.feed().newest();
    let nothing = store.remove_old(at(0), Cutoffs::default()).await.unwrap();
    assert_eq!(nothing, Removed::default());
    let early = Cutoffs {
        finished_runs: Some(at(-1)),
        events: Some(at(-1)),
        ..Cutoffs::default()
    };
    let nothing = store.remove_old(at(0), early).await.unwrap();
    assert_eq!(nothing, Removed::default());
    accepted(store, order("waits", work())).await;
    let mut all = Removed::default();
    loop {
        let removed = store.remove_old(at(0), cutoffs).await.unwrap();
        all.runs += removed.runs;
        all.logs += removed.logs;
        all.events += removed.events;
        all.deliveries += removed.deliveries;
        all.cards += removed.cards;
        all.sandboxes += removed.sandboxes;
        if !removed.more {
            break;
        }
    }
    assert!(all.runs > 10, "{all:?}");
    assert_eq!((all.logs, all.deliveries), (2, 1), "{all:?}");
    assert_eq!((all.cards, all.sandboxes), (3, 2), "{all:?}");
    // With that of the run that waits, and one for each card that went.
    let told = newest.unsigned_abs() + 1 + all.cards;
    assert_eq!(all.events, told, "{all:?}");
    assert!(store.run("first".into()).await.unwrap().is_none());
    assert!(store.attempts("fence".into()).await.unwrap().is_empty());
    assert_eq!(state(store, "waits").await, State::Queued);
    assert!(store.events_of("first".into()).await.unwrap().is_empty());
    // Numbers go on.
    accepted(store, order("next", work())).await;
    let next = store.events_of("next".into()).await.unwrap();
    assert_eq!(next[0].seq.unsigned_abs(), told + 1);
    while store.shrink().await.unwrap() {}
    store.settle_space().await.unwrap();
    for id in ["waits", "next"] {
        store.cancel_run(at(0), id.to_owned()).await.unwrap();
    }
}
