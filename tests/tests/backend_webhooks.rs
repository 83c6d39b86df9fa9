//! Deliveries: stored under their key with what they cause, acted on once.

use std::sync::Arc;

use orket_tests::{Answer, Backend, DEADLINE, Delivery, Request, convergence, corpus, eventually};
use serde_json::{Value, json};

const REVIEW: &str =
    "[review]\nrepositories = [\"lab/example\"]\nbranches = [\"main\"]\npeople = [\"author\"]\n";

/// A delivery as the gateway forwards it.
fn forwarded(key: &str, event: &str, body: impl Into<Vec<u8>>) -> Request {
    Request::post("/webhook/gitea", body)
        .header("Content-Type", "application/json")
        .header("X-Orket-Actor", "webhook:gitea")
        .header("X-Orket-Webhook-Source", "gitea")
        .header("X-Orket-Webhook-Provider", "gitea")
        .header("X-Orket-Webhook-Event", event)
        .header("X-Orket-Webhook-Delivery", "for people")
        .header("X-Orket-Webhook-Key", key)
}

fn pull_request(title: &str) -> Value {
    let delivery = Delivery::pull_request_opened("lab/example", title);
    serde_json::from_slice(&delivery.body).unwrap()
}

async fn with_card(config: &str, command: Value) -> Backend {
    let backend = Backend::start(config).await;
    let card = json!({ "id": "ISSUE-1", "title": "t", "command": command });
    assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    backend
}

async fn runs(backend: &Backend) -> Vec<Value> {
    backend.get("/v1/runs").await.json()["items"]
        .as_array()
        .unwrap()
        .clone()
}

fn assert_ignored(answer: &Answer, about: &str) {
    assert_eq!(answer.status, 200, "{about}: {}", answer.text());
    assert_eq!(answer.json()["status"], "ignored", "{about}");
    assert!(
        answer.json()["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{about}"
    );
}

#[tokio::test]
async fn a_pull_request_runs_its_card_and_leaves_it_in_review() {
    let mut backend = with_card(REVIEW, json!(["sh", "-c", "echo reviewed"])).await;
    let body = pull_request("Fix it (ISSUE-1)").to_string();
    let answer = forwarded("k1", "pull_request", body.clone())
        .send(backend.address())
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["status"], "accepted");
    let run_id = answer.json()["run_id"].as_str().unwrap().to_owned();
    convergence::settled(&mut backend).await;
    let run = backend.get(&format!("/v1/runs/{run_id}")).await.json();
    assert_eq!(
        (&run["state"], &run["cause"]),
        (&json!("succeeded"), &json!("review")),
        "{run}"
    );
    assert_eq!(
        (&run["card_id"], &run["actor"]),
        (&json!("ISSUE-1"), &json!("webhook:gitea"))
    );
    let card = backend.get("/v1/cards/ISSUE-1").await.json();
    assert_eq!(card["status"], "code_review");

    let listed = backend.get("/v1/deliveries").await.json()["items"][0].clone();
    assert_eq!(
        (&listed["key"], &listed["run_id"]),
        (&json!("k1"), &json!(run_id))
    );
    let path = format!("/v1/deliveries/{}", listed["id"].as_str().unwrap());
    assert_eq!(backend.get(&path).await.json()["body"], json!(body));
}

#[tokio::test]
async fn new_commits_run_it_again() {
    let mut backend = with_card(REVIEW, json!(["true"])).await;
    let mut body = pull_request("ISSUE-1");
    let opened = forwarded("k1", "pull_request", body.to_string());
    assert_eq!(opened.send(backend.address()).await.status, 202);
    body["action"] = json!("synchronized");
    let pushed = forwarded("k2", "pull_request_sync", body.to_string());
    assert_eq!(pushed.send(backend.address()).await.status, 202);
    convergence::settled(&mut backend).await;
    assert_eq!(runs(&backend).await.len(), 2);
    assert_eq!(
        backend.get("/v1/cards/ISSUE-1").await.json()["status"],
        "code_review"
    );
}

