//! `Idempotency-Key`: asking twice, at once or later, and being served once.

use std::collections::BTreeSet;

use orket_tests::{Answer, Backend, DEADLINE, Request, eventually};
use serde_json::{Value, json};
use tokio::task::JoinSet;

#[tokio::test]
async fn a_key_that_says_nothing_is_refused() {
    let backend = Backend::start("").await;
    for (route, body, _) in routes() {
        for key in ["", "  ", "\t"] {
            let answer = keyed(route, key, "key:a", &body)
                .send(backend.address())
                .await;
            assert_eq!(answer.status, 400, "{route} {key:?}: {}", answer.text());
            let said = answer.text();
            assert!(said.contains("leave the header out"), "{said}");
        }
        assert_eq!(count(&backend, route).await, 0, "{route}");
    }
}

fn keyed(route: &str, key: &str, actor: &str, body: &Value) -> Request {
    Request::post_json(route, body)
        .header("Idempotency-Key", key)
        .header("X-Orket-Actor", actor)
}

/// Routes that make something, a body for each, and another body.
fn routes() -> Vec<(&'static str, Value, Value)> {
    vec![
        (
            "/v1/runs",
            json!({ "command": ["true"] }),
            json!({ "command": ["false"] }),
        ),
        (
            "/v1/cards",
            json!({ "title": "t", "command": ["true"] }),
            json!({ "title": "u", "command": ["true"] }),
        ),
        (
            "/v1/schedules",
            json!({ "cron": "@yearly", "command": ["true"] }),
            json!({ "cron": "@monthly", "command": ["true"] }),
        ),
        (
            "/v1/sandboxes",
            json!({ "services": [{ "name": "idle", "command": ["sleep", "1000"] }] }),
            json!({ "services": [{ "name": "other", "command": ["sleep", "1000"] }] }),
        ),
    ]
}

