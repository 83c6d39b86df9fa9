//! What runs write: kept, numbered, followed.

use orket_tests::{Backend, Connection, Request};
use serde_json::{Value, json};

use super::{ended, script};

#[tokio::test]
async fn bytes_survive_as_they_are() {
    let backend = Backend::start("").await;
    let id = script(&backend, "printf '\\377\\376'; sleep 0.2; echo text >&2").await;
    ended(&backend, &id).await;
    let answer = backend.get(&format!("/v1/runs/{id}/logs")).await.json();
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items[0]["data_b64"], "//4=", "{answer}");
    assert_eq!(items[0]["stream"], "stdout");
    assert_eq!(
        (&items[1]["text"], &items[1]["stream"]),
        (&json!("text\n"), &json!("stderr"))
    );
    let next = answer["next"].as_i64().unwrap();
    let rest = backend
        .get(&format!("/v1/runs/{id}/logs?after={next}"))
        .await
        .json();
    assert_eq!((&rest["items"], &rest["next"]), (&json!([]), &json!(next)));
}

#[tokio::test]
async fn a_page_is_bounded_by_its_bytes_too_and_nothing_is_left_out() {
    let backend = Backend::start("").await;
    let id = script(&backend, "head -c 2000000 /dev/zero | tr '\\0' x").await;
    ended(&backend, &id).await;
    let (mut after, mut total, mut pages) = (0, 0, 0);
    loop {
        let target = format!("/v1/runs/{id}/logs?limit=500&after={after}");
        let page = backend.get(&target).await.json();
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            break;
        }
        let texts = items.iter().map(|item| item["text"].as_str().unwrap());
        let size = texts.map(str::len).sum::<usize>();
        assert!(size < 512 * 1024, "a page of {size} bytes");
        total += size;
        pages += 1;
        after = page["next"].as_i64().unwrap();
    }
    assert_eq!(total, 2_000_000);
    assert!(pages > 3, "{pages} pages");
}

#[tokio::test]
async fn what_was_dropped_beyond_the_cap_is_told() {
    let backend = Backend::start("[runs]\noutput_limit = \"1KiB\"\n").await;
    let id = script(&backend, "head -c 5000 /dev/zero | tr '\\0' x").await;
    let run = ended(&backend, &id).await;
    assert_eq!(
        run["attempt_list"][0]["dropped_bytes"],
        5000 - 1024,
        "{run}"
    );
}

/// Reads server-sent events until one of kind `last`; their kinds, ids and data.
pub(crate) async fn events(
    connection: &mut Connection,
    last: &str,
) -> Vec<(String, Option<String>, Value)> {
    let mut bytes = Vec::new();
    loop {
        bytes.extend(connection.read_exact(1).await);
        let all = String::from_utf8_lossy(&bytes).into_owned();
        if !all.ends_with("\n\n") {
            continue;
        }
        let mut found = Vec::new();
        for block in all.split("\n\n") {
            let field = |name: &str| {
                block.lines().find_map(|line| {
                    let line = line.trim_end_matches('\r');
                    line.strip_prefix(name)
                        .and_then(|rest| rest.strip_prefix(": "))
                })
            };
            if let (Some(kind), Some(data)) = (field("event"), field("data")) {
                let data = serde_json::from_str(data).unwrap();
                found.push((kind.to_owned(), field("id").map(str::to_owned), data));
            }
        }
        if found.iter().any(|(kind, ..)| kind == last) {
            return found;
        }
    }
}

#[tokio::test]
async fn a_follower_sees_all_of_it_and_the_end_and_can_resume() {
    let backend = Backend::start("").await;
    let id = script(
        &backend,
        "echo 1; while [ ! -e go ]; do sleep 0.02; done; echo 2",
    )
    .await;
    let follow = Request::get(&format!("/v1/runs/{id}/logs?follow=true"));
    let mut connection = Connection::open(backend.address()).await;
    connection.send(&follow.bytes(backend.address())).await;
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    let seen = events(&mut connection, "end").await;
    let texts: String = seen
        .iter()
        .filter_map(|(.., data)| data["text"].as_str())
        .collect();
    assert_eq!(texts, "1\n2\n");
    assert_eq!(seen.last().unwrap().2["state"], "succeeded");

    let first = seen[0].1.clone().unwrap();
    let resume = follow.header("Last-Event-ID", &first);
    let mut connection = Connection::open(backend.address()).await;
    connection.send(&resume.bytes(backend.address())).await;
    let rest = events(&mut connection, "end").await;
    assert_eq!(rest, seen[1..]);
}

#[tokio::test]
async fn a_canceled_run_that_never_started_ends_its_followers_too() {
    let backend = Backend::start("[runs]\nconcurrency = 1\n").await;
    let holds = script(&backend, "sleep 300").await;
    super::reaches(&backend, &holds, "running").await;
    let waits = script(&backend, "true").await;
    let follow =
        Request::get(&format!("/v1/runs/{waits}/logs")).header("Accept", "text/event-stream");
    let mut connection = Connection::open(backend.address()).await;
    connection.send(&follow.bytes(backend.address())).await;
    super::cancel(&backend, &waits).await;
    let seen = events(&mut connection, "end").await;
    assert_eq!(seen.last().unwrap().2["state"], "canceled");
}
