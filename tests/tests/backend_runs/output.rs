//! What runs write: kept, numbered, followed.

use futures_util::StreamExt as _;
use orket_tests::{Backend, Connection, DEADLINE, Request, Watch};
use serde_json::{Value, json};
use tokio_tungstenite::{client_async, tungstenite::Message};

use super::{cancel, ended, reaches, script, submit};

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

/// All output of a run, page by page.
async fn pages(backend: &Backend, id: &str) -> Vec<Vec<Value>> {
    let (mut after, mut pages) = (0, Vec::new());
    loop {
        let target = format!("/v1/runs/{id}/logs?limit=500&after={after}");
        let page = backend.get(&target).await.json();
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            return pages;
        }
        pages.push(items.clone());
        after = page["next"].as_i64().unwrap();
    }
}

#[tokio::test]
async fn a_page_is_bounded_by_its_bytes_too_and_nothing_is_left_out() {
    let backend = Backend::start("").await;
    let id = script(&backend, "head -c 2000000 /dev/zero | tr '\\0' x").await;
    ended(&backend, &id).await;
    let pages = pages(&backend, &id).await;
    let mut total = 0;
    for items in &pages {
        let texts = items.iter().map(|item| item["text"].as_str().unwrap());
        let size = texts.map(str::len).sum::<usize>();
        assert!(size < 512 * 1024, "a page of {size} bytes");
        total += size;
    }
    assert_eq!(total, 2_000_000);
    assert!(pages.len() > 3, "{} pages", pages.len());
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

#[tokio::test]
async fn a_websocket_tells_the_same() {
    let backend = Backend::start("").await;
    let go = "echo 1; while [ ! -e go ]; do sleep 0.02; done; printf '\\377'; exit 3";
    let id = script(&backend, go).await;
    let stream = backend.address().connect().await.unwrap();
    let target = format!("ws://localhost/v1/runs/{id}/logs");
    let (mut socket, _) = client_async(target, stream).await.unwrap();
    let mut told = Vec::new();
    loop {
        let message = tokio::time::timeout(DEADLINE, socket.next()).await;
        match message.expect("a message in time") {
            Some(Ok(Message::Text(text))) => {
                let said: Value = serde_json::from_str(&text).unwrap();
                if said["text"] == "1\n" {
                    std::fs::write(backend.workspace().join("go"), "").unwrap();
                }
                told.push(said);
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => break,
            other => panic!("{other:?}"),
        }
    }
    let kinds: Vec<_> = told.iter().map(|said| &said["event"]).collect();
    assert_eq!(kinds, ["output", "output", "end"]);
    assert_eq!((&told[0]["seq"], &told[1]["seq"]), (&json!(1), &json!(2)));
    assert_eq!(told[1]["data_b64"], "/w==");
    assert_eq!(told[2]["state"], "failed");
}

#[tokio::test]
async fn a_follower_misses_nothing_and_sees_nothing_twice_through_kills() {
    let mut backend = Backend::start("").await;
    let count = "i=0; while [ ! -e stop ]; do i=$((i+1)); echo $i; done; echo end";
    let id = script(&backend, count).await;
    let (mut last, mut seen) = (0, Vec::new());
    for round in 0..4 {
        super::reaches(&backend, &id, "running").await;
        let target = format!("/v1/runs/{id}/logs");
        let mut watch = Watch::open(backend.address(), &target, Some(last)).await;
        let enough = seen.len() + 3;
        while seen.len() < enough {
            let told = watch.must_next().await;
            last = told.id.unwrap();
            seen.push(told);
        }
        if round < 3 {
            backend.kill_and_restart().await;
            // What was on its way when the backend died is not lost for who reads on.
            while let Some(told) = watch.next().await {
                last = told.id.unwrap();
                seen.push(told);
            }
        } else {
            std::fs::write(backend.workspace().join("stop"), "").unwrap();
            loop {
                let told = watch.must_next().await;
                if told.kind == "end" {
                    break;
                }
                seen.push(told);
            }
        }
    }
    let numbers: Vec<i64> = seen.iter().map(|told| told.id.unwrap()).collect();
    assert!(
        numbers
            .iter()
            .copied()
            .eq(1..=i64::try_from(seen.len()).unwrap()),
        "{numbers:?}"
    );
    let said: String = seen
        .iter()
        .map(|told| told.data["text"].as_str().unwrap())
        .collect();
    let store = rusqlite::Connection::open(backend.database()).unwrap();
    let mut rows = store
        .prepare("SELECT bytes FROM output WHERE run_id = ?1 ORDER BY seq")
        .unwrap();
    let stored = rows.query_map([&id], |row| row.get::<_, Vec<u8>>(0));
    let stored: Vec<u8> = stored
        .unwrap()
        .map(Result::unwrap)
        .collect::<Vec<_>>()
        .concat();
    assert_eq!(said.as_bytes(), stored);
    let lines: Vec<&str> = said.lines().collect();
    let (end, counted) = lines.split_last().unwrap();
    assert_eq!(*end, "end");
    assert!(
        counted
            .iter()
            .enumerate()
            .all(|(n, line)| *line == (n + 1).to_string())
    );
}

/// The largest resident size of a process so far, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_flood_is_kept_within_the_cap_and_holds_nobody_up() {
    let mut backend = Backend::start("[runs]\noutput_limit = \"1MiB\"\n").await;
    let before = peak(backend.program().pid());
    let id = script(&backend, "head -c 67108864 /dev/zero; echo done >&2").await;
    let other = script(&backend, "echo other").await;
    // Others are served while it floods.
    ended(&backend, &other).await;
    let run = ended(&backend, &id).await;
    assert_eq!(run["state"], "succeeded", "{run}");
    let dropped = (64_u64 << 20) + 5 - (1 << 20);
    assert_eq!(run["attempt_list"][0]["dropped_bytes"], dropped, "{run}");
    let grown = peak(backend.program().pid()) - before;
    assert!(grown < 64 << 20, "the backend has grown by {grown} bytes");
    let (mut kept, mut mark) = (0, String::new());
    for item in pages(&backend, &id).await.concat() {
        let text = item["text"].as_str().unwrap();
        if item["stream"] == "system" {
            mark.push_str(text);
        } else {
            kept += text.len();
        }
    }
    assert_eq!(kept, 1 << 20);
    assert_eq!(
        mark,
        "output cap reached: 1048576 bytes of this attempt are kept, what follows is dropped"
    );
}

#[tokio::test]
async fn the_cap_is_one_for_all_attempts_of_a_run() {
    let backend = Backend::start("[runs]\noutput_limit = \"1MiB\"\n").await;
    let flood = "head -c 700000 /dev/zero | tr '\\0' x; exit 1";
    let body = json!({ "command": ["sh", "-c", flood],
        "retries": 2 });
    let id = submit(&backend, &body).await;
    let run = ended(&backend, &id).await;
    assert_eq!(
        (&run["state"], &run["attempts"]),
        (&json!("failed"), &json!(3))
    );
    let dropped = run["attempt_list"].as_array().unwrap().iter();
    let dropped: Vec<_> = dropped
        .map(|a| a["dropped_bytes"].as_u64().unwrap())
        .collect();
    assert_eq!(dropped, [0, 1_400_000 - (1 << 20), 700_000], "{run}");
    let mut kept = 0;
    let mut marks = Vec::new();
    for item in pages(&backend, &id).await.concat() {
        let text = item["text"].as_str().unwrap().to_owned();
        if item["stream"] == "system" {
            marks.push(text);
        } else {
            kept += text.len();
        }
    }
    assert_eq!(kept, 1 << 20);
    let mark = |bytes: u32| {
        format!(
            "output cap reached: {bytes} bytes of this attempt are kept, what follows is dropped"
        )
    };
    assert_eq!(marks, [mark((1 << 20) - 700_000), mark(0)]);
}

#[tokio::test]
async fn beside_eight_floods_a_run_is_accepted_and_ends() {
    let backend =
        Backend::start("[runs]\nconcurrency = 9\noutput_limit = \"64KiB\"\ngrace = \"1s\"\n").await;
    let mut floods = Vec::new();
    for _ in 0..8 {
        floods.push(submit(&backend, &json!({ "command": ["yes"] })).await);
    }
    for flood in &floods {
        reaches(&backend, flood, "running").await;
    }
    for _ in 0..3 {
        let other = script(&backend, "echo small").await;
        assert_eq!(ended(&backend, &other).await["state"], "succeeded");
    }
    for flood in &floods {
        assert_eq!(cancel(&backend, flood).await.status, 202);
    }
    for flood in &floods {
        assert_eq!(ended(&backend, flood).await["state"], "canceled");
    }
}
