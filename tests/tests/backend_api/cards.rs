//! Cards: made, changed, run, archived.

use orket_tests::{Answer, Backend, DEADLINE, Request, eventually};
use serde_json::{Value, json};

async fn create(backend: &Backend, body: &Value) -> Value {
    let answer = backend.post("/v1/cards", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        answer.header("location"),
        Some(format!("/v1/cards/{id}").as_str())
    );
    answer.json()
}

async fn card(backend: &Backend, id: &str) -> Value {
    backend.get(&format!("/v1/cards/{id}")).await.json()
}

async fn patch(backend: &Backend, id: &str, body: &Value) -> Answer {
    Request::new("PATCH", &format!("/v1/cards/{id}"))
        .header("Content-Type", "application/json")
        .body(body.to_string())
        .send(backend.address())
        .await
}

async fn becomes(backend: &Backend, id: &str, status: &str) {
    eventually(&format!("card {id} is {status}"), DEADLINE, || async {
        card(backend, id).await["status"] == status
    })
    .await;
}

#[tokio::test]
async fn a_card_follows_its_runs() {
    let backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
    for (id, command) in [("good", json!(["true"])), ("bad", json!(["false"]))] {
        create(
            &backend,
            &json!({ "id": id, "title": id, "command": command }),
        )
        .await;
        let answer = backend.post("/v1/runs", &json!({ "card_id": id })).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.json()["card_id"], id);
    }
    becomes(&backend, "good", "done").await;
    becomes(&backend, "bad", "blocked").await;
    let long = json!({ "id": "long", "title": "t", "command": ["sleep", "300"] });
    create(&backend, &long).await;
    let run = backend
        .post("/v1/runs", &json!({ "card_id": "long" }))
        .await
        .json();
    becomes(&backend, "long", "in_progress").await;
    let cancel = format!("/v1/runs/{}/cancel", run["id"].as_str().unwrap());
    assert_eq!(backend.post(&cancel, &json!({})).await.status, 202);
    becomes(&backend, "long", "canceled").await;
    let unknown = backend
        .post("/v1/runs", &json!({ "card_id": "nobody" }))
        .await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn changes_keep_what_they_do_not_name() {
    let backend = Backend::start("").await;
    let body = json!({
        "id": "c", "title": "first", "command": ["true"], "build_id": "b", "priority": 3,
        "env": { "A": "1" }, "timeout": "90s", "workdir": "later",
    });
    let before = create(&backend, &body).await;
    assert_eq!(before["timeout"], 90);
    let change = json!({ "title": "second", "build_id": null, "status": "blocked" });
    let after = patch(&backend, "c", &change).await;
    assert_eq!(after.status, 200, "{}", after.text());
    let after = after.json();
    assert_eq!(
        (&after["title"], &after["build_id"]),
        (&json!("second"), &json!(null))
    );
    assert_eq!(after["status"], "blocked");
    for kept in [
        "priority",
        "env",
        "timeout",
        "workdir",
        "command",
        "created_at",
    ] {
        assert_eq!(after[kept], before[kept], "{kept}");
    }
    for (bad, status) in [
        (json!({ "status": "in_progress" }), 409),
        (json!({ "status": "archived" }), 409),
        (json!({ "status": "gone" }), 400),
        (json!({ "priority": 10 }), 400),
        (json!({ "command": "echo" }), 400),
        (json!({ "workdir": "../.." }), 400),
        (json!({ "depends_on": ["c"] }), 400),
        (json!({ "id": "d" }), 400),
        (json!({ "title": null }), 400),
        (json!({ "priority": null }), 400),
        (json!({ "status": null }), 400),
        (json!({ "depends_on": null }), 400),
        (json!({ "command": null }), 400),
        (json!({ "shell": null }), 400),
        (json!({ "env": null }), 400),
        (json!({ "retries": null }), 400),
        (json!({ "stack": "../x" }), 400),
        (json!({ "stack": "" }), 400),
        (json!([null]), 400),
    ] {
        assert_eq!(patch(&backend, "c", &bad).await.status, status, "{bad}");
    }
    for (status, hint) in [
        ("in_progress", "submit one"),
        ("archived", "/v1/cards/archive"),
    ] {
        let answer = patch(&backend, "c", &json!({ "status": status }))
            .await
            .json();
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains(hint), "{detail}");
    }
    let now = card(&backend, "c").await;
    assert_eq!(now, after, "a refused change has changed something");
    assert_eq!(
        patch(&backend, "nobody", &json!({ "title": "t" }))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn dependencies_are_waited_for_and_circles_refused() {
    let backend = Backend::start("").await;
    create(
        &backend,
        &json!({ "id": "a", "title": "a", "command": ["true"] }),
    )
    .await;
    let b = json!({ "id": "b", "title": "b", "command": ["true"], "depends_on": ["a"] });
    create(&backend, &b).await;
    let circle = patch(&backend, "a", &json!({ "depends_on": ["b"] })).await;
    assert_eq!(circle.status, 400, "{}", circle.text());
    let early = backend.post("/v1/runs", &json!({ "card_id": "b" })).await;
    assert_eq!(
        (early.status, early.json()["reason"].clone()),
        (409, json!("dependency_not_done"))
    );
    let needed = Request::new("DELETE", "/v1/cards/a")
        .send(backend.address())
        .await;
    assert_eq!(needed.status, 409);
    backend.post("/v1/runs", &json!({ "card_id": "a" })).await;
    becomes(&backend, "a", "done").await;
    assert_eq!(
        backend
            .post("/v1/runs", &json!({ "card_id": "b" }))
            .await
            .status,
        201
    );
    becomes(&backend, "b", "done").await;
    for (id, status) in [("b", 204), ("b", 404), ("a", 204)] {
        let answer = Request::new("DELETE", &format!("/v1/cards/{id}"));
        assert_eq!(answer.send(backend.address()).await.status, status, "{id}");
    }
}

#[tokio::test]
async fn cards_are_archived_by_id_build_and_token() {
    let backend = Backend::start("").await;
    for (id, title, build) in [
        ("one", "Alpha", Some("b1")),
        ("two", "Beta", Some("b1")),
        ("three", "about alpha%", None),
        ("four", "Gamma", Some("b2")),
    ] {
        let body = json!({ "id": id, "title": title, "build_id": build, "command": ["true"] });
        create(&backend, &body).await;
    }
    let archive = async |body: Value| backend.post("/v1/cards/archive", &body).await.json();
    let by_id = archive(json!({
        "card_ids": ["one", "nobody"], "reason": "old", "archived_by": "ops",
    }))
    .await;
    let expected = json!({
        "ok": true, "archived_count": 1, "archived_ids": ["one"], "missing_ids": ["nobody"],
    });
    assert_eq!(by_id, expected);
    let one = card(&backend, "one").await;
    assert_eq!(
        (&one["status"], &one["archived_by"]),
        (&json!("archived"), &json!("ops"))
    );
    assert_eq!(one["archive_reason"], "old");
    assert_eq!(
        archive(json!({ "build_id": "b1" })).await["archived_ids"],
        json!(["one", "two"])
    );
    // A token is text, not a pattern.
    assert_eq!(
        archive(json!({ "related_tokens": ["ALPHA%"] })).await["archived_ids"],
        json!(["three"])
    );
    assert_eq!(
        archive(json!({ "related_tokens": ["g_mma"] })).await["archived_count"],
        0
    );
    let left = backend.get("/v1/cards").await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    let put_away = backend.get("/v1/cards?status=archived").await.json();
    assert_eq!(put_away["items"].as_array().unwrap().len(), 3);
    let run = backend.post("/v1/runs", &json!({ "card_id": "one" })).await;
    assert_eq!(
        (run.status, run.json()["reason"].clone()),
        (409, json!("card_not_startable"))
    );
}

#[tokio::test]
async fn archiving_is_bounded_and_knows_every_script() {
    let backend = Backend::start("").await;
    let body = json!({ "id": "umlaut", "title": "Viel Ärger", "command": ["true"] });
    create(&backend, &body).await;
    let ids = |n: usize| (0..n).map(|n| format!("c{n}")).collect::<Vec<_>>();
    for (bad, field) in [
        (json!({ "card_ids": ids(1001) }), "card_ids"),
        (json!({ "related_tokens": ids(101) }), "related_tokens"),
        (
            json!({ "related_tokens": ["x".repeat(201)] }),
            "related_tokens",
        ),
        (
            json!({ "card_ids": ["a"], "reason": "x".repeat(1001) }),
            "reason",
        ),
        (
            json!({ "card_ids": ["a"], "archived_by": "x".repeat(1001) }),
            "archived_by",
        ),
    ] {
        let answer = backend.post("/v1/cards/archive", &bad).await;
        assert_eq!(answer.status, 400, "{field}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("`{field}`")), "{detail}");
    }
    let most = json!({ "card_ids": ids(1000), "related_tokens": ids(100) });
    let answer = backend.post("/v1/cards/archive", &most).await.json();
    assert_eq!(answer["missing_ids"].as_array().unwrap().len(), 1000);
    let token = json!({ "related_tokens": ["ÄRGER"] });
    let answer = backend.post("/v1/cards/archive", &token).await.json();
    assert_eq!(answer["archived_ids"], json!(["umlaut"]));
}

#[tokio::test]
async fn the_command_line_archives_through_the_running_backend_and_without_one() {
    let mut backend = Backend::start("").await;
    for id in ["one", "two"] {
        create(
            &backend,
            &json!({ "id": id, "title": id, "command": ["true"] }),
        )
        .await;
    }
    let config = backend.dir().join("backend.toml");
    let config = config.to_str().unwrap();
    let archive = async |dir: &std::path::Path, id: &str| {
        let arguments = ["archive", "--config", config, "--card", id, "--by", "ops"];
        orket_tests::backend::run(dir, &arguments).await
    };
    let ended = archive(backend.dir(), "one").await;
    assert!(ended.status.success(), "{}", ended.output());
    assert_eq!(card(&backend, "one").await["archived_by"], "ops");
    backend.kill().await;
    let ended = archive(backend.dir(), "two").await;
    assert!(ended.status.success(), "{}", ended.output());
    let ended = archive(backend.dir(), "nobody").await;
    assert!(!ended.status.success(), "{}", ended.output());
    let none = orket_tests::backend::run(backend.dir(), &["archive", "--config", config]).await;
    assert!(none.stderr.contains("--card"), "{}", none.output());
    backend.restart().await;
    assert_eq!(card(&backend, "two").await["status"], "archived");
}

#[tokio::test]
async fn any_number_of_cards_is_archived_and_their_history_is_kept() {
    let mut backend = Backend::start("").await;
    create(
        &backend,
        &json!({ "id": "first", "title": "t", "build_id": "big", "command": ["true"] }),
    )
    .await;
    let run = json!({ "card_id": "first" });
    assert_eq!(backend.post("/v1/runs", &run).await.status, 201);
    becomes(&backend, "first", "done").await;
    assert!(backend.terminate().await.success());
    let store = rusqlite::Connection::open(backend.database()).unwrap();
    let more = "INSERT INTO cards (id, title, build_id, priority, status, depends_on, work, \
                created_at, updated_at) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL \
                SELECT i + 1 FROM n WHERE i < 1200) SELECT 'c' || i, title, build_id, priority, \
                'ready', depends_on, work, created_at, updated_at FROM n, cards WHERE id = 'first'";
    assert_eq!(store.execute(more, []).unwrap(), 1200);
    drop(store);
    backend.restart().await;

    let config = backend.dir().join("backend.toml");
    let arguments = [
        "archive",
        "--config",
        config.to_str().unwrap(),
        "--build",
        "big",
        "--card",
        "nobody",
        "--related",
        "no such text",
        "--reason",
        "it is over",
        "--by",
        "ops",
    ];
    let ended = orket_tests::backend::run(backend.dir(), &arguments).await;
    assert!(
        ended.stdout.starts_with("1201 cards archived\n"),
        "{}",
        ended.stdout
    );
    assert_eq!(ended.stderr.trim(), "no card nobody");
    assert_eq!(ended.status.code(), Some(1));
    let first = card(&backend, "first").await;
    assert_eq!(first["archive_reason"], "it is over");
    // Once more: the same answer, and nothing is changed.
    let again = json!({ "build_id": "big", "reason": "another", "archived_by": "someone" });
    let again = backend.post("/v1/cards/archive", &again).await.json();
    assert_eq!(again["archived_count"], 1201, "{}", again["archived_count"]);
    assert_eq!(card(&backend, "first").await, first);
    let runs = backend.get("/v1/runs?card_id=first").await.json();
    assert_eq!(runs["items"].as_array().unwrap().len(), 1);
    let store = rusqlite::Connection::open(backend.database()).unwrap();
    let told: i64 = store
        .query_row(
            "SELECT count(*) FROM events WHERE kind = 'card.archived'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(told, 1201, "each was told once");
}
