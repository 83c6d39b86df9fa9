//! Runs of the real backend: accepted, executed, ended, counted.

mod cancel;
mod convergence;
mod crash;
mod escape;
mod half_closed;
mod left;
pub(crate) mod output;

use orket_tests::{Answer, Backend, DEADLINE, wait::obtain};
use serde_json::{Value, json};

const FINAL: [&str; 5] = ["succeeded", "failed", "timed_out", "canceled", "lost"];

/// Submits a run that must be accepted; its id.
pub(crate) async fn submit(backend: &Backend, body: &Value) -> String {
    let answer = backend.post("/v1/runs", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// A run of `sh -c script`.
pub(crate) async fn script(backend: &Backend, script: &str) -> String {
    submit(backend, &json!({ "command": ["sh", "-c", script] })).await
}

/// The run as it is.
pub(crate) async fn run(backend: &Backend, id: &str) -> Value {
    let answer = backend.get(&format!("/v1/runs/{id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The run once it is in `state`.
pub(crate) async fn reaches(backend: &Backend, id: &str, state: &str) -> Value {
    obtain(&format!("run {id} is {state}"), DEADLINE, || async {
        let run = run(backend, id).await;
        (run["state"] == state).then_some(run)
    })
    .await
}

/// The run once it has ended.
pub(crate) async fn ended(backend: &Backend, id: &str) -> Value {
    obtain(&format!("run {id} has ended"), DEADLINE, || async {
        let run = run(backend, id).await;
        FINAL
            .iter()
            .any(|state| run["state"] == *state)
            .then_some(run)
    })
    .await
}

/// All text a run has written, in order.
async fn text(backend: &Backend, id: &str) -> String {
    let answer = backend.get(&format!("/v1/runs/{id}/logs?limit=500")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let items = answer.json()["items"].as_array().unwrap().clone();
    items
        .iter()
        .filter_map(|item| item["text"].as_str())
        .collect()
}

pub(crate) async fn cancel(backend: &Backend, id: &str) -> Answer {
    backend
        .post(&format!("/v1/runs/{id}/cancel"), &json!({}))
        .await
}

#[tokio::test]
async fn a_command_is_executed_with_what_it_was_given() {
    let backend = Backend::start("").await;
    std::fs::create_dir(backend.workspace().join("sub")).unwrap();
    let id = submit(
        &backend,
        &json!({
            "id": "one", "command": ["sh", "-c", "pwd; echo \"$GREETING\"; echo \"$0-$1\"", "a b", "*"],
            "env": { "GREETING": "hello $HOME" }, "workdir": "sub", "timeout": "1m",
        }),
    )
    .await;
    assert_eq!(id, "one");
    let run = ended(&backend, "one").await;
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["exit"]["code"], 0);
    assert_eq!(run["attempts"], 1);
    assert_eq!(run["isolation"], "group");
    let place = backend.workspace().canonicalize().unwrap().join("sub");
    assert_eq!(
        text(&backend, "one").await,
        format!("{}\nhello $HOME\na b-*\n", place.display())
    );
    let metrics = backend.get("/v1/runs/one/metrics").await.json();
    assert!(
        metrics["seconds_in_state"]["running"].is_number(),
        "{metrics}"
    );
}

#[tokio::test]
async fn each_end_has_its_state_and_reason() {
    let backend = Backend::start("[runs]\ngrace = \"1s\"\n").await;
    let cases = [
        (
            json!({ "command": ["no-such-command-here"] }),
            "failed",
            "command_not_found",
        ),
        (
            json!({ "command": ["/no/such/command"] }),
            "failed",
            "command_not_found",
        ),
        (json!({ "command": ["false"] }), "failed", "exit_status"),
        (
            json!({ "command": ["sh", "-c", "kill -9 $$"] }),
            "failed",
            "signal",
        ),
        (
            json!({ "command": ["sleep", "60"], "timeout": 0.1 }),
            "timed_out",
            "timeout",
        ),
        (
            json!({ "command": ["true"], "workdir": "not/there" }),
            "failed",
            "workdir",
        ),
    ];
    for (body, state, reason) in cases {
        let id = submit(&backend, &body).await;
        let run = ended(&backend, &id).await;
        assert_eq!(
            (&run["state"], &run["reason"]),
            (&json!(state), &json!(reason)),
            "{run}"
        );
        assert!(
            run["detail"].as_str().is_some_and(|text| !text.is_empty()),
            "{run}"
        );
    }
    let id = submit(&backend, &json!({ "command": "exit 3", "shell": true })).await;
    assert_eq!(
        ended(&backend, &id).await["exit"],
        json!({ "kind": "exited", "code": 3 })
    );
}

#[tokio::test]
async fn what_is_accepted_can_be_handed_over_and_what_cannot_is_refused() {
    let backend = Backend::start("").await;
    let text = |bytes: usize| "x".repeat(bytes);
    for body in [
        json!({ "command": ["true", text(131_071)] }),
        json!({ "command": ["true"], "env": { "A": text(131_069) } }),
        json!({ "command": std::iter::once("true".to_owned())
            .chain((0..90_000).map(|_| text(2))).collect::<Vec<_>>() }),
        json!({ "command": ["true", text(131_000), text(131_000), text(131_000), text(131_000)],
            "env": { "A": text(131_000), "B": text(131_000), "C": text(131_000) } }),
    ] {
        let id = submit(&backend, &body).await;
        let run = ended(&backend, &id).await;
        assert_eq!(
            run["state"], "succeeded",
            "{}: {}",
            run["reason"], run["detail"]
        );
    }
    for body in [
        json!({ "command": ["true", text(131_072)] }),
        json!({ "command": ["true"], "env": { "A": text(131_070) } }),
        json!({ "command": vec![text(131_000); 9] }),
    ] {
        let answer = backend.post("/v1/runs", &body).await;
        assert_eq!(answer.status, 400);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("put the data into a file"), "{detail}");
    }
}

#[tokio::test]
async fn a_run_is_tried_again_within_its_retries_only() {
    let mut backend = Backend::start("").await;
    let script = "echo try; test -e marker && exit 0; touch marker; exit 1";
    let body = json!({ "command": ["sh", "-c", script], "retries": 2 });
    let id = submit(&backend, &body).await;
    let run = ended(&backend, &id).await;
    assert_eq!(
        (&run["state"], &run["attempts"]),
        (&json!("succeeded"), &json!(2)),
        "{run}"
    );
    assert_eq!(text(&backend, &id).await, "try\ntry\n");

    let body = json!({ "command": ["false"], "retries": 1 });
    let id = submit(&backend, &body).await;
    let run = ended(&backend, &id).await;
    assert_eq!(
        (&run["state"], &run["attempts"]),
        (&json!("failed"), &json!(2)),
        "{run}"
    );
    // Nobody can mend a command that does not exist by trying again.
    let body = json!({ "command": ["no-such-command-here"], "retries": 5 });
    let id = submit(&backend, &body).await;
    assert_eq!(ended(&backend, &id).await["attempts"], 1);
    orket_tests::convergence::settled(&mut backend).await;
}

#[tokio::test]
async fn an_id_that_exists_changes_nothing() {
    let backend = Backend::start("").await;
    submit(
        &backend,
        &json!({ "id": "same", "command": ["echo", "first"] }),
    )
    .await;
    let before = ended(&backend, "same").await;
    let again = json!({ "id": "same", "command": ["echo", "second"], "priority": 9 });
    let answer = backend.post("/v1/runs", &again).await;
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert_eq!(answer.json()["reason"], "run_exists");
    assert_eq!(run(&backend, "same").await, before);
    assert_eq!(text(&backend, "same").await, "first\n");
    let list = backend.get("/v1/runs").await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_answer_again() {
    use orket_tests::Request;
    let backend = Backend::start("").await;
    let send = async |key: &str, actor: &str, body: &Value| {
        Request::post_json("/v1/runs", body)
            .header("Idempotency-Key", key)
            .header("X-Orket-Actor", actor)
            .send(backend.address())
            .await
    };
    let body = json!({ "command": ["true"] });
    let first = send("k", "key:a", &body).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let again = send("k", "key:a", &body).await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = send("k", "key:a", &json!({ "command": ["false"] })).await;
    assert_eq!(other.status, 422, "{}", other.text());
    let someone_else = send("k", "key:b", &body).await;
    assert_eq!(someone_else.status, 201);
    assert_ne!(someone_else.json()["id"], first.json()["id"]);
    assert_eq!(
        backend.get("/v1/runs").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let backend = Backend::start("[runs]\nconcurrency = 1\nqueue_limit = 2\n").await;
    let running = submit(&backend, &json!({ "command": ["sleep", "60"] })).await;
    reaches(&backend, &running, "running").await;
    for _ in 0..2 {
        submit(&backend, &json!({ "command": ["true"] })).await;
    }
    let answer = backend
        .post("/v1/runs", &json!({ "command": ["true"] }))
        .await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.json()["reason"], "queue_full");
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn priority_goes_first_and_builds_take_turns() {
    let mut backend = Backend::start("[runs]\nconcurrency = 1\n").await;
    let holds = script(&backend, "while [ ! -e go ]; do sleep 0.02; done").await;
    reaches(&backend, &holds, "running").await;
    let order = |name: &str| json!(["sh", "-c", format!("echo {name} >> order")]);
    for (name, build, priority) in [
        ("a1", "a", 0),
        ("a2", "a", 0),
        ("a3", "a", 0),
        ("b1", "b", 0),
        ("b2", "b", 0),
        ("first", "a", 9),
    ] {
        let body = json!({ "command": order(name), "build_id": build, "priority": priority });
        submit(&backend, &body).await;
    }
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    orket_tests::convergence::settled(&mut backend).await;
    let order = std::fs::read_to_string(backend.workspace().join("order")).unwrap();
    let order: Vec<_> = order.lines().collect();
    assert_eq!(order, ["first", "b1", "a1", "b2", "a2", "a3"]);
}
