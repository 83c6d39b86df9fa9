//! How much memory the spool takes, and what becomes of it when the machine has too little of something.

use orket_tests::gateway::WEBHOOK_SECRET;
use orket_tests::{DEADLINE, Delivery, Gateway, Reaction, Upstream, eventually};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;

use super::{deliver, emptied, files, logged, metric, nowhere, spool, spooled, spooling, waiting};

/// The most memory a process has had, in bytes.
fn peak(gateway: &Gateway) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[tokio::test]
async fn a_start_does_not_hold_what_waits() {
    const BODY: usize = 4_000_000;
    let dir = TempDir::new().unwrap();
    let policy = spooling().gitea("body_limit = \"16MiB\"");
    let mut gateway = Gateway::with_policy(&nowhere(dir.path()), &policy).await;
    let fresh = peak(&gateway);
    for n in 0..10 {
        let mut body = vec![b'x'; BODY];
        body[0] = b'0' + n;
        spooled(&deliver(&gateway, &Delivery::new("push", body)).await);
    }
    gateway.restart().await;
    assert_eq!(waiting(&gateway).await.len(), 10);
    // The first of them may be in hand.
    let more = peak(&gateway).saturating_sub(fresh);
    assert!(more < 4 * BODY, "{} MiB", more >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_over_at_once_is_bounded() {
    const BODY: u32 = 900_000;
    let dir = TempDir::new().unwrap();
    let mut policy = spooling().limits("webhook_memory = \"4MiB\"");
    let sources = ["a", "b", "c", "d", "e"];
    for source in sources {
        policy = policy.rest(&format!(
            r#"[[routes]]
id = "{source}"
path = "/webhook/{source}"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
spool = true
upstream = "backend"
"#
        ));
    }
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &policy).await;
    for source in sources {
        let delivery = Delivery::new("push", vec![source.as_bytes()[0]; BODY as usize]);
        let request = delivery.signed(&format!("/webhook/{source}"), WEBHOOK_SECRET);
        spooled(&request.send(gateway.address()).await);
    }
    let upstream = Upstream::unix(dir.path());
    upstream.react(Reaction::Hold);
    let on_their_way = async || {
        let list = spool(&gateway, &["list"]).await.unwrap();
        let lines = list["waiting"].as_array().unwrap().clone();
        lines.iter().filter(|l| l["why"] == "on_its_way").count()
    };
    eventually("two are on their way", DEADLINE, || async {
        on_their_way().await == 2 && upstream.count() == 2
    })
    .await;
    let held = metric(&gateway, "orket_gateway_spool_in_hand_bytes", "")
        .await
        .unwrap();
    assert!(
        held > 2.0 * f64::from(BODY) && held <= f64::from(2 << 20),
        "{held}"
    );
    // The others have had their pauses by now and wait for room, not for a time.
    eventually("all the others are due", DEADLINE, || async {
        let list = spool(&gateway, &["list"]).await.unwrap();
        let now = jiff::Timestamp::now();
        list["waiting"].as_array().unwrap().iter().all(|line| {
            line["next_attempt"]
                .as_str()
                .is_none_or(|at| at.parse::<jiff::Timestamp>().unwrap() < now)
        })
    })
    .await;
    assert_eq!(on_their_way().await, 2);
    upstream.react(Reaction::ok());
    emptied(&gateway).await;
    assert_eq!(upstream.count(), sources.len());
    eventually("nothing is in hand", DEADLINE, || async {
        metric(&gateway, "orket_gateway_spool_in_hand_bytes", "").await == Some(0.0)
    })
    .await;
}

/// How many files the gateway may have open from now on, and before.
fn allow_files(gateway: &Gateway, current: Option<u64>) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files"));
    let mut numbers = line.unwrap().split_whitespace().skip(3);
    let mut number = || numbers.next().unwrap().parse().ok();
    let (before, maximum) = (number(), number());
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap();
    before
}

#[tokio::test]
async fn what_cannot_be_read_for_a_while_is_not_set_aside() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let delivery = Delivery::fresh();
    let id = spooled(&deliver(&gateway, &delivery).await);
    // Fewer than it has open: no file can be opened.
    let before = allow_files(&gateway, Some(5));
    logged(&gateway, "spool_not_read", 2).await;
    assert!(files(&gateway.dir().join("state/spool/unreadable")).is_empty());
    allow_files(&gateway, before);
    assert_eq!(waiting(&gateway).await, [id]);
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    assert_eq!(upstream.only().body, delivery.body);
    assert!(!gateway.output().contains("spool_unreadable"));
}
