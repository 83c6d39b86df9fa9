//! Clients that close their sending side once they have said all, as `nc -N` does, and others that are
//! gone altogether.

use orket_tests::{Backend, Connection, DEADLINE, Watch, eventually};
use serde_json::json;

use super::{ended, script};

fn submission(id: &str) -> Vec<u8> {
    let body = json!({ "id": id, "command": ["true"] }).to_string();
    let head = format!(
        "POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes()
}

#[tokio::test]
async fn who_has_said_all_and_closes_that_side_is_answered() {
    for listen in ["", "[listen]\naddress = \"127.0.0.1:0\"\n"] {
        let backend = Backend::start(listen).await;
        for n in 0..20 {
            let mut client = Connection::open(backend.address()).await;
            client.send(&submission(&format!("r{n}"))).await;
            client.finish().await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 201, "{}", answer.text());
            // Nothing more can come: it is not kept.
            assert!(client.one_answer("GET").await.is_none());
            let run = ended(&backend, &format!("r{n}")).await;
            assert_eq!(run["state"], "succeeded", "{run}");
        }
    }
}

#[tokio::test]
async fn a_stream_goes_on_for_one_that_only_listens() {
    let backend = Backend::start("").await;
    let id = script(&backend, "until [ -e go ]; do sleep 0.02; done; echo late").await;
    let mut client = Connection::open(backend.address()).await;
    let head = format!("GET /v1/runs/{id}/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.send(head.as_bytes()).await;
    client.finish().await;
    eventually("it is counted as a reader", DEADLINE, || async {
        backend.metric("readers{kind=\"logs_sse\"}").await == 1
    })
    .await;
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    let told = client.answer().await.text();
    assert!(
        told.contains("late") && told.contains("event: end"),
        "{told}"
    );
}

#[tokio::test]
async fn one_that_breaks_off_gets_nothing_and_nothing_is_done() {
    let backend = Backend::start("").await;
    let whole = submission("broken");
    for length in [0, 1, 40, whole.len() - 1] {
        let mut client = Connection::open(backend.address()).await;
        client.send(&whole[..length]).await;
        client.finish().await;
        if let Some(answer) = client.one_answer("POST").await {
            assert_eq!(answer.status, 400, "{length}: {}", answer.text());
            assert!(client.one_answer("POST").await.is_none(), "{length}");
        }
    }
    assert_eq!(backend.get("/v1/runs/broken").await.status, 404);
}

#[tokio::test]
async fn one_that_only_listens_and_does_not_is_cut_off() {
    let backend = Backend::start("[listen]\nwrite_timeout = \"1s\"\n").await;
    let id = script(&backend, "head -c 8000000 /dev/zero | tr '\\0' x").await;
    ended(&backend, &id).await;
    let mut client = Connection::open(backend.address()).await;
    let head = format!("GET /v1/runs/{id}/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.send(head.as_bytes()).await;
    client.finish().await;
    eventually("it is cut off", DEADLINE, || async {
        backend.metric("readers_cut_off_total").await == 1
            && backend.metric("readers{kind=\"logs_sse\"}").await == 0
    })
    .await;
}

#[tokio::test]
async fn one_that_is_gone_is_noticed() {
    let backend = Backend::start("").await;
    let id = script(&backend, "sleep 1000").await;
    let logs = format!("/v1/runs/{id}/logs?follow=true");
    let counted = async |count: u64| {
        let what = format!("{count} readers of each");
        eventually(&what, DEADLINE, || async {
            backend.metric("readers{kind=\"events_sse\"}").await == count
                && backend.metric("readers{kind=\"logs_sse\"}").await == count
        })
        .await;
    };
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Watch::open(backend.address(), "/v1/events", None).await);
        clients.push(Watch::open(backend.address(), &logs, None).await);
    }
    counted(10).await;
    drop(clients);
    counted(0).await;
}
