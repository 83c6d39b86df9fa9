//! What an operator does is written down whatever else there is to write, and whoever has stopped reading.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use orket_tests::gateway::API_KEY;
use orket_tests::refusal::assert_request_id;
use orket_tests::{
    Address, Connection, DEADLINE, Gateway, Policy, Reaction, Request, Upstream, eventually,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use super::{record_in, records};

/// More than the queue of records holds, and the pipe beside it.
const FLOOD: usize = 36_000;

/// A pipe that nobody reads yet, held open so that it can be written to.
fn pipe(dir: &Path) -> (PathBuf, File) {
    let path = dir.join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let reader = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(&path)
        .unwrap();
    (path, reader)
}

/// Sends requests that all have a record, and sees each answered.
async fn flood(gateway: &Gateway) {
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let address = gateway.address().clone();
        clients.spawn(async move {
            let ask = Request::get("/v1/a").key(API_KEY).bytes(&address);
            let mut connection = Connection::open(&address).await;
            for _ in 0..FLOOD / 12 {
                connection.send(&ask).await;
                assert_eq!(connection.answer().await.status, 200);
            }
        });
    }
    clients.join_all().await;
}

async fn reload(gateway: &Gateway) {
    let socket = Address::Unix(gateway.dir().join("state/gateway.sock"));
    let verdict = Request::post("/reload", "").send(&socket).await.json();
    assert_eq!(verdict["in_force"], true, "{verdict}");
}

async fn dropped(gateway: &Gateway) -> u64 {
    let page = Request::get("/metrics").send(gateway.admin()).await.text();
    let counted = page
        .lines()
        .find_map(|l| l.strip_prefix("orket_gateway_log_records_dropped_total "));
    counted.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_is_written_while_nobody_reads_the_access_log_and_requests_are_answered() {
    let upstream = Upstream::tcp().await;
    let builder = Gateway::before(upstream.address()).standard(&Policy::new());
    let (pipe, _held) = pipe(builder.dir());
    let audit = builder.dir().join("audit");
    let gateway = builder
        .env("ORKET_LOG_ACCESS", pipe.to_str().unwrap())
        .env("ORKET_LOG_AUDIT", audit.to_str().unwrap())
        .start()
        .await;
    flood(&gateway).await;
    assert!(dropped(&gateway).await > 0, "the queue is full");
    reload(&gateway).await;
    record_in(&audit, |r| r["event"] == "reloaded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_comes_through_a_full_queue_as_soon_as_its_log_is_read_again() {
    let upstream = Upstream::tcp().await;
    let builder = Gateway::before(upstream.address()).standard(&Policy::new());
    let (pipe, reader) = pipe(builder.dir());
    let gateway = builder
        .env("ORKET_LOG_ACCESS", pipe.to_str().unwrap())
        .env("ORKET_LOG_AUDIT", pipe.to_str().unwrap())
        .start()
        .await;
    flood(&gateway).await;
    assert!(dropped(&gateway).await > 0, "the queue is full");
    reload(&gateway).await;
    let read = Arc::new(Mutex::new(String::new()));
    eventually("the act comes", DEADLINE, || async {
        let mut buffer = vec![0; 64 * 1024];
        let mut read = read.lock().unwrap();
        while let Ok(count @ 1..) = reader.try_clone().and_then(|mut r| r.read(&mut buffer)) {
            read.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        read.contains("\"reloaded\"")
    })
    .await;
    // Two threads write to it, and every line is whole.
    let read = read.lock().unwrap();
    let events = records(&read);
    assert!(events.iter().any(|r| r["event"] == "request"));
}

#[tokio::test]
async fn whoever_deals_out_connections_is_told_from_the_moment_it_stops() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Hold);
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let ready = || async {
        let answer = Request::get("/ready").send(gateway.admin()).await;
        assert_request_id(&answer);
        (answer.status, answer.json()["status"].clone())
    };
    assert_eq!(ready().await, (200, "ready".into()));
    let mut under_way = Connection::open(gateway.address()).await;
    let ask = Request::get("/v1/a").key(API_KEY);
    under_way.send(&ask.bytes(gateway.address())).await;
    upstream.arrived(1).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(gateway.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    eventually("it is said", DEADLINE, || async {
        ready().await == (503, "stopping".into())
    })
    .await;
    let page = Request::get("/metrics").send(gateway.admin()).await;
    assert_eq!(page.status, 200, "it is watched to its end");
    upstream.react(Reaction::ok());
    assert_eq!(under_way.answer().await.status, 200);
    assert!(gateway.program().wait().await.success());
}

#[tokio::test]
async fn every_answer_of_the_control_socket_has_an_id() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let socket = Address::Unix(gateway.dir().join("state/gateway.sock"));
    let mut seen = std::collections::BTreeSet::new();
    for (request, status) in [
        (Request::get("/status"), 200),
        (Request::post("/reload", ""), 200),
        (Request::get("/keys"), 200),
        (Request::get("/spool"), 200),
        (Request::post("/keys/revoke", "{}"), 400),
        (Request::get("/reload"), 405),
        (Request::get("/nothing"), 404),
        (Request::post("/explain", "{"), 400),
        (Request::post("/explain", vec![b' '; 5 * 1024 * 1024]), 413),
    ] {
        let answer = request.send(&socket).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        let id = assert_request_id(&answer);
        if status >= 400 {
            assert_eq!(answer.json()["request_id"], id.as_str());
        }
        assert!(seen.insert(id));
    }
}
