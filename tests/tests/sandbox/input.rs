//! What does not fit is refused with a text that helps, and changes nothing.

use orket_tests::Backend;
use serde_json::json;

use super::*;

#[tokio::test]
async fn bad_bodies_are_refused_and_leave_nothing() {
    let backend = Backend::start(&config(40)).await;
    let service = json!({ "name": "a", "command": ["sleep", "1000"] });
    let with = |field: &str, value: serde_json::Value| {
        let mut service = service.clone();
        service[field] = value;
        json!({ "services": [service] })
    };
    let bad = [
        json!({}),
        json!([]),
        json!({ "services": [] }),
        json!({ "services": [service], "surprise": 1 }),
        json!({ "services": [service, service] }),
        json!({ "services": [service], "ttl": "soon" }),
        json!({ "services": [service], "ttl": "30d" }),
        json!({ "services": [service], "credentials": ["../../x"] }),
        json!({ "services": [service], "name": "" }),
        with("surprise", json!(1)),
        with("name", json!("../a")),
        with("command", json!("sleep 1000")),
        with("command", json!([])),
        with("command", json!(["a\0b"])),
        with("env", json!({ "A=B": "x" })),
        with("role", json!("boss")),
        with("port", json!(70_000)),
        with("port", json!(-1)),
        with("workdir", json!("../outside")),
        with("workdir", json!("/etc")),
        with("health", json!({ "path": "/" })),
        with("health", json!({ "url": "http://192.0.2.1/" })),
    ];
    for body in bad {
        let answer = backend.post("/v1/sandboxes", &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(
            answer.json()["detail"]
                .as_str()
                .is_some_and(|detail| detail.len() > 10),
            "{body}"
        );
    }
    assert!(listed(&backend).await.is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let backend = Backend::start(&config(41)).await;
    for id in ["sbx_01J00000000000000000000000", "..%2f..", "%00", "a b"] {
        let id = id.replace(' ', "%20");
        for answer in [
            backend.get(&format!("/v1/sandboxes/{id}")).await,
            backend.get(&format!("/v1/sandboxes/{id}/logs")).await,
            post(&backend, &id, "stop").await,
            post(&backend, &id, "extend").await,
            delete(&backend, &id).await,
        ] {
            assert_eq!(answer.status, 404, "{id}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn logs_are_read_of_the_sandboxs_own_services_only() {
    let backend = Backend::start(&config(42)).await;
    let service = |name: &str| json!({ "name": name, "command": ["sleep", "1000"] });
    let created = create(
        &backend,
        &json!({ "services": [service("a"), service("b")] }),
    )
    .await;
    let target = format!("/v1/sandboxes/{}/logs", id(&created));
    for query in [
        "",
        "service=c",
        "service=../a",
        "service=a.1",
        "service=a&tail=0",
        "service=a&tail=x",
        "service=a&surprise=1",
    ] {
        let answer = backend.get(&format!("{target}?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
    assert_eq!(
        backend.get(&format!("{target}?service=a")).await.status,
        200
    );
}

#[tokio::test]
async fn there_is_a_limit() {
    let backend = Backend::start(&config_with(43, "limit = 1")).await;
    let body = json!({ "services": [{ "name": "a", "command": ["sleep", "1000"] }] });
    create(&backend, &body).await;
    let answer = backend.post("/v1/sandboxes", &body).await;
    assert_eq!(
        (answer.status, answer.json()["reason"].as_str()),
        (429, Some("too_many_sandboxes"))
    );
}

#[tokio::test]
async fn what_cannot_be_kept_in_as_is_demanded_is_not_made() {
    let config = format!("[runs]\nmin_isolation = \"user\"\n{}", config(9));
    let backend = Backend::start(&config).await;
    let body = json!({ "services": [{ "name": "a", "command": ["sleep", "1000"] }] });
    let answer = backend.post("/v1/sandboxes", &body).await;
    let said = answer.json();
    assert_eq!(
        (answer.status, said["reason"].as_str()),
        (503, Some("isolation_too_low")),
        "{said}"
    );
    let detail = said["detail"].as_str().unwrap();
    assert!(
        detail.contains("user") && detail.contains("group"),
        "{detail}"
    );
    assert!(listed(&backend).await.is_empty());
}
