//! What the backend answers to requests, good and bad: statuses, texts, and nothing broken by it.

mod bad_input;
mod cards;
mod metrics;
mod once;

use orket_tests::{Backend, Request};
use serde_json::json;

#[tokio::test]
async fn the_system_says_what_it_is() {
    let backend = Backend::start("").await;
    assert_eq!(
        backend.get("/health").await.json(),
        json!({ "status": "ok" })
    );
    let version = backend.get("/v1/version").await.json();
    assert_eq!(version["api"], "v1");
    let heartbeat = backend.get("/v1/system/heartbeat").await.json();
    assert_eq!(
        (&heartbeat["status"], &heartbeat["active_tasks"]),
        (&json!("online"), &json!(0))
    );
    assert!(heartbeat["timestamp"].as_str().unwrap().ends_with('Z'));
    let metrics = backend.get("/v1/system/metrics").await.json();
    for part in ["cpu", "memory", "disk", "runs", "sandboxes"] {
        assert!(metrics[part].is_object(), "{part} in {metrics}");
    }
    let described = backend.get("/openapi.json").await.json();
    assert_eq!(described["openapi"], "3.1.0");
}

#[tokio::test]
async fn identity_is_told_as_it_was_received() {
    let backend = Backend::start("").await;
    let answer = Request::get("/v1/whoami")
        .header("X-Orket-Actor", "key:ci")
        .header("X-Request-Id", "01J0000000000000000000TEST")
        .header("X-Forwarded-For", "192.0.2.1")
        .send(backend.address())
        .await;
    let told = json!({
        "actor": "key:ci", "request_id": "01J0000000000000000000TEST", "client_address": "192.0.2.1",
    });
    assert_eq!(answer.json(), told);
    assert_eq!(
        answer.header("x-request-id"),
        Some("01J0000000000000000000TEST")
    );
    let direct = backend.get("/v1/whoami").await;
    assert_eq!(direct.json()["actor"], json!(null));
    assert_eq!(direct.header("x-request-id").unwrap().len(), 26);
}

