//! The backend is killed at every named place, once each, in the middle of a bit of everything.

use orket_backend::crash_point::CrashPoint;
use orket_tests::{
    Answer, Backend, DEADLINE, Delivery, Request,
    convergence::{invariants, work},
    eventually,
};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{config, exists, no_sandboxes, order};

macro_rules! crash_points {
    ($($name:ident: $point:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                killed_at(CrashPoint::$point).await;
            }
        )*

        const TRIED: &[CrashPoint] = &[$(CrashPoint::$point),*];
    };
}

crash_points! {
    at_schema_step_committed: SchemaStepCommitted,
    at_boot_epoch_taken: BootEpochTaken,
    at_commit_due: CommitDue,
    at_committed: Committed,
    at_submission_committed: SubmissionCommitted,
    at_run_claimed: RunClaimed,
    at_attempt_prepared: AttemptPrepared,
    at_supervisor_spawned: SupervisorSpawned,
    at_attempt_started: AttemptStarted,
    at_attempt_adopted: AttemptAdopted,
    at_output_taken: OutputTaken,
    at_exit_read: ExitRead,
    at_attempt_settled: AttemptSettled,
    at_retry_planned: RetryPlanned,
    at_dependency_released: DependencyReleased,
    at_cancel_asked: CancelAsked,
    at_cancel_committed: CancelCommitted,
    at_term_due: TermDue,
    at_term_sent: TermSent,
    at_tick_due: TickDue,
    at_tick_committed: TickCommitted,
    at_delivery_received: DeliveryReceived,
    at_delivery_committed: DeliveryCommitted,
    at_card_archived: CardArchived,
    at_queue_paused: QueuePaused,
    at_run_replayed: RunReplayed,
    at_sandbox_recorded: SandboxRecorded,
    at_service_spawned: ServiceSpawned,
    at_sandbox_started: SandboxStarted,
    at_sandbox_ended: SandboxEnded,
    at_sandbox_cleared: SandboxCleared,
    at_draining: Draining,
}

#[test]
fn every_place_is_tried() {
    assert_eq!(TRIED, CrashPoint::ALL);
}

#[tokio::test]
async fn a_place_that_does_not_exist_keeps_it_from_starting() {
    for (at, word) in [("nowhere", "nowhere"), ("run_claimed:0", "no number")] {
        let mut backend = Backend::start("").await;
        backend.restart_to_crash(at).await;
        let status = backend.program().wait().await;
        assert_eq!(status.code(), Some(1));
        assert!(backend.output().contains(word), "{}", backend.output());
    }
}

async fn killed_at(point: CrashPoint) {
    let place = CrashPoint::ALL.iter().position(|at| *at == point).unwrap();
    let ports = 26_600 + 10 * u16::try_from(place).unwrap();
    let mut backend = Backend::start(&config(ports)).await;
    let mut scene = Scene::default();
    if point == CrashPoint::SchemaStepCommitted {
        // A store that a program of before would have left: none at all.
        backend.kill().await;
        std::fs::remove_file(backend.database()).unwrap();
    } else {
        scene.before(&mut backend).await;
    }
    backend.restart_to_crash(point.name()).await;
    if scene.during(&backend).await.is_some() && backend.is_running() {
        // What is left to be reached is the way out.
        backend.program().signal(rustix::process::Signal::TERM);
    }
    backend.crashed().await;
    backend.restart().await;
    scene.after(&mut backend).await;
}

/// Runs that were promised, and what is done again after the crash.
#[derive(Default)]
struct Scene {
    accepted: Vec<String>,
}

const LONG: &str = "echo out; while [ ! -e go ]; do sleep 0.02; done";
const DEAF: &str = "trap '' TERM; touch deaf; while [ ! -e never ]; do sleep 0.02; done";

impl Scene {
    /// What is there already when the backend starts that is going to be killed.
    async fn before(&mut self, backend: &mut Backend) {
        self.submit(backend, &order("long", LONG, &json!({}))).await;
        self.submit(backend, &order("bad", "exit 1", &json!({})))
            .await;
        let cards = [
            ("ISSUE-1", None),
            ("old-1", Some("old")),
            ("old-2", Some("old")),
        ];
        for (id, build) in cards {
            let card = json!({ "id": id, "title": id, "build_id": build,
                "command": work(id, "true") });
            assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
        }
        let schedule = json!({ "id": "minutely", "cron": "* * * * *", "missed": "once",
            "command": ["true"] });
        let answer = backend.post("/v1/schedules", &schedule).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        for (id, state) in [("long", "running"), ("bad", "failed")] {
            eventually(&format!("{id} is {state}"), DEADLINE, || async {
                backend.get(&format!("/v1/runs/{id}")).await.json()["state"] == state
            })
            .await;
        }
        backend.kill().await;
        let store = Connection::open(backend.database()).unwrap();
        let due = jiff::Timestamp::now().as_second().div_euclid(60) * 60 - 60;
        let changed = store.execute("UPDATE schedules SET next_at = ?1", [due * 1_000_000]);
        assert_eq!(changed, Ok(1));
    }

