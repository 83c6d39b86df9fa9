//! Watching state changes: numbered, complete, resumable, over a WebSocket and as server-sent
//! events.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use futures_util::StreamExt as _;
use orket_tests::{Backend, Connection, DEADLINE, Request, Watch, convergence, eventually};
use rusqlite::Connection as Sql;
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
    let lived = ["run.queued", "run.running", "run.succeeded"];
    assert_eq!(kinds, [&["feed.position"], &lived[..]].concat());
    assert!(events[1..].iter().all(|event| event["subject"] == "r"));
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
async fn a_reader_who_was_told_nothing_yet_misses_nothing_either() {
    let mut backend = Backend::start("").await;
    run_to_its_end(&mut backend, "before").await;
    let mut events = Watch::open(backend.address(), "/v1/events", None).await;
    let mut socket = watch(&backend, "/ws/events").await;
    let position = events.position().await;
    let told = next(&mut socket).await;
    assert_eq!(told["kind"], "feed.position", "{told}");
    assert_eq!(told["seq"].as_i64(), Some(position));
    backend.kill_and_restart().await;
    run_to_its_end(&mut backend, "meanwhile").await;
    let mut events = Watch::open(backend.address(), "/v1/events", Some(position)).await;
    let mut socket = watch(&backend, &format!("/ws/events?after={position}")).await;
    let first = events.must_next().await;
    assert_eq!(
        (first.kind.as_str(), first.id),
        ("run.queued", Some(position + 1))
    );
    let told = next(&mut socket).await;
    assert_eq!(
        (&told["kind"], &told["subject"]),
        (&json!("run.queued"), &json!("meanwhile"))
    );
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

/// All events as the store has them: number, kind, subject.
fn stored(backend: &Backend) -> Vec<(i64, String, String)> {
    let store = Sql::open(backend.database()).unwrap();
    let mut rows = store
        .prepare("SELECT seq, kind, subject FROM events ORDER BY seq")
        .unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_reader_sees_every_event_once_through_kills() {
    let mut backend = Backend::start("").await;
    let address = backend.address().clone();
    let reached = Arc::new(AtomicI64::new(0));
    let at = Arc::clone(&reached);
    let reader = tokio::spawn(async move {
        let (mut last, mut seen) = (0, Vec::new());
        loop {
            let Some(mut watch) = Watch::try_open(&address, "/v1/events", Some(last)).await else {
                tokio::task::yield_now().await;
                continue;
            };
            while let Some(told) = watch.next().await {
                last = told.id.unwrap();
                let subject = told.data["subject"].as_str().unwrap().to_owned();
                let is_last = subject == "the-last" && told.kind == "run.succeeded";
                seen.push((last, told.kind, subject));
                at.store(last, Ordering::Relaxed);
                if is_last {
                    return seen;
                }
            }
        }
    });
    for round in 0..5 {
        for n in 0..6 {
            let id = format!("r{round}-{n}");
            let body = json!({ "id": id, "command": ["true"] });
            assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
        }
        // Killed while runs begin and end, and while the reader reads.
        let before = reached.load(Ordering::Relaxed);
        eventually("the reader reads", DEADLINE, || async {
            reached.load(Ordering::Relaxed) > before
        })
        .await;
        backend.kill_and_restart().await;
    }
    convergence::settled(&mut backend).await;
    let body = json!({ "id": "the-last", "command": ["true"] });
    assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
    let seen = reader.await.unwrap();
    let mut stored = stored(&backend);
    // A card or a sandbox may go on; nothing of runs does.
    stored.truncate(seen.len());
    assert_eq!(seen, stored);
    let numbers: Vec<i64> = seen.iter().map(|(seq, ..)| *seq).collect();
    assert!(
        numbers
            .iter()
            .copied()
            .eq(1..=i64::try_from(seen.len()).unwrap())
    );
}

/// Fills the feed of a backend that is stopped with as many events of 500 bytes.
fn fill(backend: &Backend, count: i64) {
    let store = Sql::open(backend.database()).unwrap();
    let filled = store.execute(
        "INSERT INTO events (time, kind, subject, data) WITH RECURSIVE n (i) AS \
         (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
         SELECT 1000000 + i, 'card.updated', 'filler', json_object('text', printf('%.500c', 'x')) FROM n",
        [count],
    );
    assert_eq!(filled.unwrap(), usize::try_from(count).unwrap());
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_alone_and_can_resume() {
    let config = "[listen]\nwrite_timeout = \"1s\"\n[retention]\nevents = \"never\"\n";
    let mut backend = Backend::start(config).await;
    assert!(backend.terminate().await.success());
    fill(&backend, 10_000);
    backend.restart().await;
    let mut asleep = Watch::open(backend.address(), "/v1/events", Some(0)).await;
    let mut asleep_too = watch(&backend, "/ws/events?after=0").await;
    let mut awake = Watch::open(backend.address(), "/v1/events", Some(0)).await;
    for seq in 1..=10_000 {
        assert_eq!(awake.must_next().await.id, Some(seq));
    }
    eventually("both sleepers are cut off", DEADLINE, || async {
        backend.metric("readers_cut_off_total").await >= 2
    })
    .await;
    run_to_its_end(&mut backend, "r").await;
    let all = stored(&backend);
    for (seq, kind, _) in &all[10_000..] {
        let told = awake.must_next().await;
        assert_eq!((told.id, &told.kind), (Some(*seq), kind));
    }
    // What the sleepers got before is whole, and they go on behind it.
    let mut last = 0;
    while let Some(told) = asleep.next().await {
        last += 1;
        assert_eq!(told.id, Some(last));
    }
    assert!(last < 10_000, "it was not cut off at {last}");
    let mut again = Watch::open(backend.address(), "/v1/events", Some(last)).await;
    for (seq, ..) in &all[usize::try_from(last).unwrap()..] {
        assert_eq!(again.must_next().await.id, Some(*seq));
    }
    let mut last = 0;
    while let Some(Ok(message)) = asleep_too.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let event: Value = serde_json::from_str(&text).unwrap();
        last += 1;
        assert_eq!(event["seq"], last);
    }
    assert!(last < 10_000, "it was not cut off at {last}");
    eventually("the ones that watch are counted", DEADLINE, || async {
        backend.metric("readers{kind=\"events_sse\"}").await == 2
            && backend.metric("readers{kind=\"events_websocket\"}").await == 0
    })
    .await;
}

#[tokio::test]
async fn a_stream_without_news_shows_that_it_lives() {
    let backend = Backend::start("").await;
    let mut events = Watch::open(backend.address(), "/v1/events", None).await;
    let body = json!({ "id": "silent", "command": ["sleep", "1000"] });
    assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
    let logs = "/v1/runs/silent/logs?follow=true";
    let mut output = Watch::open(backend.address(), logs, None).await;
    let sockets = ["/ws/events", "/v1/runs/silent/logs"];
    let [mut events_too, mut output_too] = [
        watch(&backend, sockets[0]).await,
        watch(&backend, sockets[1]).await,
    ];
    tokio::join!(
        events.sign_of_life(),
        output.sign_of_life(),
        ping(&mut events_too),
        ping(&mut output_too),
    );
}

/// Waits for a WebSocket's sign of life.
async fn ping(socket: &mut Socket) {
    loop {
        let message = timeout(DEADLINE, socket.next())
            .await
            .expect("a sign in time");
        match message.expect("an open socket").unwrap() {
            Message::Ping(_) => return,
            Message::Text(_) | Message::Pong(_) => {}
            closed @ (Message::Binary(_) | Message::Close(_) | Message::Frame(_)) => {
                panic!("no sign of life: {closed:?}")
            }
        }
    }
}

#[tokio::test]
async fn a_reader_is_told_what_was_removed() {
    let mut backend = Backend::start("").await;
    run_to_its_end(&mut backend, "r").await;
    let newest = i64::try_from(stored(&backend).len()).unwrap();
    assert!(backend.terminate().await.success());
    let store = Sql::open(backend.database()).unwrap();
    store
        .execute("UPDATE events SET time = 1000000", [])
        .unwrap();
    drop(store);
    backend.restart().await;
    eventually("old events are removed", DEADLINE, || async {
        stored(&backend).is_empty()
    })
    .await;
    let mut watch = Watch::open(backend.address(), "/v1/events", Some(1)).await;
    let mut socket = self::watch(&backend, "/ws/events?after=0").await;
    let told = watch.must_next().await;
    assert_eq!((told.kind.as_str(), told.id), ("feed.gap", Some(newest)));
    assert_eq!(told.data["data"], json!({ "after": 1, "next": newest + 1 }));
    let gap = next(&mut socket).await;
    assert_eq!(
        (&gap["kind"], &gap["data"]["after"]),
        (&json!("feed.gap"), &json!(0))
    );
    // Numbers are never given out again, and the gap is told once.
    run_to_its_end(&mut backend, "s").await;
    let told = watch.must_next().await;
    assert_eq!(
        (told.kind.as_str(), told.id),
        ("run.queued", Some(newest + 1))
    );
    assert_eq!(next(&mut socket).await["seq"], newest + 1);
    // Who was at the newest has missed nothing.
    let mut watch = Watch::open(backend.address(), "/v1/events", Some(newest)).await;
    assert_eq!(watch.must_next().await.kind, "run.queued");
    // A number that this store never gave out is of another one.
    let mut watch = Watch::open(backend.address(), "/v1/events", Some(newest + 1000)).await;
    let told = watch.must_next().await;
    assert_eq!(told.kind, "feed.gap");
    assert_eq!(told.data["data"]["after"], newest + 1000);
}