#[tokio::test]
async fn every_described_route_is_answered_and_every_route_is_described() {
    let backend = Backend::start("").await;
    let described = backend.get("/openapi.json").await.json();
    for (path, item) in described["paths"].as_object().unwrap() {
        let target = path.replace("{id}", "unknown").replace("{source}", "gitea");
        for method in item.as_object().unwrap().keys() {
            let request = Request::new(&method.to_uppercase(), &target);
            // Streams never end: their head is enough.
            let answer = request.send(backend.address());
            if ["/v1/events"].contains(&path.as_str()) {
                continue;
            }
            let answer = answer.await;
            assert_ne!(answer.status, 405, "{method} {path}");
            assert_ne!(answer.status, 500, "{method} {path}");
            if answer.status == 404 {
                assert_ne!(answer.json()["detail"], "Not found", "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn run_active_starts_a_card_by_id_or_by_path() {
    let backend = Backend::start("").await;
    let card = json!({ "id": "ISSUE-1", "title": "t", "command": ["sleep", "300"] });
    assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    let start = async |body| backend.post("/v1/system/run-active", &body).await;

    let none = start(json!({})).await;
    assert_eq!(
        (none.status, none.json()["detail"].clone()),
        (400, json!("No asset ID provided."))
    );
    assert_eq!(
        start(json!({ "issue_id": " ", "path": "" })).await.status,
        400
    );
    for unknown in ["ISSUE-2", "../x", "ä", "a b"] {
        assert_eq!(
            start(json!({ "issue_id": unknown })).await.status,
            404,
            "{unknown}"
        );
    }
    let body =
        json!({ "path": "model/core/issues/ISSUE-1.json", "type": "issue", "build_id": "b1" });
    let started = start(body).await;
    assert_eq!(started.status, 200, "{}", started.text());
    let session = started.json()["session_id"].as_str().unwrap().to_owned();
    let busy = start(json!({ "issue_id": "ISSUE-1" })).await;
    assert_eq!(
        (busy.status, busy.json()["reason"].clone()),
        (409, json!("card_busy"))
    );

    let card = backend.get("/v1/cards/ISSUE-1").await.json();
    assert_eq!(card["status"], "in_progress");
    let run = backend.get(&format!("/v1/sessions/{session}")).await.json();
    assert_eq!(
        (&run["session_id"], &run["build_id"]),
        (&json!(session), &json!("b1"))
    );
    let snapshot = backend
        .get(&format!("/v1/sessions/{session}/snapshot"))
        .await
        .json();
    assert_eq!(snapshot["card"]["id"], "ISSUE-1");
    assert_eq!(snapshot["command"], json!(["sleep", "300"]));
}

#[tokio::test]
async fn a_snapshot_names_the_environment_and_never_its_values() {
    let backend = Backend::start("").await;
    let body = json!({ "id": "r", "command": ["true"], "env": { "TOKEN": "planted-value" } });
    assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
    for path in [
        "/v1/runs/r",
        "/v1/runs",
        "/v1/sessions/r",
        "/v1/sessions/r/snapshot",
    ] {
        let answer = backend.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text().contains("planted-value"), "{path}");
    }
    let snapshot = backend.get("/v1/sessions/r/snapshot").await.json();
    assert_eq!(snapshot["environment"], json!(["TOKEN"]));
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let backend = Backend::start("[runs]\nconcurrency = 1\n").await;
    for n in 0..7 {
        let body = json!({ "id": format!("r{n}"), "command": ["true"], "build_id": "b" });
        assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
    }
    let (seen, _) = pages(&backend, "/v1/runs?limit=3&build_id=b", 3).await;
    assert_eq!(seen, ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]);
}

/// The ids on all pages of a list, each of at most `most` items, and the bytes of the largest page.
async fn pages(backend: &Backend, list: &str, most: usize) -> (Vec<String>, usize) {
    let (mut seen, mut largest) = (Vec::new(), 0);
    let mut target = list.to_owned();
    loop {
        let answer = backend.get(&target).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        largest = largest.max(answer.body.len());
        let page = answer.json();
        let items = page["items"].as_array().unwrap();
        assert!((1..=most).contains(&items.len()));
        seen.extend(
            items
                .iter()
                .map(|item| item["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => target = format!("{list}&cursor={next}"),
            None => return (seen, largest),
        }
    }
}

#[tokio::test]
async fn pages_of_what_is_large_are_short() {
    let backend = Backend::start("").await;
    assert_eq!(
        backend
            .post("/v1/queues/default/pause", &json!({}))
            .await
            .status,
        200
    );
    let large = "x".repeat(100_000);
    for n in 0..20 {
        let command = json!(["echo", large, large, large, large]);
        for (route, body) in [
            (
                "/v1/runs",
                json!({ "id": format!("r{n}"), "command": command }),
            ),
            (
                "/v1/cards",
                json!({ "id": format!("c{n}"), "title": "t", "build_id": "b", "command": command }),
            ),
            (
                "/v1/schedules",
                json!({ "id": format!("s{n}"), "cron": "0 0 1 1 *", "command": command }),
            ),
        ] {
            let answer = backend.post(route, &body).await;
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    }
    // A card's run holds it twice: its own work and the card as it was.
    let body = json!({ "id": "of-a-card", "card_id": "c0" });
    assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
    for (list, count) in [
        ("/v1/runs?limit=500", 21),
        ("/v1/cards?limit=500", 20),
        ("/v1/schedules?limit=500", 20),
        ("/v1/runs/of-a-card/backlog?limit=500", 20),
    ] {
        let (mut seen, largest) = pages(&backend, list, 5).await;
        assert!(largest < 3_000_000, "{list}: a page of {largest} bytes");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count, "{list}");
    }
}