    /// A bit of everything; `None` when the backend went away meanwhile.
    async fn during(&mut self, backend: &Backend) -> Option<()> {
        for body in submissions() {
            let answer = keyed(&body).attempt(backend.address()).await?;
            assert_eq!(answer.status, 201, "{}", answer.text());
            self.accepted.push(body["id"].as_str().unwrap().to_owned());
        }
        let answer = backend.attempt("/v1/queues/side/pause", &json!({})).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = delivery().attempt(backend.address()).await?;
        assert_eq!(answer.status, 202, "{}", answer.text());
        self.accepted
            .push(answer.json()["run_id"].as_str().unwrap().to_owned());
        for (target, body) in repeatable() {
            let answer = backend.attempt(target, &body).await?;
            assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        }
        let services = json!([
            { "name": "api", "command": crate::sandbox::server(), "role": "api",
              "health": { "path": "/health" } },
            { "name": "idle", "command": ["sleep", "1000"] },
        ]);
        let made = backend
            .attempt("/v1/sandboxes", &json!({ "services": services }))
            .await?;
        assert_eq!(made.status, 201, "{}", made.text());
        let sandbox = format!("/v1/sandboxes/{}", made.json()["id"].as_str().unwrap());
        until(backend, &sandbox, "state", "running").await?;
        until(backend, "/v1/runs/again", "state", "failed").await?;
        exists(&backend.workspace().join("deaf")).await;
        let answer = backend.attempt("/v1/runs/deaf/cancel", &json!({})).await?;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let delete = Request::new("DELETE", &sandbox);
        assert_eq!(delete.attempt(backend.address()).await?.status, 202);
        until(backend, &sandbox, "state", "deleted").await?;
        until(backend, "/v1/runs/second", "state", "succeeded").await?;
        until(backend, "/v1/runs/deaf", "state", "canceled").await
    }

    /// What was not answered is asked for again, and everything comes to its end.
    async fn after(&mut self, backend: &mut Backend) {
        for body in submissions() {
            let answer = keyed(&body).send(backend.address()).await;
            // The key is remembered with the run, or neither is.
            assert_eq!(answer.status, 201, "{}", answer.text());
            self.accepted.push(body["id"].as_str().unwrap().to_owned());
        }
        let card = json!({ "id": "ISSUE-1", "title": "t", "command": ["true"] });
        assert!([201, 409].contains(&backend.post("/v1/cards", &card).await.status));
        let first = delivery().send(backend.address()).await;
        assert_eq!(first.status, 202, "{}", first.text());
        let again = delivery().send(backend.address()).await;
        assert_eq!((again.status, again.json()), (first.status, first.json()));
        self.accepted
            .push(first.json()["run_id"].as_str().unwrap().to_owned());
        for (target, body) in repeatable() {
            assert_eq!(backend.post(target, &body).await.status, 200, "{target}");
        }
        let archived = backend.get("/v1/cards?status=archived").await.json();
        let archived = archived["items"].as_array().unwrap().len();
        assert!([0, 2].contains(&archived), "{archived} of 2 cards");
        std::fs::write(backend.workspace().join("go"), "").unwrap();
        backend.post("/v1/queues/side/resume", &json!({})).await;
        for id in ["deaf", "waits"] {
            backend
                .post(&format!("/v1/runs/{id}/cancel"), &json!({}))
                .await;
        }
        let schedule = Request::new("DELETE", "/v1/schedules/minutely");
        assert!([204, 404].contains(&schedule.send(backend.address()).await.status));
        no_sandboxes(backend).await;
        invariants(backend, &self.accepted).await;
        let runs = backend.get("/v1/runs?card_id=ISSUE-1").await.json();
        assert_eq!(runs["items"].as_array().unwrap().len(), 1, "{runs}");
    }

    async fn submit(&mut self, backend: &Backend, body: &Value) {
        let answer = backend.post("/v1/runs", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        self.accepted.push(body["id"].as_str().unwrap().to_owned());
    }
}

fn submissions() -> Vec<Value> {
    let retried = json!({ "retries": 1 });
    let needs = json!({ "depends_on": ["first"] });
    let side = json!({ "queue": "side" });
    vec![
        order("first", "echo out; sleep 0.1", &json!({})),
        order("second", "true", &needs),
        order("again", "exit 3", &retried),
        order("deaf", DEAF, &json!({})),
        order("waits", "true", &side),
    ]
}

fn keyed(body: &Value) -> Request {
    let key = body["id"].as_str().unwrap();
    Request::post_json("/v1/runs", body).header("Idempotency-Key", key)
}

fn delivery() -> Request {
    let mut delivery = Delivery::pull_request_opened("lab/example", "ISSUE-1");
    let mut body: Value = serde_json::from_slice(&delivery.body).unwrap();
    // The same bytes each time, as a forge that tries again sends them.
    for place in ["/number", "/pull_request/number", "/pull_request/id"] {
        *body.pointer_mut(place).unwrap() = json!(7);
    }
    body["pull_request"]["head"]["sha"] = json!("1111111111111111111111111111111111111111");
    delivery.body = body.to_string().into_bytes();
    Request::post("/webhook/gitea", delivery.body)
        .header("Content-Type", "application/json")
        .header("X-Orket-Actor", "webhook:gitea")
        .header("X-Orket-Webhook-Source", "gitea")
        .header("X-Orket-Webhook-Provider", "gitea")
        .header("X-Orket-Webhook-Event", "pull_request")
        .header("X-Orket-Webhook-Delivery", "7")
        .header("X-Orket-Webhook-Key", "key-7")
}

/// What may be asked for twice.
fn repeatable() -> [(&'static str, Value); 2] {
    [
        ("/v1/runs/replay", json!({ "states": ["failed"] })),
        (
            "/v1/cards/archive",
            json!({ "build_id": "old", "reason": "over" }),
        ),
    ]
}

/// Waits until a field has this value; `None` when the backend went away.
async fn until(backend: &Backend, target: &str, field: &str, value: &str) -> Option<()> {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let answer: Answer = Request::get(target).attempt(backend.address()).await?;
        if answer.json()[field] == value {
            return Some(());
        }
        assert!(
            tokio::time::Instant::now() < end,
            "{target} does not become {value}: {}",
            answer.text()
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
