//! A flood without signatures costs a sender with one nothing in the end.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::refusal::{judge, retry_after};
use orket_tests::{
    Cases, Connection, DEADLINE, Delivery, Gateway, Policy, Request, Upstream, eventually,
};
use tokio::task::JoinSet;

const PATH: &str = "/webhook/gitea";
const FLOODER: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Clients of [`FLOODER`] that send forged deliveries until the value is dropped.
struct Flood {
    clients: JoinSet<()>,
    answered: Arc<AtomicUsize>,
    refused_at_once: Arc<AtomicUsize>,
    going: Arc<AtomicBool>,
}

impl Flood {
    async fn against(gateway: &Arc<Gateway>) -> Self {
        let mut flood = Self {
            clients: JoinSet::new(),
            answered: Arc::default(),
            refused_at_once: Arc::default(),
            going: Arc::new(AtomicBool::new(true)),
        };
        for _ in 0..8 {
            let gateway = Arc::clone(gateway);
            let (answered, refused) = (
                Arc::clone(&flood.answered),
                Arc::clone(&flood.refused_at_once),
            );
            let going = Arc::clone(&flood.going);
            flood.clients.spawn(async move {
                while going.load(Ordering::SeqCst) {
                    let forged = Delivery::new("push", vec![b'x'; 20_000]).forged(PATH);
                    let status = forged.send_from(FLOODER, gateway.address()).await.status;
                    assert!(matches!(status, 401 | 429), "{status}");
                    answered.fetch_add(1, Ordering::SeqCst);
                    if status == 429 {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        eventually("the flood is over its failure budget", DEADLINE, || async {
            flood.refused_at_once.load(Ordering::SeqCst) > 20
        })
        .await;
        flood
    }

    async fn end(mut self) -> usize {
        self.going.store(false, Ordering::SeqCst);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        self.answered.load(Ordering::SeqCst)
    }
}

fn env() -> [(&'static str, &'static str); 4] {
    [
        ("ORKET_API_KEY", API_KEY),
        ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("ORKET_FAILURE_LIMIT", "5"),
        ("ORKET_RATE_LIMIT", "1000"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_sender_at_another_address_notices_nothing() {
    let upstream = Upstream::tcp().await;
    let gateway = Arc::new(Gateway::builtin(upstream.address(), &env()).await);
    let flood = Flood::against(&gateway).await;
    for _ in 0..30 {
        let signed = Delivery::fresh().signed(PATH, WEBHOOK_SECRET);
        let answer = signed.send_from(OTHER, gateway.address()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    flood.end().await;
    assert_eq!(upstream.count(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_sender_at_the_same_address_gets_everything_through() {
    let upstream = Upstream::tcp().await;
    let gateway = Arc::new(Gateway::builtin(upstream.address(), &env()).await);
    let flood = Flood::against(&gateway).await;
    for _ in 0..4 {
        let signed = Delivery::fresh().signed(PATH, WEBHOOK_SECRET);
        eventually(
            "a signed delivery gets through the flood",
            DEADLINE,
            || async {
                let answer = signed.send_from(FLOODER, gateway.address()).await;
                if answer.status == 429 {
                    judge(&answer, 429, "Rate limit exceeded").unwrap();
                    retry_after(&answer);
                }
                answer.status == 200
            },
        )
        .await;
    }
    // Over the failure budget, API requests with the key pass at the first attempt.
    let answer = Request::get("/v1/a")
        .key(API_KEY)
        .send_from(FLOODER, gateway.address())
        .await;
    assert_eq!(answer.status, 200);
    flood.end().await;
    assert_eq!(upstream.count(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_sender_at_an_exempt_address_is_never_slowed_down() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .limits("failures_per_address = \"5/min\"")
        .gitea("addresses = { exempt = [\"127.0.0.1\"] }");
    let gateway = Arc::new(Gateway::with_policy(upstream.address(), &policy).await);
    // Forged ones from an exempt address are each judged: none is turned away unread.
    let mut cases = Cases::new();
    for _ in 0..40 {
        let answer = Delivery::fresh().forged(PATH).send(gateway.address()).await;
        cases.note(
            "a forged delivery",
            judge(&answer, 401, "Invalid signature"),
        );
        let answer = Delivery::fresh()
            .signed(PATH, WEBHOOK_SECRET)
            .send(gateway.address())
            .await;
        cases.holds("a signed delivery", answer.status == 200, || answer.text());
    }
    cases.finish();
    assert_eq!(upstream.count(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_flood_a_signed_delivery_passes_at_once() {
    let upstream = Upstream::tcp().await;
    let gateway = Arc::new(Gateway::builtin(upstream.address(), &env()).await);
    let flood = Flood::against(&gateway).await;
    assert!(flood.end().await > 20);
    // The failure budget is still used up, and it is the allowance, never zero, that admits it.
    eventually("a signed delivery passes", DEADLINE, || async {
        let signed = Delivery::fresh().signed(PATH, WEBHOOK_SECRET);
        signed.send_from(FLOODER, gateway.address()).await.status == 200
    })
    .await;
}

/// Holds a forged delivery's body open, a byte at a time, and begins anew when it is ended.
async fn drip(gateway: Arc<Gateway>, begun: Arc<AtomicUsize>) {
    let forged = Delivery::new("push", vec![b'x'; 50_000]).forged(PATH);
    loop {
        let mut connection = Connection::open_from(FLOODER, gateway.address()).await;
        connection.send(&forged.head(gateway.address())).await;
        begun.fetch_add(1, Ordering::SeqCst);
        let pause = std::time::Duration::from_millis(100);
        while connection.answer_within(pause).await.is_none() {
            connection.send(b"x").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bodies_that_never_end_does_not_shut_out_a_signed_sender() {
    let upstream = Upstream::tcp().await;
    // Longer than this test waits for anything: what helps must be something else than the end of it.
    let policy = Policy::new()
        .limits("failures_per_address = \"5/min\"")
        .limits("body_timeout = \"10m\"");
    let gateway = Arc::new(Gateway::with_policy(upstream.address(), &policy).await);
    eventually("the failure budget is used up", DEADLINE, || async {
        Delivery::fresh()
            .forged(PATH)
            .send_from(FLOODER, gateway.address())
            .await;
        let api = Request::get("/v1/a")
            .send_from(FLOODER, gateway.address())
            .await;
        api.status == 429
    })
    .await;
    let begun = Arc::new(AtomicUsize::new(0));
    let mut slow = JoinSet::new();
    let failing = Arc::clone(&gateway);
    slow.spawn(async move {
        // Whatever the budget regains is used up at once.
        loop {
            Request::get("/v1/a")
                .send_from(FLOODER, failing.address())
                .await;
        }
    });
    for _ in 0..16 {
        slow.spawn(drip(Arc::clone(&gateway), Arc::clone(&begun)));
    }
    eventually("the slow bodies have begun", DEADLINE, || async {
        begun.load(Ordering::SeqCst) >= 16
    })
    .await;
    for _ in 0..3 {
        let signed = Delivery::fresh().signed(PATH, WEBHOOK_SECRET);
        eventually(
            "a signed delivery gets past the slow bodies",
            DEADLINE,
            || async { signed.send_from(FLOODER, gateway.address()).await.status == 200 },
        )
        .await;
    }
    slow.shutdown().await;
}
