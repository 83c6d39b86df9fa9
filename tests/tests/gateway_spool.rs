//! Exactly once: what the gateway remembers of deliveries, and what it keeps while the inside is away.

mod arrival;
mod backend;
mod bounds;
mod damage;
mod disk;
mod first_try;
mod handed_over;
mod memory;
mod operator;
mod operator_races;
mod ownership;
mod remembered;
mod share;

use std::path::Path;

use orket_tests::gateway::{self, WEBHOOK_SECRET};
use orket_tests::wait::obtain;
use orket_tests::wire::Answer;
use orket_tests::{Address, DEADLINE, Delivery, Gateway, Policy, Upstream, eventually};
use serde_json::Value;

const PATH: &str = "/webhook/gitea";

/// The usual policy, with a spool for `/webhook/gitea`.
fn spooling() -> Policy {
    Policy::new().gitea("spool = true")
}

/// Sends a signed delivery.
async fn deliver(gateway: &Gateway, delivery: &Delivery) -> Answer {
    delivery
        .signed(PATH, WEBHOOK_SECRET)
        .send(gateway.address())
        .await
}

/// The id a delivery was kept under.
fn spooled(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{}", answer.text());
    let json = answer.json();
    assert_eq!(json["status"], "spooled");
    json["id"].as_str().expect("an id").to_owned()
}

/// Waits until the log has told of something so often.
async fn logged(gateway: &Gateway, event: &str, times: usize) {
    let what = format!("{event} stands {times} times in the log");
    eventually(&what, DEADLINE, || async {
        gateway.output().matches(event).count() >= times
    })
    .await;
}

/// Runs `orket-gateway spool …` against this gateway and reads its JSON.
async fn spool(gateway: &Gateway, arguments: &[&str]) -> Result<Value, String> {
    let socket = gateway.dir().join("state/gateway.sock");
    let mut all = vec!["spool"];
    all.extend_from_slice(arguments);
    all.extend_from_slice(&["--format", "json", "--control", socket.to_str().unwrap()]);
    let ended = gateway::run(gateway.dir(), &all, &[]).await;
    if ended.status.success() {
        Ok(serde_json::from_str(&ended.stdout).expect("JSON"))
    } else {
        Err(ended.output())
    }
}

/// The ids of what waits, in their order.
async fn waiting(gateway: &Gateway) -> Vec<String> {
    let list = spool(gateway, &["list"]).await.unwrap();
    list["waiting"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Waits until nothing waits, as long as fewer and fewer do: how many there are and how busy the machine is make no difference.
async fn emptied(gateway: &Gateway) {
    let dir = gateway.dir().join("state/spool/waiting");
    let mut left = files(&dir).len();
    while left > 0 {
        let before = left;
        left = obtain("the spool gets emptier", DEADLINE, || async {
            Some(files(&dir).len()).filter(|now| *now < before)
        })
        .await;
    }
}

/// The names of the files in a directory.
fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| {
            entries
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

/// An address where nothing listens, and where an upstream may later.
fn nowhere(dir: &Path) -> Address {
    Address::Unix(dir.join("upstream.sock"))
}

/// The keys of what reached the upstream, in their order.
fn keys(upstream: &Upstream) -> Vec<String> {
    upstream
        .requests()
        .iter()
        .map(|request| {
            request
                .header("x-orket-webhook-key")
                .expect("a key")
                .to_owned()
        })
        .collect()
}

/// The value of a metric's one line that has this label.
async fn metric(gateway: &Gateway, name: &str, label: &str) -> Option<f64> {
    let page = orket_tests::Request::get("/metrics")
        .send(gateway.admin())
        .await
        .text();
    page.lines()
        .find(|line| line.starts_with(name) && line.contains(label))
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
}

/// Waits until the list has such an entry as its first that waits.
async fn first_waits_because(gateway: &Gateway, why: &str) -> Value {
    obtain(
        &format!("the first waits because {why}"),
        DEADLINE,
        || async {
            let list = spool(gateway, &["list"]).await.ok()?;
            let first = list["waiting"].get(0)?.clone();
            (first["why"] == why).then_some(first)
        },
    )
    .await
}
