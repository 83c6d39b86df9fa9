//! Cards that are put away, with their history kept.

use serde_json::json;

use super::{at, new_card};
use crate::{
    card::Status,
    store::{
        Store,
        archive::{Archived, Selection},
    },
};

async fn archive(store: &Store, second: i64, selection: Selection) -> Archived {
    let by = Selection {
        archived_by: Some(format!("somebody at {second}")),
        reason: Some("over".to_owned()),
        ..selection
    };
    store.archive_cards(at(second), by).await.unwrap()
}

fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

pub(super) async fn cards_are_put_away_once(store: &Store) {
    for (id, title, build) in [
        ("A1", "one", Some("old")),
        ("A2", "two", Some("old")),
        ("A3", "ÄRGER", None),
        ("A4", "stays", Some("new")),
    ] {
        let mut card = new_card(id, &[]);
        card.title = title.to_owned();
        card.build_id = build.map(str::to_owned);
        let made = store.create_card(at(0), card, None, |_| json!({}));
        made.await.unwrap();
    }
    let by_id = Selection {
        card_ids: ids(&["A1", "none", "A1"]),
        ..Selection::default()
    };
    let archived = archive(store, 1, by_id).await;
    assert_eq!(archived.archived_ids, ["A1"]);
    assert_eq!(archived.missing_ids, ["none"]);
    let by_build = Selection {
        build_id: Some("old".to_owned()),
        ..Selection::default()
    };
    for second in [2, 3] {
        let archived = archive(store, second, by_build.clone()).await;
        assert_eq!(archived.archived_ids, ["A1", "A2"]);
        assert!(archived.missing_ids.is_empty(), "{archived:?}");
    }
    // Case makes no difference; what matches nothing is not missed.
    let by_token = Selection {
        related_tokens: ids(&["ärg", "nothing"]),
        ..Selection::default()
    };
    let archived = archive(store, 4, by_token).await;
    assert_eq!(archived.archived_ids, ["A3"]);
    assert!(archived.missing_ids.is_empty(), "{archived:?}");

    for (id, second) in [("A1", 1), ("A2", 2), ("A3", 4)] {
        let card = store.card(id.to_owned()).await.unwrap().unwrap();
        assert_eq!(
            (card.status, card.archived_at),
            (Status::Archived, Some(at(second)))
        );
        assert_eq!(card.archived_by, Some(format!("somebody at {second}")));
        assert_eq!(card.archive_reason.as_deref(), Some("over"));
        let events = store.events_of(id.to_owned()).await.unwrap();
        let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["card.ready", "card.archived"]);
    }
    let stays = store.card("A4".into()).await.unwrap().unwrap();
    assert_eq!((stays.status, stays.archived_at), (Status::Ready, None));
}
