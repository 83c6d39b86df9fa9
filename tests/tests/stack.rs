//! Both programs together: work comes in at the edge and gets done inside, and what has no proof
//! leaves no trace there.

use std::sync::Arc;

use orket_tests::gateway::{API_KEY, TEST_TOKEN, WEBHOOK_SECRET};
use orket_tests::wait::obtain;
use orket_tests::{
    Cases, Connection, DEADLINE, Delivery, Request, Stack, assert_refused, convergence, corpus,
    eventually,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PATH: &str = "/webhook/gitea";
const REPOSITORY: &str = "lab/example";
const REVIEW: &str =
    "[review]\nrepositories = [\"lab/example\"]\nbranches = [\"main\"]\npeople = [\"author\"]\n";

async fn card(stack: &Stack, id: &str, script: &str) {
    let card =
        json!({ "id": id, "title": format!("work on {id}"), "command": ["sh", "-c", script] });
    let answer = stack.post("/v1/cards", &card).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

async fn items(stack: &Stack, path: &str) -> Vec<Value> {
    let answer = stack.get(path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["items"].as_array().unwrap().clone()
}

/// The run once it is in `state`, seen through the gateway.
async fn reaches(stack: &Stack, run: &str, state: &str) -> Value {
    obtain(&format!("run {run} is {state}"), DEADLINE, || async {
        let answer = stack.get(&format!("/v1/runs/{run}")).await;
        (answer.status == 200 && answer.json()["state"] == state).then(|| answer.json())
    })
    .await
}

#[tokio::test]
async fn a_card_is_made_run_and_read_with_a_key() {
    let mut stack = Stack::start("").await;
    card(&stack, "ISSUE-1", "echo done; echo aside >&2").await;
    let answer = stack
        .post("/v1/system/run-active", &json!({ "issue_id": "ISSUE-1" }))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let run = answer.json()["session_id"].as_str().unwrap().to_owned();
    let detail = reaches(&stack, &run, "succeeded").await;
    assert_eq!(detail["actor"], "key:default");
    let logs = stack.get(&format!("/v1/runs/{run}/logs")).await.text();
    assert!(logs.contains("done") && logs.contains("aside"), "{logs}");
    assert_eq!(
        stack.get("/v1/cards/ISSUE-1").await.json()["status"],
        "done"
    );
    convergence::settled(&mut stack.backend).await;
}

#[tokio::test]
async fn a_signed_pull_request_moves_its_card_and_causes_one_run() {
    let mut stack = Stack::start(REVIEW).await;
    card(&stack, "ISSUE-7", "echo reviewed").await;
    let delivery = Delivery::pull_request_opened(REPOSITORY, "ISSUE-7: a better way");
    let answer = stack.deliver(&delivery).await;
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    let run = answer.json()["run_id"].as_str().expect("a run").to_owned();
    reaches(&stack, &run, "succeeded").await;
    assert_eq!(
        stack.get("/v1/cards/ISSUE-7").await.json()["status"],
        "code_review"
    );

    // Delivered again, it is known at the edge; and behind a gateway that forgot, known inside.
    assert_eq!(stack.deliver(&delivery).await.json()["status"], "duplicate");
    stack.gateway.program().kill().await;
    std::fs::remove_file(stack.gateway.dir().join("state/replay.log")).unwrap();
    stack.gateway.restart().await;
    let again = stack.deliver(&delivery).await;
    assert_eq!(again.json()["delivery_id"], answer.json()["delivery_id"]);
    assert_eq!(items(&stack, "/v1/runs").await.len(), 1);
    assert_eq!(items(&stack, "/v1/deliveries").await.len(), 1);
    convergence::settled(&mut stack.backend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_delivery_sent_many_times_at_once_acts_once() {
    let stack = Arc::new(Stack::start(REVIEW).await);
    card(&stack, "ISSUE-8", "true").await;
    let delivery = Arc::new(Delivery::pull_request_opened(REPOSITORY, "ISSUE-8"));
    let mut senders = JoinSet::new();
    for _ in 0..20 {
        let (stack, delivery) = (Arc::clone(&stack), Arc::clone(&delivery));
        senders.spawn(async move { stack.deliver(&delivery).await });
    }
    for answer in senders.join_all().await {
        assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    }
    assert_eq!(items(&stack, "/v1/runs").await.len(), 1);
    assert_eq!(items(&stack, "/v1/deliveries").await.len(), 1);
}

#[tokio::test]
async fn what_is_not_proven_leaves_no_trace_inside() {
    let stack = Stack::start(REVIEW).await;
    card(&stack, "ISSUE-9", "true").await;
    let delivery = Delivery::pull_request_opened(REPOSITORY, "ISSUE-9");
    let answer = delivery.forged(PATH).send(stack.address()).await;
    assert_refused(&answer, 401, "Invalid signature");
    let answer = delivery.unsigned(PATH).send(stack.address()).await;
    assert_refused(&answer, 401, "Missing signature");
    let run = json!({ "command": ["true"] });
    for request in [
        Request::post_json("/v1/runs", &run),
        Request::post_json("/v1/runs", &run).key("wrong"),
        Request::post_json("/v1/system/run-active", &json!({ "issue_id": "ISSUE-9" })),
        Request::new("DELETE", "/v1/cards/ISSUE-9"),
    ] {
        let answer = request.send(stack.address()).await;
        assert_refused(&answer, 403, "Could not validate credentials");
    }
    assert!(items(&stack, "/v1/runs").await.is_empty());
    assert!(items(&stack, "/v1/deliveries").await.is_empty());
    assert_eq!(
        stack.get("/v1/cards/ISSUE-9").await.json()["status"],
        "ready"
    );
}

#[tokio::test]
async fn every_real_delivery_is_taken_by_the_backend() {
    let bodies = corpus::gitea();
    let stack = Stack::start_with_env("", &[("GITEA_WEBHOOK_SECRET", &bodies[0].secret)]).await;
    let mut cases = Cases::new();
    for entry in &bodies {
        let headers = entry.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let request = Request::new("POST", PATH)
            .headers(headers)
            .body(entry.body.clone());
        let answer = request.send(stack.address()).await;
        let taken = matches!(answer.status, 200 | 202) && answer.json()["delivery_id"].is_string();
        cases.holds(&entry.file, taken, || {
            format!("{} {}", answer.status, answer.text())
        });
    }
    cases.finish();
    assert_eq!(
        items(&stack, "/v1/deliveries?limit=100").await.len(),
        bodies.len()
    );
    assert!(
        items(&stack, "/v1/runs").await.is_empty(),
        "no listed repository, no work"
    );
}

#[tokio::test]
async fn a_signed_body_that_is_not_json_is_an_invalid_payload() {
    let stack = Stack::start("").await;
    for body in ["not json", "", "{\"a\":", "\u{feff}{}"] {
        let answer = stack.deliver(&Delivery::new("push", body)).await;
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
        assert_eq!(answer.json()["detail"], "Invalid payload", "{body:?}");
    }
}

#[tokio::test]
async fn a_spoofed_identity_does_not_arrive() {
    let stack = Stack::start("").await;
    let answer = Request::get("/v1/whoami")
        .key(API_KEY)
        .header("X-Orket-Actor", "key:root")
        .header("X_Orket_Actor", "key:root")
        .header("X-Request-Id", "mine")
        .header("X-Forwarded-For", "192.0.2.1")
        .header("X-Real-IP", "192.0.2.1")
        .send(stack.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    assert_eq!(told["actor"], "key:default");
    assert_eq!(told["client_address"], "127.0.0.1");
    assert_eq!(told["request_id"].as_str(), answer.header("x-request-id"));
}

#[tokio::test]
async fn the_test_webhook_does_what_a_real_one_would() {
    let env = [
        ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true"),
        ("ORKET_WEBHOOK_TEST_TOKEN", TEST_TOKEN),
    ];
    let stack = Stack::start_with_env(REVIEW, &env).await;
    card(&stack, "ISSUE-5", "true").await;
    let body = Delivery::pull_request_opened(REPOSITORY, "ISSUE-5").body;
    let payload: Value = serde_json::from_slice(&body).unwrap();
    let event = json!({ "event": "pull_request", "action": "opened", "payload": payload });
    let request = Request::post_json("/webhook/test", &event);
    assert_refused(
        &request.send(stack.address()).await,
        401,
        "Invalid test webhook token",
    );
    let request = request.header("X-Webhook-Test-Token", TEST_TOKEN);
    let answer = request.send(stack.address()).await;
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    let run = answer.json()["run_id"].as_str().expect("a run").to_owned();
    reaches(&stack, &run, "succeeded").await;
}

#[tokio::test]
async fn while_the_backend_is_gone_the_gateway_says_so_and_recovers_with_it() {
    let mut stack = Stack::start(REVIEW).await;
    card(&stack, "ISSUE-3", "true").await;
    stack.backend.kill().await;
    let delivery = Delivery::pull_request_opened(REPOSITORY, "ISSUE-3");
    assert_refused(&stack.deliver(&delivery).await, 502, "");
    assert_refused(&stack.get("/v1/version").await, 502, "");
    stack.backend.restart().await;
    let answer = stack.deliver(&delivery).await;
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    let run = answer.json()["run_id"].as_str().expect("a run").to_owned();
    reaches(&stack, &run, "succeeded").await;
    assert_eq!(items(&stack, "/v1/runs").await.len(), 1);
}

#[tokio::test]
async fn events_flow_to_a_client_with_a_key() {
    let stack = Stack::start("").await;
    let upgrade = Request::get("/ws/events")
        .key(API_KEY)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut connection = Connection::open(stack.address()).await;
    connection.send(&upgrade.bytes(stack.address())).await;
    let answer = connection.answer().await;
    assert_eq!(answer.status, 101, "{}", answer.text());
    card(&stack, "ISSUE-2", "true").await;
    // The frames are text: the card's name comes by in one of them.
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("ISSUE-2") {
        seen.extend(connection.read_exact(1).await);
    }
}

#[tokio::test]
async fn a_gateway_told_to_stop_ends_what_is_in_flight_and_takes_no_more() {
    let upstream = orket_tests::Upstream::tcp().await;
    upstream.react(orket_tests::Reaction::Hang);
    let mut gateway = orket_tests::Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address().clone();
    let mut in_flight = Connection::open(&address).await;
    in_flight
        .send(&Request::get("/v1/a").key(API_KEY).bytes(&address))
        .await;
    upstream.arrived(1).await;
    gateway.program().signal(rustix::process::Signal::TERM);
    eventually("no new connection is taken", DEADLINE, || async {
        !address.accepts().await
    })
    .await;
    // What was in flight breaks off at the latest with the backend.
    drop(upstream);
    let answer = in_flight.answer().await;
    assert_refused(&answer, 502, "");
    let status = gateway.program().wait().await;
    assert!(status.success(), "{status}: {}", gateway.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_submissions_through_the_gateway_all_end_and_are_all_counted() {
    let stack = Arc::new(Stack::start("").await);
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let stack = Arc::clone(&stack);
        clients.spawn(async move {
            let answer = stack
                .post("/v1/runs", &json!({ "command": ["true"] }))
                .await;
            assert_eq!(answer.status, 201, "{}", answer.text());
        });
    }
    clients.join_all().await;
    let mut stack = Arc::into_inner(stack).expect("all clients are done");
    convergence::settled(&mut stack.backend).await;
    assert_eq!(
        convergence::runs_in(&stack.backend, "succeeded")
            .await
            .len(),
        20
    );
    let heartbeat = stack.get("/v1/system/heartbeat").await.json();
    assert_eq!(
        (&heartbeat["status"], &heartbeat["active_tasks"]),
        (&json!("online"), &json!(0))
    );
}

#[tokio::test]
async fn nothing_either_program_says_holds_a_secret() {
    let mut stack = Stack::start(REVIEW).await;
    card(&stack, "ISSUE-4", "env").await;
    stack
        .deliver(&Delivery::pull_request_opened(REPOSITORY, "ISSUE-4"))
        .await;
    stack.post("/v1/runs", &json!({ "command": ["env"] })).await;
    convergence::settled(&mut stack.backend).await;
    let mut said = String::new();
    for run in items(&stack, "/v1/runs").await {
        let id = run["id"].as_str().unwrap();
        said.push_str(&stack.get(&format!("/v1/runs/{id}/logs")).await.text());
        said.push_str(
            &stack
                .get(&format!("/v1/sessions/{id}/snapshot"))
                .await
                .text(),
        );
    }
    for path in [
        "/v1/deliveries",
        "/v1/system/metrics",
        "/v1/whoami",
        "/v1/cards",
    ] {
        said.push_str(&stack.get(path).await.text());
    }
    said.push_str(&stack.gateway.output());
    said.push_str(&stack.backend.output());
    for secret in [API_KEY, WEBHOOK_SECRET] {
        assert!(!said.contains(secret), "a secret is shown");
        let store = std::fs::read(stack.backend.database()).unwrap();
        assert!(
            !String::from_utf8_lossy(&store).contains(secret),
            "a secret is stored"
        );
    }
}
