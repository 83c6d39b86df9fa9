//! Asking twice with a key of one's own.

use serde_json::json;

use super::{at, new_card, order, rules, state, submit, work};
use crate::{
    run::State,
    store::{
        Store,
        cards::{Card, CardError},
        idempotency::{Idempotency, Once},
        retention::Cutoffs,
        runs::Run,
        submissions::{SubmitError, Submitted},
    },
};

fn key(actor: &str, key: &str, body: &str) -> Idempotency {
    Idempotency {
        actor: actor.to_owned(),
        key: key.to_owned(),
        body: body.into(),
    }
}

async fn run(
    store: &Store,
    second: i64,
    id: &str,
    idempotency: Idempotency,
) -> Result<Submitted, SubmitError> {
    let answer = |run: &Run| json!({ "id": run.id });
    let new = order(id, work());
    store
        .submit_run(at(second), new, rules(), Some(idempotency), answer)
        .await
}

async fn card(store: &Store, id: &str, idempotency: Idempotency) -> Result<Once<Card>, CardError> {
    let answer = |card: &Card| json!({ "id": card.id });
    let new = new_card(id, &[]);
    store
        .create_card(at(0), new, Some(idempotency), answer)
        .await
}

pub(super) async fn a_key_acts_once_for_its_actor(store: &Store) {
    let made = run(store, 0, "k1", key("a", "key", "x")).await;
    assert!(matches!(made, Ok(Submitted::New(_))), "{made:?}");
    let same = run(store, 0, "k2", key("a", "key", "x")).await;
    assert!(
        matches!(&same, Ok(Submitted::Before(answer)) if answer["id"] == "k1"),
        "{same:?}"
    );
    let other = run(store, 0, "k3", key("a", "key", "y")).await;
    assert!(matches!(other, Err(SubmitError::KeyReused(_))), "{other:?}");
    let made = run(store, 0, "k4", key("b", "key", "x")).await;
    assert!(matches!(made, Ok(Submitted::New(_))), "{made:?}");
    assert!(store.run("k2".into()).await.unwrap().is_none());
    assert!(store.run("k3".into()).await.unwrap().is_none());
    // What became of it meanwhile makes no difference to the answer.
    store.cancel_run(at(0), "k1".into()).await.unwrap();
    let same = run(store, 0, "k1", key("a", "key", "x")).await;
    assert!(matches!(same, Ok(Submitted::Before(_))), "{same:?}");

    let made = card(store, "K1", key("a", "card", "x")).await;
    assert!(matches!(made, Ok(Once::New(_))), "{made:?}");
    let same = card(store, "K2", key("a", "card", "x")).await;
    assert!(
        matches!(&same, Ok(Once::Before(answer)) if answer["id"] == "K1"),
        "{same:?}"
    );
    let other = card(store, "K2", key("a", "card", "y")).await;
    assert!(matches!(other, Err(CardError::KeyReused(_))), "{other:?}");
    assert!(store.card("K2".into()).await.unwrap().is_none());
    let events = store.events_of("K1".into()).await.unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    store.cancel_run(at(0), "k4".into()).await.unwrap();
}

pub(super) async fn what_is_refused_is_not_remembered(store: &Store) {
    let refused = run(store, 0, "k1", key("a", "refused", "x")).await;
    assert!(
        matches!(refused, Err(SubmitError::Exists(_))),
        "{refused:?}"
    );
    let made = run(store, 0, "k5", key("a", "refused", "y")).await;
    assert!(matches!(made, Ok(Submitted::New(_))), "{made:?}");
    store.cancel_run(at(0), "k5".into()).await.unwrap();
}

const WEEK: i64 = 7 * 24 * 3600;

/// Told to the next boot: a restart forgets no key, and retention alone does, not a clock that is ahead.
pub(super) async fn a_key_is_kept_for_a_week(store: &Store) {
    let same = run(store, 2 * WEEK, "k6", key("a", "refused", "y")).await;
    assert!(
        matches!(&same, Ok(Submitted::Before(answer)) if answer["id"] == "k5"),
        "{same:?}"
    );
    store
        .remove_old(at(WEEK + 1), Cutoffs::default())
        .await
        .unwrap();
    let again = run(store, WEEK + 1, "k6", key("a", "refused", "z")).await;
    assert!(matches!(again, Ok(Submitted::New(_))), "{again:?}");
    assert_eq!(state(store, "k6").await, State::Queued);
    let other = run(store, WEEK + 1, "k7", key("a", "refused", "y")).await;
    assert!(matches!(other, Err(SubmitError::KeyReused(_))), "{other:?}");
    let without = submit(store, order("k6", work())).await;
    assert!(
        matches!(without, Err(SubmitError::Exists(_))),
        "{without:?}"
    );
    store.cancel_run(at(0), "k6".into()).await.unwrap();
}
