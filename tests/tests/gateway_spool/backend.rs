//! With the real backend behind it: killed for a while, the gateway killed twice, and floods all the time.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orket_tests::gateway::WEBHOOK_SECRET;
use orket_tests::gitea::sha256;
use orket_tests::wait::obtain;
use orket_tests::wire::Stream;
use orket_tests::{Address, Backend, DEADLINE, Delivery, Gateway, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{PATH, emptied, spool, spooling};

const REVIEW: &str =
    "[review]\nrepositories = [\"lab/example\"]\nbranches = [\"main\"]\npeople = [\"author\"]\n";

/// How many deliveries are sent. Of every fiftieth a run is to come.
const ALL: usize = 1000;
const EVERY: usize = 50;

/// How long the backend stays away beyond what the number of deliveries asks for: nothing, unless said.
fn absence() -> Duration {
    let seconds = std::env::var("ORKET_TEST_ABSENCE_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|s| s.parse().ok()).unwrap_or(0))
}

/// Connects to where the gateway listens now; while it is being started again nothing is sent.
async fn connected(listening: &watch::Receiver<Address>) -> (Box<dyn Stream>, Address) {
    obtain("the gateway accepts connections", DEADLINE, || async {
        let to = listening.borrow().clone();
        Some((to.connect().await.ok()?, to))
    })
    .await
}

/// The status of an answer, if one came. A forge does not try again, so neither does this.
async fn status_of(mut stream: Box<dyn Stream>, bytes: &[u8]) -> Option<u16> {
    stream.write_all(bytes).await.ok()?;
    let mut answer = Vec::new();
    while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1)?.parse().ok()
}

struct Sent {
    answered: Mutex<HashMap<usize, u16>>,
    unanswered: Mutex<HashSet<usize>>,
    settled: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_delivery_is_acted_on_once_whatever_is_killed() {
    let mut backend = Backend::start(REVIEW).await;
    for n in (0..ALL).step_by(EVERY) {
        let card = json!({ "id": format!("ISSUE-{n}"), "title": "work", "command": ["true"] });
        assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    }
    let deliveries: Arc<Vec<Delivery>> = Arc::new(
        (0..ALL)
            .map(|n| match n % EVERY {
                0 => Delivery::pull_request_opened("lab/example", &format!("ISSUE-{n}: change")),
                _ => Delivery::fresh(),
            })
            .collect(),
    );
    let mut gateway = Gateway::with_policy(backend.address(), &spooling()).await;
    let (address, listening) = watch::channel(gateway.address().clone());

    let sent = Arc::new(Sent {
        answered: Mutex::default(),
        unanswered: Mutex::default(),
        settled: AtomicUsize::new(0),
    });
    let mut senders = sending(&deliveries, &sent, &listening);
    let refused = Arc::new(AtomicUsize::new(0));
    let mut floods = flooding(&refused, &listening);
    // The number of deliveries decides when something is killed, not a clock.
    let after = async |count: usize| {
        let what = format!("{count} deliveries are settled");
        eventually(&what, DEADLINE * 4, || async {
            sent.settled.load(Ordering::SeqCst) >= count
        })
        .await;
    };
    after(200).await;
    backend.kill().await;
    after(350).await;
    gateway.restart().await;
    address.send_replace(gateway.address().clone());
    after(500).await;
    tokio::time::sleep(absence()).await;
    backend.restart().await;
    after(650).await;
    gateway.restart().await;
    address.send_replace(gateway.address().clone());
    while senders.join_next().await.is_some() {}
    emptied(&gateway).await;
    floods.shutdown().await;
    assert!(refused.load(Ordering::SeqCst) > 0, "the floods arrived");

    let list = spool(&gateway, &["list"]).await.unwrap();
    assert_eq!(
        (&list["dead_total"], &list["unreadable"]),
        (&json!(0), &json!(0))
    );
    acted_on_once(&backend, &deliveries, &sent);
}

/// Eight senders that go through all deliveries, once each.
fn sending(
    deliveries: &Arc<Vec<Delivery>>,
    sent: &Arc<Sent>,
    listening: &watch::Receiver<Address>,
) -> JoinSet<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..8 {
        let (deliveries, sent, next) = (deliveries.clone(), sent.clone(), next.clone());
        let listening = listening.clone();
        senders.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::SeqCst);
                let Some(delivery) = deliveries.get(n) else {
                    return;
                };
                let (stream, to) = connected(&listening).await;
                let bytes = delivery.signed(PATH, WEBHOOK_SECRET).bytes(&to);
                match status_of(stream, &bytes).await {
                    Some(status) => sent.answered.lock().unwrap().insert(n, status).is_none(),
                    None => sent.unanswered.lock().unwrap().insert(n),
                };
                sent.settled.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    senders
}

/// Two that send forgeries as fast as they are refused.
fn flooding(refused: &Arc<AtomicUsize>, listening: &watch::Receiver<Address>) -> JoinSet<()> {
    let mut floods = JoinSet::new();
    for _ in 0..2 {
        let (listening, refused) = (listening.clone(), refused.clone());
        floods.spawn(async move {
            loop {
                let (stream, to) = connected(&listening).await;
                let bytes = Delivery::fresh().forged(PATH).bytes(&to);
                match status_of(stream, &bytes).await {
                    Some(401 | 429) => {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    Some(other) => panic!("a forgery was answered {other}"),
                    None => tokio::task::yield_now().await,
                }
            }
        });
    }
    floods
}

/// Every answered delivery has acted once, every other one at most once, and nothing else has.
fn acted_on_once(backend: &Backend, deliveries: &[Delivery], sent: &Sent) {
    let answered = sent.answered.lock().unwrap().clone();
    let unanswered = sent.unanswered.lock().unwrap().clone();
    assert_eq!(answered.len() + unanswered.len(), ALL);
    // What is on its way at a kill is cut off; nearly all the others have to have been answered.
    assert!(
        unanswered.len() < ALL / 10,
        "{} without an answer",
        unanswered.len()
    );
    let mut by_status: HashMap<u16, usize> = HashMap::new();
    for status in answered.values() {
        *by_status.entry(*status).or_default() += 1;
    }
    eprintln!(
        "answers by status: {by_status:?}; without an answer: {}",
        unanswered.len()
    );
    assert!(
        by_status.keys().all(|s| matches!(s, 200 | 202)),
        "{by_status:?}"
    );

    let store = rusqlite::Connection::open(backend.database()).unwrap();
    let counts = |query: &str| -> HashMap<String, u32> {
        let mut statement = store.prepare(query).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap().map(Result::unwrap).collect()
    };
    let acted = counts("SELECT key, COUNT(*) FROM deliveries GROUP BY key");
    let runs =
        counts("SELECT card_id, COUNT(*) FROM runs WHERE card_id IS NOT NULL GROUP BY card_id");
    let mut known = HashSet::new();
    for (n, delivery) in deliveries.iter().enumerate() {
        let key = sha256(&delivery.body);
        let times = acted.get(&key).copied().unwrap_or(0);
        let caused = runs.get(&format!("ISSUE-{n}")).copied().unwrap_or(0);
        let expected = u32::from(n % EVERY == 0);
        if answered.contains_key(&n) {
            assert_eq!(
                (times, caused),
                (1, expected),
                "delivery {n} was answered {}",
                answered[&n]
            );
        } else {
            assert!(
                times <= 1 && caused == times * expected,
                "delivery {n}: {times}, {caused}"
            );
        }
        known.insert(key);
    }
    assert!(
        acted.keys().all(|key| known.contains(key)),
        "nothing else got in"
    );
}
