//! Readers that all see every event.

use std::time::Instant;

use orket_tests::{Backend, Connection, DEADLINE, Request, Watch, eventually};
use serde_json::json;
use tokio::task::JoinSet;

use crate::report::{Report, per_second};

/// Readers of server-sent events.
const READERS: usize = 1_000;
const EVENTS: usize = 200;

pub(crate) async fn readers(report: &mut Report) {
    let backend = Backend::start("").await;
    let mut watching = JoinSet::new();
    for _ in 0..READERS {
        let mut watch = Watch::open(backend.address(), "/v1/events", Some(0)).await;
        watching.spawn(async move {
            for seq in 1..=i64::try_from(EVENTS).unwrap() {
                let told = watch.must_next().await;
                assert_eq!(told.id, Some(seq));
            }
        });
    }
    eventually("all are being served", DEADLINE, || async {
        backend.metric("readers{kind=\"events_sse\"}").await >= 1_000
    })
    .await;
    let begun = Instant::now();
    let mut connection = Connection::open(backend.address()).await;
    for _ in 0..EVENTS {
        let card = json!({ "title": "t", "command": ["true"] });
        let request = Request::post_json("/v1/cards", &card).bytes(backend.address());
        connection.send(&request).await;
        assert_eq!(connection.answer().await.status, 201);
    }
    let made = begun.elapsed();
    watching.join_all().await;
    let all = begun.elapsed();
    let what =
        format!("{READERS} readers of server-sent events, {EVENTS} events each, none missed");
    let figure = format!(
        "{:.0} events/s in all; the last {:.0} ms after it was made",
        per_second(READERS * EVENTS, all),
        all.saturating_sub(made).as_secs_f64() * 1000.0
    );
    report.add("readers", what, figure, "all see all");
}
