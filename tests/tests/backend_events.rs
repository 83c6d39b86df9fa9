//! Watching state changes: numbered, complete, resumable, over a WebSocket and as server-sent
//! events.

use futures_util::StreamExt as _;
use orket_tests::{Backend, Connection, DEADLINE, Request, convergence};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

type Socket = WebSocketStream<Box<dyn orket_tests::wire::Stream>>;

async fn watch(backend: &Backend, target: &str) -> Socket {
    let stream = backend.address().connect().await.unwrap();
    let (socket, _) = client_async(format!("ws://localhost{target}"), stream)
        .await
        .unwrap();
    socket
}

/// The next event of a WebSocket; pings are passed over.
async fn next(socket: &mut Socket) -> Value {
    loop {
        let message = timeout(DEADLINE, socket.next())
            .await
            .expect("an event in time");
        match message.expect("an open socket").unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            closed @ (Message::Binary(_) | Message::Close(_) | Message::Frame(_)) => {
                panic!("no event: {closed:?}")
            }
        }
    }
}

/// Events until one of `kind`.
async fn until(socket: &mut Socket, kind: &str) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let event = next(socket).await;
        let found = event["kind"] == kind;
        events.push(event);
        if found {
            return events;
        }
    }
}

async fn run_to_its_end(backend: &mut Backend, id: &str) {
    let body = json!({ "id": id, "command": ["true"] });
    assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
    convergence::settled(backend).await;
}

fn numbers(events: &[Value]) -> Vec<i64> {
    events
        .iter()
        .map(|event| event["seq"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_run_is_seen_through_its_life() {
    let mut backend = Backend::start("").await;
    let mut socket = watch(&backend, "/ws/events").await;
    run_to_its_end(&mut backend, "r").await;
    let events = until(&mut socket, "run.succeeded").await;
    let kinds: Vec<_> = events
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["run.queued", "run.running", "run.succeeded"]);
    assert!(events.iter().all(|event| event["subject"] == "r"));
    assert!(numbers(&events).is_sorted());
}

#[tokio::test]
async fn who_comes_back_misses_nothing_even_across_a_kill() {
    let mut backend = Backend::start("").await;
    let mut socket = watch(&backend, "/ws/events?after=0").await;
    run_to_its_end(&mut backend, "a").await;
    let before = until(&mut socket, "run.succeeded").await;
    drop(socket);
    run_to_its_end(&mut backend, "b").await;
    backend.kill_and_restart().await;
    run_to_its_end(&mut backend, "c").await;

    let last = numbers(&before).last().copied().unwrap();
    let mut socket = watch(&backend, &format!("/ws/events?after={last}")).await;
    let mut after = until(&mut socket, "run.succeeded").await;
    after.extend(until(&mut socket, "run.succeeded").await);
    let mut all = watch(&backend, "/ws/events?after=0").await;
    let mut whole = Vec::new();
    for _ in 0..3 {
        whole.extend(until(&mut all, "run.succeeded").await);
    }
    assert_eq!([before, after].concat(), whole);
    let whole = numbers(&whole);
    let expected: Vec<_> = (1..=i64::try_from(whole.len()).unwrap()).collect();
    assert_eq!(whole, expected, "the numbers have no gap");
}

#[tokio::test]
async fn server_sent_events_resume_by_last_event_id() {
    let mut backend = Backend::start("").await;
    run_to_its_end(&mut backend, "r").await;
    let request = Request::get("/v1/events").header("Last-Event-ID", "1");
    let mut connection = Connection::open(backend.address()).await;
    connection.send(&request.bytes(backend.address())).await;
    let events = crate::backend_runs::output::events(&mut connection, "run.succeeded").await;
    let kinds: Vec<_> = events.iter().map(|(kind, ..)| kind.as_str()).collect();
    assert_eq!(kinds, ["run.running", "run.succeeded"]);
    assert_eq!(events[0].1.as_deref(), Some("2"));
    assert_eq!(events[0].2["seq"], 2);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_nobody_up() {
    let mut backend = Backend::start("").await;
    let _asleep = watch(&backend, "/ws/events?after=0").await;
    let mut awake = watch(&backend, "/ws/events?after=0").await;
    for n in 0..300 {
        let card = json!({ "id": format!("c{n}"), "title": "t", "command": ["true"] });
        assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    }
    run_to_its_end(&mut backend, "last").await;
    assert_eq!(until(&mut awake, "run.succeeded").await.len(), 303);
}

#[tokio::test]
async fn a_stop_ends_streams() {
    let mut backend = Backend::start("").await;
    let mut socket = watch(&backend, "/ws/events").await;
    let mut connection = Connection::open(backend.address()).await;
    let request = Request::get("/v1/events");
    connection.send(&request.bytes(backend.address())).await;
    // Both are being served.
    run_to_its_end(&mut backend, "r").await;
    until(&mut socket, "run.succeeded").await;
    assert!(backend.terminate().await.success());
    assert!(connection.read_to_end().await.starts_with(b"HTTP/1.1 200"));
    let rest = timeout(DEADLINE, socket.next())
        .await
        .expect("an end in time");
    assert!(
        matches!(rest, None | Some(Ok(Message::Close(_)) | Err(_))),
        "{rest:?}"
    );
}

#[tokio::test]
async fn a_plain_request_is_told_to_speak_websocket() {
    let backend = Backend::start("").await;
    let answer = backend.get("/ws/events").await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["reason"], "not_a_websocket");
}