#[tokio::test]
async fn a_review_that_goes_on_does_not_hold_the_card_of_another_run() {
    let config = format!("{REVIEW}[runs]\ngrace = \"1s\"\n");
    let wait = json!(["sh", "-c", "until test -e go; do sleep 0.02; done"]);
    let mut backend = with_card(&config, wait).await;
    let body = pull_request("ISSUE-1").to_string();
    let review = forwarded("k", "pull_request", body);
    assert_eq!(review.send(backend.address()).await.status, 202);
    let card = json!({ "id": "job", "card_id": "ISSUE-1" });
    assert_eq!(backend.post("/v1/runs", &card).await.status, 201);
    let status = async || backend.get("/v1/cards/ISSUE-1").await.json()["status"].clone();
    assert_eq!(status().await, "in_progress");
    backend.post("/v1/runs/job/cancel", &json!({})).await;
    eventually("the card is canceled", DEADLINE, || async {
        status().await == "canceled"
    })
    .await;
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    convergence::settled(&mut backend).await;
    assert_eq!(
        backend.get("/v1/cards/ISSUE-1").await.json()["status"],
        "canceled"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_acts_once_and_gets_the_first_answer() {
    let backend = Arc::new(with_card(REVIEW, json!(["true"])).await);
    let body = pull_request("ISSUE-1").to_string();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (backend, body) = (Arc::clone(&backend), body.clone());
            tokio::spawn(async move {
                let answer = forwarded("k", "pull_request", body)
                    .send(backend.address())
                    .await;
                (answer.status, answer.json())
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert_eq!(answers[0].0, 202);
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    let mut backend = Arc::into_inner(backend).unwrap();
    backend.kill_and_restart().await;
    let again = forwarded("k", "pull_request", body.clone())
        .send(backend.address())
        .await;
    assert_eq!((again.status, again.json()), answers[0]);
    assert_eq!(runs(&backend).await.len(), 1);
    // Several routes of one forge name one source, whatever their paths.
    let hook = Request::post("/webhook/organisation", body.clone())
        .header("X-Orket-Webhook-Source", "gitea")
        .header("X-Orket-Webhook-Provider", "gitea")
        .header("X-Orket-Webhook-Event", "pull_request")
        .header("X-Orket-Webhook-Key", "k");
    assert_eq!(hook.send(backend.address()).await.json(), answers[0].1);
    assert_eq!(runs(&backend).await.len(), 1);
    // Keys are apart per source.
    let other = Request::post("/webhook/other", body)
        .header("X-Orket-Webhook-Source", "other")
        .header("X-Orket-Webhook-Provider", "gitea")
        .header("X-Orket-Webhook-Event", "pull_request")
        .header("X-Orket-Webhook-Key", "k");
    assert_eq!(other.send(backend.address()).await.status, 202);
    assert_eq!(runs(&backend).await.len(), 2);
}

#[tokio::test]
async fn what_is_not_listed_or_not_meant_is_ignored() {
    let backend = with_card(REVIEW, json!(["true"])).await;
    let change = |pointer: &str, value: Value| {
        let mut body = pull_request("ISSUE-1");
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let cases = [
        (
            "repository",
            "pull_request",
            change("/repository/full_name", json!("lab/other")),
        ),
        (
            "branch",
            "pull_request",
            change("/pull_request/base/ref", json!("develop")),
        ),
        (
            "person",
            "pull_request",
            change("/sender/login", json!("stranger")),
        ),
        (
            "no card in the title",
            "pull_request",
            pull_request("Fix it"),
        ),
        ("unknown card", "pull_request", pull_request("ISSUE-2")),
        (
            "another action",
            "pull_request",
            change("/action", json!("closed")),
        ),
        (
            "header and body disagree",
            "pull_request_sync",
            pull_request("ISSUE-1"),
        ),
        ("another event", "push", pull_request("ISSUE-1")),
        ("no event", "", pull_request("ISSUE-1")),
        ("no object", "pull_request", json!([1])),
        (
            "odd types",
            "pull_request",
            json!({ "action": "opened", "pull_request": 7 }),
        ),
    ];
    for (about, event, body) in cases {
        let answer = forwarded(about, event, body.to_string())
            .send(backend.address())
            .await;
        assert_ignored(&answer, about);
    }
    assert!(runs(&backend).await.is_empty());
    assert_eq!(
        backend.get("/v1/cards/ISSUE-1").await.json()["status"],
        "ready"
    );
}

#[tokio::test]
async fn the_first_card_of_a_title_that_exists_counts() {
    let backend = with_card(REVIEW, json!(["true"])).await;
    let titles = [
        ("ISSUE-99 then ISSUE-1", Some("ISSUE-1")),
        ("ISSUE-1.5", Some("ISSUE-1")),
        ("PRE-ISSUE-1", None),
        ("ISSUE-1é", None),
        ("ISSUE-10", None),
    ];
    for (n, (title, card)) in titles.into_iter().enumerate() {
        let body = pull_request(title).to_string();
        let answer = forwarded(&format!("k{n}"), "pull_request", body)
            .send(backend.address())
            .await;
        match card {
            Some(card) => assert_eq!(answer.json()["card_id"], card, "{title}"),
            None => assert_ignored(&answer, title),
        }
    }
    let mut body = pull_request("ISSUE-1");
    body["pull_request"]["base"]["repo"]["full_name"] = json!("lab/other");
    let two = forwarded("two", "pull_request", body.to_string());
    assert_ignored(&two.send(backend.address()).await, "two repositories");
    assert_eq!(runs(&backend).await.len(), 2);
}

#[tokio::test]
async fn an_empty_list_admits_nothing() {
    let backend = with_card("", json!(["true"])).await;
    let body = pull_request("ISSUE-1").to_string();
    assert_ignored(
        &forwarded("k", "pull_request", body)
            .send(backend.address())
            .await,
        "defaults",
    );
    assert!(runs(&backend).await.is_empty());
}

#[tokio::test]
async fn every_real_body_is_taken_in_and_kept_byte_for_byte() {
    let backend = Backend::start(REVIEW).await;
    let bodies = corpus::gitea();
    assert!(bodies.len() > 20);
    for (n, body) in bodies.iter().enumerate() {
        let request = forwarded(&format!("k{n}"), &body.event_type, body.body.clone());
        let answer = request.send(backend.address()).await;
        assert_ignored(&answer, &body.event_type);
        let id = answer.json()["delivery_id"].as_str().unwrap().to_owned();
        let kept = backend.get(&format!("/v1/deliveries/{id}")).await.json();
        assert_eq!(kept["body"].as_str().unwrap().as_bytes(), body.body);
    }
}

#[tokio::test]
async fn deliveries_of_senders_nobody_reads_are_kept_json_or_not() {
    let backend = with_card(REVIEW, json!(["true"])).await;
    let form = "command=%2Frun&text=ISSUE-1&trigger_id=1";
    let json = pull_request("ISSUE-1").to_string();
    for (n, (provider, body)) in [("slack", form), ("slack", &json), ("generic", "")]
        .into_iter()
        .enumerate()
    {
        let request = Request::post("/webhook/chat", body)
            .header("X-Orket-Webhook-Source", "chat")
            .header("X-Orket-Webhook-Provider", provider)
            .header("X-Orket-Webhook-Key", &format!("k{n}"));
        let answer = request.send(backend.address()).await;
        assert_ignored(&answer, provider);
        let id = answer.json()["delivery_id"].as_str().unwrap().to_owned();
        let kept = backend.get(&format!("/v1/deliveries/{id}")).await.json();
        assert_eq!(kept["body"].as_str(), Some(body));
    }
    assert_eq!(runs(&backend).await, Vec::<Value>::new());
}

#[tokio::test]
async fn what_is_no_delivery_is_refused_and_not_kept() {
    let backend = with_card(REVIEW, json!(["true"])).await;
    let body = || pull_request("ISSUE-1").to_string();
    let no_key = Request::post("/webhook/gitea", body()).header("X-Orket-Webhook-Event", "push");
    let answer = no_key.send(backend.address()).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let long = forwarded(&"k".repeat(513), "pull_request", body());
    let nameless = Request::post("/webhook/gitea", body())
        .header("X-Orket-Webhook-Source", "../x y")
        .header("X-Orket-Webhook-Event", "pull_request")
        .header("X-Orket-Webhook-Key", "k");
    for (request, word) in [(long, "512"), (nameless, "not a name")] {
        let answer = request.send(backend.address()).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{detail}");
    }
    for bad in ["", "{", "not json", "a=b"] {
        let answer = forwarded("k", "pull_request", bad)
            .send(backend.address())
            .await;
        assert_eq!(answer.status, 400, "{bad}");
        assert_eq!(answer.json()["detail"], "Invalid payload", "{bad}");
    }
    for target in ["/webhook/a%20b", "/webhook/%ff", "/webhook/"] {
        let answer = Request::post(target, "{}").header("X-Orket-Webhook-Key", "k");
        assert_eq!(answer.send(backend.address()).await.status, 404, "{target}");
    }
    assert_eq!(
        backend.get("/v1/deliveries").await.json()["items"],
        json!([])
    );
}

#[tokio::test]
async fn a_full_queue_keeps_nothing_so_that_the_sender_can_come_back() {
    let config = format!("{REVIEW}[runs]\nconcurrency = 1\nqueue_limit = 1\n");
    let backend = with_card(&config, json!(["true"])).await;
    let holds = backend
        .post("/v1/runs", &json!({ "command": ["sleep", "300"] }))
        .await
        .json();
    let path = format!("/v1/runs/{}", holds["id"].as_str().unwrap());
    eventually("it runs", DEADLINE, || async {
        backend.get(&path).await.json()["state"] == "running"
    })
    .await;
    backend
        .post("/v1/runs", &json!({ "id": "waits", "command": ["true"] }))
        .await;
    let body = pull_request("ISSUE-1").to_string();
    let full = forwarded("k", "pull_request", body.clone())
        .send(backend.address())
        .await;
    assert_eq!(full.status, 429, "{}", full.text());
    assert!(full.header("retry-after").is_some());
    assert_eq!(
        backend.get("/v1/cards/ISSUE-1").await.json()["status"],
        "ready"
    );
    backend.post("/v1/runs/waits/cancel", &json!({})).await;
    let later = forwarded("k", "pull_request", body)
        .send(backend.address())
        .await;
    assert_eq!(later.status, 202, "{}", later.text());
}

#[tokio::test]
async fn the_test_webhook_does_the_same() {
    let backend = with_card(REVIEW, json!(["true"])).await;
    let send = async |key: &str, body: &Value| {
        Request::post_json("/webhook/test", body)
            .header("X-Orket-Actor", "test-webhook")
            .header("X-Orket-Webhook-Key", key)
            .send(backend.address())
            .await
    };
    let mut payload = pull_request("ISSUE-1");
    let body = json!({ "event": "pull_request", "action": "opened", "payload": payload });
    let first = send("k", &body).await;
    assert_eq!(first.status, 202, "{}", first.text());
    assert_eq!(send("k", &body).await.json(), first.json());
    payload.as_object_mut().unwrap().remove("action");
    let body = json!({ "event": "pull_request", "action": "opened", "payload": payload });
    assert_eq!(send("k2", &body).await.status, 202);
    let disagrees = json!({
        "event": "pull_request", "action": "opened", "payload": { "action": "closed" },
    });
    let answer = send("k3", &disagrees).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("differ"), "{}", answer.text());
    for bad in [
        json!({}),
        json!({ "event": 1 }),
        json!({ "event": "push", "extra": 1 }),
        json!([]),
    ] {
        assert_eq!(send("k4", &bad).await.status, 400, "{bad}");
    }
    assert_eq!(runs(&backend).await.len(), 2);
    let payload = pull_request("ISSUE-1");
    let pushed = json!({ "event": "pull_request", "action": "synchronized", "payload": payload });
    assert_eq!(send("k5", &pushed).await.status, 400);
    let mut pushed = pushed;
    pushed["payload"].as_object_mut().unwrap().remove("action");
    assert_eq!(send("k6", &pushed).await.status, 202);
    let list = json!(["pull_request", "opened", pull_request("ISSUE-1")]);
    let answer = send("k7", &list).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(runs(&backend).await.len(), 3);
}

#[tokio::test]
async fn a_replay_acts_again_under_a_key_of_its_own() {
    let backend = Backend::start(REVIEW).await;
    let body = pull_request("ISSUE-1").to_string();
    let ignored = forwarded("k", "pull_request", body)
        .send(backend.address())
        .await;
    assert_ignored(&ignored, "no such card yet");
    let id = ignored.json()["delivery_id"].as_str().unwrap().to_owned();
    let card = json!({ "id": "ISSUE-1", "title": "t", "command": ["true"] });
    assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    let replayed = backend
        .post(&format!("/v1/deliveries/{id}/replay"), &json!({}))
        .await;
    assert_eq!(replayed.status, 202, "{}", replayed.text());
    let newest = backend.get("/v1/deliveries").await.json()["items"][0].clone();
    assert_eq!(
        (&newest["replay_of"], &newest["source"]),
        (&json!(id), &json!("gitea"))
    );
    let unknown = backend
        .post("/v1/deliveries/unknown/replay", &json!({}))
        .await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn too_little_isolation_refuses_work_from_outside_only() {
    let config = format!("{REVIEW}[runs]\nmin_isolation = \"user\"\n");
    let mut backend = with_card(&config, json!(["true"])).await;
    let body = pull_request("ISSUE-1").to_string();
    let refused = forwarded("k", "pull_request", body)
        .send(backend.address())
        .await;
    assert_ignored(&refused, "isolation");
    assert!(
        refused.json()["message"]
            .as_str()
            .unwrap()
            .contains("min_isolation")
    );
    assert_eq!(
        backend.get("/v1/cards/ISSUE-1").await.json()["status"],
        "ready"
    );
    assert_eq!(
        backend
            .post("/v1/runs", &json!({ "card_id": "ISSUE-1" }))
            .await
            .status,
        201
    );
    convergence::settled(&mut backend).await;
    assert_eq!(
        backend.get("/v1/cards/ISSUE-1").await.json()["status"],
        "done"
    );
}