async fn count(backend: &Backend, route: &str) -> usize {
    let list = backend.get(route).await.json();
    list["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn of_many_that_ask_at_once_with_one_key_one_is_served() {
    let backend = Backend::start("").await;
    for (route, body, other) in routes() {
        let mut askers = JoinSet::new();
        for _ in 0..32 {
            let request = keyed(route, route, "key:a", &body);
            let address = backend.address().clone();
            askers.spawn(async move { request.send(&address).await });
        }
        let answers: Vec<Answer> = askers.join_all().await;
        assert!(answers.iter().all(|answer| answer.status == 201), "{route}");
        let ids: BTreeSet<String> = answers.iter().map(Answer::text).collect();
        assert_eq!(ids.len(), 1, "{route}: {ids:?}");
        let new = answers
            .iter()
            .filter(|answer| answer.header("idempotent-replayed").is_none());
        assert_eq!(new.count(), 1, "{route}");
        let id = answers[0].json()["id"].as_str().unwrap().to_owned();
        assert!(
            answers
                .iter()
                .all(|a| a.header("location") == Some(&format!("{route}/{id}")))
        );
        assert_eq!(count(&backend, route).await, 1, "{route}");

        let reused = keyed(route, route, "key:a", &other)
            .send(backend.address())
            .await;
        assert_eq!(reused.status, 422, "{route}: {}", reused.text());
        assert_eq!(reused.json()["reason"], "idempotency_key_reused");
        let long = keyed(route, &"k".repeat(256), "key:a", &body);
        assert_eq!(long.send(backend.address()).await.status, 400, "{route}");
        assert_eq!(count(&backend, route).await, 1, "{route}");
        // Someone else's key is another one.
        let someone = keyed(route, route, "key:b", &body)
            .send(backend.address())
            .await;
        assert_eq!(someone.status, 201, "{route}: {}", someone.text());
    }
    // The same key on another route is another request.
    let (_, card, _) = &routes()[1];
    let reused = keyed("/v1/cards", "/v1/runs", "key:a", card);
    assert_eq!(reused.send(backend.address()).await.status, 422);
}

#[tokio::test]
async fn a_refusal_is_not_remembered_and_a_started_card_is_started_once() {
    let backend = Backend::start("").await;
    let start = || {
        keyed(
            "/v1/system/run-active",
            "s",
            "key:a",
            &json!({ "issue_id": "C" }),
        )
    };
    assert_eq!(start().send(backend.address()).await.status, 404);
    let card = json!({ "id": "C", "title": "t", "command": ["true"] });
    let made = keyed("/v1/cards", "c", "key:a", &card)
        .send(backend.address())
        .await;
    assert_eq!(made.status, 201, "{}", made.text());
    let again = keyed("/v1/cards", "c", "key:a", &card)
        .send(backend.address())
        .await;
    assert_eq!((again.status, again.json()), (201, made.json()));
    let first = start().send(backend.address()).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let second = start().send(backend.address()).await;
    assert_eq!((second.status, second.json()), (200, first.json()));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(count(&backend, "/v1/runs").await, 1);
}

#[tokio::test]
async fn a_key_is_forgotten_after_seven_days() {
    let mut backend = Backend::start("").await;
    let body = json!({ "command": ["true"] });
    let ask = || keyed("/v1/runs", "k", "key:a", &body);
    let first = ask().send(backend.address()).await.json();
    let days = |backend: &Backend, days: f64| {
        let store = rusqlite::Connection::open(backend.database()).unwrap();
        let sql = "UPDATE idempotency SET created_at = created_at - ?1 * 86400 * 1000000";
        #[expect(clippy::cast_possible_truncation, reason = "days")]
        let hours = (days * 24.0) as i64;
        let changed = store.execute(&sql.replace("86400", "3600"), [hours]);
        assert_eq!(changed.unwrap(), 1);
    };
    assert!(backend.terminate().await.success());
    days(&backend, 6.9);
    backend.restart().await;
    assert_eq!(ask().send(backend.address()).await.json(), first);
    assert!(backend.terminate().await.success());
    days(&backend, 0.2);
    backend.restart().await;
    eventually("the key is removed", DEADLINE, || async {
        let removed = "retention_removed_total{what=\"idempotency_keys\"}";
        backend.metric(removed).await == 1
    })
    .await;
    let anew = ask().send(backend.address()).await;
    assert_eq!(anew.status, 201);
    assert_ne!(anew.json()["id"], first["id"]);
}

#[tokio::test]
async fn a_sandbox_is_answered_again_where_there_is_room_for_no_other() {
    let backend = Backend::start("[sandboxes]\nlimit = 1\n").await;
    let body = json!({ "services": [{ "name": "idle", "command": ["sleep", "1000"] }] });
    let ask = |key: &str| keyed("/v1/sandboxes", key, "key:a", &body);
    let first = ask("a").send(backend.address()).await;
    assert_eq!(first.status, 201, "{}", first.text());
    assert_eq!(ask("b").send(backend.address()).await.status, 429);
    let again = ask("a").send(backend.address()).await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(count(&backend, "/v1/sandboxes").await, 1);
}

#[tokio::test]
async fn a_key_makes_no_second_run_when_the_first_is_removed() {
    let mut backend = Backend::start("[retention]\nfinished_runs = \"1d\"\n").await;
    let body = json!({ "command": ["true"] });
    let ask = || keyed("/v1/runs", "k", "key:a", &body);
    let first = ask().send(backend.address()).await.json();
    let id = first["id"].as_str().unwrap().to_owned();
    crate::backend_runs::ended(&backend, &id).await;
    assert!(backend.terminate().await.success());
    let store = rusqlite::Connection::open(backend.database()).unwrap();
    let aged = "UPDATE runs SET ended_at = ended_at - 2 * 86400 * 1000000";
    assert_eq!(store.execute(aged, []).unwrap(), 1);
    drop(store);
    backend.restart().await;
    eventually("the run is removed", DEADLINE, || async {
        backend.get(&format!("/v1/runs/{id}")).await.status == 404
    })
    .await;
    let again = ask().send(backend.address()).await;
    assert_eq!((again.status, again.json()), (201, first));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(count(&backend, "/v1/runs").await, 0);
}
