//! Schedules of the real backend. No test waits for a minute to pass: the time of a schedule is
//! set back in the store while no backend runs, as if it had been off for so long.

use orket_tests::{Answer, Backend, DEADLINE, Request, wait::obtain};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::backend_runs::{ended, reaches, run};

async fn create(backend: &Backend, body: &Value) -> Value {
    let answer = backend.post("/v1/schedules", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()
}

async fn look(backend: &Backend, id: &str) -> Value {
    let answer = backend.get(&format!("/v1/schedules/{id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

async fn change(backend: &Backend, id: &str, body: &Value) -> Answer {
    Request::new("PATCH", &format!("/v1/schedules/{id}"))
        .header("Content-Type", "application/json")
        .body(body.to_string())
        .send(backend.address())
        .await
}

/// The runs of a schedule, oldest first.
async fn runs(backend: &Backend, id: &str) -> Vec<Value> {
    let answer = backend.get(&format!("/v1/runs?schedule_id={id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut runs = answer.json()["items"].as_array().unwrap().clone();
    runs.reverse();
    runs
}

/// As if the backend had been off since `ago` seconds before now: on a whole minute.
async fn was_off(backend: &mut Backend, id: &str, ago: i64) {
    backend.kill().await;
    let now = jiff::Timestamp::now().as_second();
    let since = (now - ago).div_euclid(60) * 60;
    let store = Connection::open(backend.database()).unwrap();
    let changed = store
        .execute(
            "UPDATE schedules SET next_at = ?2 WHERE id = ?1",
            (id, since * 1_000_000),
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(store);
    backend.restart().await;
}

/// The schedule once it has dealt with what was due.
async fn dealt(backend: &Backend, id: &str) -> Value {
    let now = jiff::Timestamp::now().to_string();
    obtain("the schedule looks ahead", DEADLINE, || async {
        let schedule = look(backend, id).await;
        let next = schedule["next"][0].as_str()?.to_owned();
        (next > now).then_some(schedule)
    })
    .await
}

#[tokio::test]
async fn a_schedule_is_kept_listed_changed_and_removed() {
    let mut backend = Backend::start("[queues.night]\n").await;
    let body = json!({ "id": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin",
        "command": ["true"], "queue": "night", "missed": "once", "overlap": "queue" });
    let made = create(&backend, &body).await;
    assert_eq!(made["next"].as_array().unwrap().len(), 5, "{made}");
    assert_eq!(made["actor"], "local");
    backend.kill_and_restart().await;
    assert_eq!(look(&backend, "nightly").await, made);
    let list = backend.get("/v1/schedules").await.json();
    assert_eq!(list["items"], json!([made]));

    let answer = change(&backend, "nightly", &json!({ "paused": true })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["paused_at"].is_string());
    assert_eq!(answer.json()["next"], json!([]));
    let answer = change(
        &backend,
        "nightly",
        &json!({ "paused": false, "time_zone": "UTC" }),
    )
    .await;
    let changed = answer.json();
    assert_eq!(
        (&changed["paused_at"], &changed["time_zone"]),
        (&Value::Null, &json!("UTC"))
    );
    assert!(
        changed["next"][0].as_str().unwrap().ends_with("T02:30:00Z"),
        "{changed}"
    );

    let again = backend.post("/v1/schedules", &body).await;
    assert_eq!(again.status, 409, "{}", again.text());
    let remove = || async {
        Request::new("DELETE", "/v1/schedules/nightly")
            .send(backend.address())
            .await
            .status
    };
    assert_eq!(remove().await, 204);
    assert_eq!(remove().await, 404);
}

#[tokio::test]
async fn what_is_no_schedule_is_refused_by_field() {
    let backend = Backend::start("").await;
    for (body, word) in [
        (json!({ "cron": "* * * *", "command": ["true"] }), "`cron`"),
        (
            json!({ "cron": "0 0 30 2 *", "command": ["true"] }),
            "never comes",
        ),
        (
            json!({ "cron": "0 0 * * 7L", "command": ["true"] }),
            "SUNL or 0L",
        ),
        (
            json!({ "cron": "@daily", "command": ["true"], "time_zone": "Mars/X" }),
            "`time_zone`",
        ),
        (json!({ "cron": "@daily" }), "card_id"),
        (
            json!({ "cron": "@daily", "card_id": "no-such-card" }),
            "no-such-card",
        ),
        (
            json!({ "cron": "@daily", "card_id": "x", "command": ["true"] }),
            "nothing else",
        ),
        (
            json!({ "cron": "@daily", "command": ["true"], "queue": "none" }),
            "queue none",
        ),
        (
            json!({ "cron": "@daily", "command": ["true"], "catch_up": 0 }),
            "catch_up",
        ),
        (
            json!({ "cron": "@daily", "command": ["true"], "missed": "never" }),
            "never",
        ),
        (json!({ "cron": "@daily", "command": [] }), "`command`"),
    ] {
        let answer = backend.post("/v1/schedules", &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.text().contains(word), "{}", answer.text());
    }
}

#[tokio::test]
async fn missed_times_are_skipped_made_up_once_or_made_up_within_bounds() {
    let mut backend = Backend::start("").await;
    let hours = 3 * 3600 + 60;
    for (missed, runs_made) in [("skip", 0), ("once", 1), ("all", 2)] {
        let body = json!({ "id": missed, "cron": "30 * * * *", "command": ["true"],
            "missed": missed, "catch_up": 2, "overlap": "queue" });
        create(&backend, &body).await;
        was_off(&mut backend, missed, hours).await;
        let schedule = dealt(&backend, missed).await;
        let found = runs(&backend, missed).await;
        // One more where the half hour strikes just now.
        assert!(
            (runs_made..=runs_made + 1).contains(&found.len()),
            "{missed}: {found:#?}"
        );
        assert_eq!(schedule["made"], json!(found.len()));
        assert!(schedule["passed_over"].as_i64().unwrap() >= 1, "{schedule}");
        for run in found {
            assert_eq!(run["cause"], "schedule");
            assert_eq!(run["actor"], format!("schedule:{missed}"));
            let id = run["id"].as_str().unwrap();
            assert_eq!(ended(&backend, id).await["state"], "succeeded");
        }
    }
    // No time is acted on twice, however often the backend comes back.
    let before = runs(&backend, "all").await.len();
    backend.kill_and_restart().await;
    dealt(&backend, "all").await;
    assert_eq!(runs(&backend, "all").await.len(), before);
    orket_tests::convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn what_is_made_up_at_once_goes_one_after_the_other_whatever_the_overlap() {
    for overlap in ["skip", "queue", "cancel"] {
        let mut backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
        let script = "mkdir busy && sleep 0.1 && rmdir busy";
        let body = json!({ "id": "s", "cron": "30 4 * * *", "command": ["sh", "-c", script],
            "missed": "all", "catch_up": 4, "overlap": overlap });
        create(&backend, &body).await;
        was_off(&mut backend, "s", 6 * 86_400).await;
        let schedule = dealt(&backend, "s").await;
        let found = runs(&backend, "s").await;
        // One more where the time strikes just now.
        assert!((4..=5).contains(&found.len()), "{overlap}: {found:#?}");
        assert_eq!(schedule["made"], json!(found.len()), "{overlap}");
        assert_eq!(schedule["last_error"], Value::Null, "{overlap}");
        for run in found {
            let run = ended(&backend, run["id"].as_str().unwrap()).await;
            assert_eq!(run["state"], "succeeded", "{overlap}: {run}");
        }
        orket_tests::convergence::settled(&mut backend).await;
    }
}

#[tokio::test]
async fn what_is_made_up_stands_behind_what_has_not_ended() {
    for overlap in ["skip", "queue", "cancel"] {
        let mut backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
        let script = "while [ ! -e go ]; do sleep 0.02; done";
        let body = json!({ "id": "s", "cron": "30 4 * * *", "command": ["sh", "-c", script],
            "missed": "all", "catch_up": 2, "overlap": overlap });
        create(&backend, &body).await;
        was_off(&mut backend, "s", 86_400).await;
        dealt(&backend, "s").await;
        let before: Vec<String> = runs(&backend, "s").await.iter().map(name).collect();
        reaches(&backend, &before[0], "running").await;
        was_off(&mut backend, "s", 4 * 86_400).await;
        dealt(&backend, "s").await;
        let after: Vec<String> = runs(&backend, "s").await.iter().map(name).collect();
        let new = &after[before.len()..];
        if overlap == "skip" {
            assert!(new.is_empty(), "{new:?}");
        } else {
            assert!(new.len() >= 2, "{overlap}: {new:?}");
        }
        if overlap == "cancel" {
            for run in &before {
                assert_eq!(ended(&backend, run).await["state"], "canceled");
            }
        } else {
            assert_eq!(run(&backend, &before[0]).await["state"], "running");
        }
        std::fs::write(backend.workspace().join("go"), "").unwrap();
        for run in new {
            let run = ended(&backend, run).await;
            assert_eq!(run["state"], "succeeded", "{overlap}: {run}");
        }
        for run in &before {
            ended(&backend, run).await;
        }
        orket_tests::convergence::settled(&mut backend).await;
    }
}

fn name(run: &Value) -> String {
    run["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn behind_a_run_that_hangs_a_bounded_number_waits() {
    let mut backend = Backend::start("").await;
    let script = "while [ ! -e go ]; do sleep 0.02; done";
    let body = json!({ "id": "s", "cron": "30 4 * * *", "command": ["sh", "-c", script],
        "missed": "all", "catch_up": 11, "overlap": "queue" });
    create(&backend, &body).await;
    was_off(&mut backend, "s", 13 * 86_400).await;
    let first = dealt(&backend, "s").await;
    let made = runs(&backend, "s").await;
    assert!((11..=12).contains(&made.len()), "{made:#?}");
    was_off(&mut backend, "s", 3 * 86_400).await;
    let then = dealt(&backend, "s").await;
    assert_eq!(then["made"], first["made"], "{then}");
    let over = |schedule: &Value| schedule["passed_over"].as_i64().unwrap();
    assert!(over(&then) >= over(&first) + 3, "{first} {then}");
    let why = then["last_error"].as_str().unwrap();
    assert!(why.contains("no more than 10 wait"), "{why}");
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    for run in made {
        ended(&backend, &name(&run)).await;
    }
    // It goes on by itself.
    was_off(&mut backend, "s", 86_400).await;
    let last = dealt(&backend, "s").await;
    assert!(last["made"].as_i64() > then["made"].as_i64(), "{last}");
    assert_eq!(last["last_error"], Value::Null, "{last}");
}

#[tokio::test]
async fn overlapping_times_are_skipped_queued_or_end_the_one_before() {
    for overlap in ["skip", "queue", "cancel"] {
        let mut backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
        let script = "while [ ! -e go ]; do sleep 0.02; done";
        let body = json!({ "id": "s", "cron": "30 4 * * *", "command": ["sh", "-c", script],
            "missed": "once", "overlap": overlap });
        create(&backend, &body).await;
        was_off(&mut backend, "s", 86_400).await;
        dealt(&backend, "s").await;
        let first = runs(&backend, "s").await[0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        reaches(&backend, &first, "running").await;
        was_off(&mut backend, "s", 86_400).await;
        let schedule = dealt(&backend, "s").await;
        let found = runs(&backend, "s").await;
        if overlap == "skip" {
            assert_eq!(found.len(), 1);
            assert!(
                schedule["last_error"].as_str().unwrap().contains(&first),
                "{schedule}"
            );
        } else {
            assert_eq!(found.len(), 2);
            let second = found[1]["id"].as_str().unwrap().to_owned();
            if overlap == "cancel" {
                assert_eq!(ended(&backend, &first).await["state"], "canceled");
                reaches(&backend, &second, "running").await;
            } else {
                assert_eq!(run(&backend, &second).await["state"], "scheduled");
                assert_eq!(run(&backend, &first).await["state"], "running");
            }
        }
        std::fs::write(backend.workspace().join("go"), "").unwrap();
        for run in found {
            ended(&backend, run["id"].as_str().unwrap()).await;
        }
        orket_tests::convergence::settled(&mut backend).await;
    }
}

#[tokio::test]
async fn a_card_is_run_as_it_is_then_and_a_refusal_is_told() {
    let mut backend = Backend::start("").await;
    let card = json!({ "id": "CARD", "title": "t", "command": ["true"] });
    assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    let body = json!({ "id": "s", "cron": "30 4 * * *", "card_id": "CARD", "missed": "once" });
    create(&backend, &body).await;
    was_off(&mut backend, "s", 86_400).await;
    let schedule = dealt(&backend, "s").await;
    let made = schedule["last_run"].as_str().unwrap().to_owned();
    let run = ended(&backend, &made).await;
    assert_eq!(
        (&run["state"], &run["card_id"]),
        (&json!("succeeded"), &json!("CARD"))
    );
    let answer = backend
        .post("/v1/cards/archive", &json!({ "card_ids": ["CARD"] }))
        .await;
    assert_eq!(answer.status, 200);
    was_off(&mut backend, "s", 86_400).await;
    let schedule = dealt(&backend, "s").await;
    assert_eq!(schedule["made"], 1, "{schedule}");
    assert!(
        schedule["last_error"]
            .as_str()
            .unwrap()
            .contains("archived"),
        "{schedule}"
    );
}
