//! Replaying what did not succeed.

use orket_tests::{Backend, backend};
use serde_json::{Value, json};

use crate::backend_runs::{ended, run, submit};

async fn replay(backend: &Backend, body: &Value) -> Value {
    let answer = backend.post("/v1/runs/replay", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn failed_runs_are_replayed_once_however_often_it_is_asked() {
    let mut backend = Backend::start("").await;
    let script = "test -e fixed";
    for name in ["one", "two"] {
        let body = json!({ "id": name, "command": ["sh", "-c", script], "build_id": "b" });
        submit(&backend, &body).await;
        assert_eq!(ended(&backend, name).await["state"], "failed");
    }
    submit(&backend, &json!({ "id": "other", "command": ["false"] })).await;
    submit(
        &backend,
        &json!({ "id": "good", "command": ["true"], "build_id": "b" }),
    )
    .await;
    for name in ["other", "good"] {
        ended(&backend, name).await;
    }
    std::fs::write(backend.workspace().join("fixed"), "").unwrap();
    let answer = replay(&backend, &json!({ "build_id": "b" })).await;
    let replayed = answer["replayed"].as_array().unwrap();
    let from: Vec<_> = replayed.iter().map(|run| run["id"].clone()).collect();
    assert_eq!(from, ["one", "two"]);
    backend.kill_and_restart().await;
    for made in replayed {
        let id = made["run_id"].as_str().unwrap();
        let run = ended(&backend, id).await;
        assert_eq!(
            (&run["state"], &run["replay_of"], &run["build_id"]),
            (&json!("succeeded"), &made["id"], &json!("b")),
            "{run}"
        );
    }
    assert_eq!(
        run(&backend, "one").await["state"],
        "failed",
        "the first stays as it was"
    );
    let again = replay(&backend, &json!({ "build_id": "b" })).await;
    assert_eq!(
        again,
        json!({ "replayed": [], "skipped": [], "next": null })
    );
    let named = replay(&backend, &json!({ "ids": ["one", "good", "none"] })).await;
    assert_eq!(named["replayed"], json!([]));
    assert_eq!(named["skipped"].as_array().unwrap().len(), 3, "{named}");
    orket_tests::convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn a_replay_that_selects_nothing_or_too_much_is_refused() {
    let backend = Backend::start("").await;
    for body in [
        json!({}),
        json!({ "limit": 3 }),
        json!({ "states": ["succeeded"] }),
        json!({ "states": ["running"] }),
        json!({ "ids": ["a"], "build_id": "b" }),
        json!({ "build_id": "b", "limit": 0 }),
        json!({ "build_id": "b", "cursor": "x" }),
        json!({ "build_id": "b", "cursor": "c1" }),
        json!({ "build_id": "b", "cursor": "c1-c2-c3" }),
        json!({ "ids": ["a"], "cursor": "c1" }),
        json!({ "nonsense": 1 }),
    ] {
        let answer = backend.post("/v1/runs/replay", &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
}

#[tokio::test]
async fn what_can_never_be_replayed_does_not_stand_in_the_way_of_the_rest() {
    let mut backend = Backend::start("[retention]\nfinished_runs = \"never\"\n").await;
    let card = json!({ "id": "K", "title": "t", "command": ["false"] });
    assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    submit(&backend, &json!({ "id": "dead", "card_id": "K" })).await;
    assert_eq!(ended(&backend, "dead").await["state"], "failed");
    let archive = json!({ "card_ids": ["K"] });
    assert_eq!(
        backend.post("/v1/cards/archive", &archive).await.status,
        200
    );
    // More of them than are looked at in one transition, than one request skips.
    assert!(backend.terminate().await.success());
    multiply(&backend, "dead", 5_200);
    backend.restart().await;
    for name in ["one", "two"] {
        submit(&backend, &json!({ "id": name, "command": ["false"] })).await;
        assert_eq!(ended(&backend, name).await["state"], "failed");
    }
    let mut body = json!({ "states": ["failed"], "limit": 1 });
    let first = replay(&backend, &body).await;
    assert_eq!(first["replayed"], json!([]), "{}", first["replayed"]);
    let skipped = first["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 5_000);
    assert!(skipped[0]["why"].as_str().unwrap().contains("archived"));
    body["cursor"] = first["next"].clone();
    for name in ["one", "two"] {
        let answer = replay(&backend, &body).await;
        let replayed = answer["replayed"].as_array().unwrap();
        assert_eq!(replayed.len(), 1, "{answer}");
        assert_eq!(replayed[0]["id"], name);
        ended(&backend, replayed[0]["run_id"].as_str().unwrap()).await;
    }
    // The replays have failed as well, but were made since it was asked first.
    body = json!({ "states": ["failed"], "cursor": first["next"] });
    let rest = replay(&backend, &body).await;
    assert_eq!(rest["replayed"], json!([]), "{}", rest["replayed"]);
    assert_eq!(rest["next"], Value::Null);
    // The command line goes on by itself, also in a store that nobody has open.
    let (dir, config) = (backend.dir().to_owned(), backend.dir().join("backend.toml"));
    let config = config.to_str().unwrap();
    let one = [
        "replay", "--config", config, "--state", "failed", "--limit", "1",
    ];
    let done = backend::run(&dir, &one).await;
    assert!(done.stdout.contains("1 run replayed"), "{}", done.stdout);
    assert!(backend.terminate().await.success());
    let done = backend::run(&dir, &one).await;
    assert!(done.stdout.contains("1 run replayed"), "{}", done.stdout);
    assert!(done.stderr.contains("copy-5200: "), "{}", done.stdout);
}

#[tokio::test]
async fn who_follows_the_cursor_replays_nothing_that_failed_again() {
    let backend = Backend::start("").await;
    for name in ["one", "two", "three"] {
        submit(&backend, &json!({ "id": name, "command": ["false"] })).await;
        assert_eq!(ended(&backend, name).await["state"], "failed");
    }
    let mut body = json!({ "states": ["failed"], "limit": 1 });
    let mut from = Vec::new();
    loop {
        let answer = replay(&backend, &body).await;
        for made in answer["replayed"].as_array().unwrap() {
            from.push(made["id"].clone());
            let again = ended(&backend, made["run_id"].as_str().unwrap()).await;
            assert_eq!(again["state"], "failed");
        }
        assert!(from.len() <= 3, "{from:?}");
        if answer["next"].is_null() {
            break;
        }
        body["cursor"] = answer["next"].clone();
    }
    assert_eq!(from, ["one", "two", "three"]);
    // Asked anew, it is: the replays have failed.
    let anew = replay(&backend, &json!({ "states": ["failed"] })).await;
    assert_eq!(anew["replayed"].as_array().unwrap().len(), 3, "{anew}");
}

/// Copies a run that has ended, in the store of a backend that does not run.
fn multiply(backend: &Backend, id: &str, times: u32) {
    let store = rusqlite::Connection::open(backend.database()).unwrap();
    let mut columns = Vec::new();
    store
        .pragma(None, "table_info", "runs", |row| {
            columns.push(row.get::<_, String>(1)?);
            Ok(())
        })
        .unwrap();
    columns.retain(|column| column != "seq" && column != "id");
    let columns = columns.join(", ");
    let copies = format!(
        "INSERT INTO runs (id, {columns}) WITH RECURSIVE n(i) AS \
         (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2) \
         SELECT 'copy-' || i, {columns} FROM n, (SELECT * FROM runs WHERE id = ?1)"
    );
    store.execute(&copies, (id, times)).unwrap();
}

#[tokio::test]
async fn the_command_line_lists_and_replays_with_and_without_a_backend() {
    let mut backend = Backend::start("").await;
    let config = backend.dir().join("backend.toml");
    let config = config.to_str().unwrap().to_owned();
    for name in ["one", "two"] {
        let body = json!({ "id": name, "command": ["sh", "-c", "test -e fixed"] });
        submit(&backend, &body).await;
        ended(&backend, name).await;
    }
    let dir = backend.dir().to_owned();
    let listed = backend::run(&dir, &["runs", "--config", &config]).await;
    assert!(listed.status.success(), "{}", listed.output());
    assert!(
        listed.stdout.contains("one  failed  exit_status"),
        "{}",
        listed.stdout
    );
    std::fs::write(backend.workspace().join("fixed"), "").unwrap();
    let done = backend::run(&dir, &["replay", "--config", &config, "--run", "one"]).await;
    assert!(done.status.success(), "{}", done.output());
    assert!(done.stdout.contains("1 run replayed"), "{}", done.stdout);

    assert!(backend.terminate().await.success());
    let listed = backend::run(&dir, &["runs", "--config", &config]).await;
    assert!(listed.stdout.contains("two  failed"), "{}", listed.output());
    let all = &["replay", "--config", &config, "--state", "failed"];
    let done = backend::run(&dir, all).await;
    assert!(done.status.success(), "{}", done.output());
    assert!(done.stdout.contains("1 run replayed"), "{}", done.stdout);
    let nothing = backend::run(&dir, &["replay", "--config", &config]).await;
    assert!(!nothing.status.success());
    assert!(
        nothing.stderr.contains("Say which runs"),
        "{}",
        nothing.stderr
    );
    backend.restart().await;
    let replayed = backend.get("/v1/runs?limit=4").await.json();
    for run in replayed["items"].as_array().unwrap() {
        if run["replay_of"] != Value::Null {
            let id = run["id"].as_str().unwrap();
            assert_eq!(ended(&backend, id).await["state"], "succeeded");
        }
    }
    orket_tests::convergence::settled(&mut backend).await;
}
