//! Bodies of webhooks in memory: bounded in all, for one address and for one source, until nobody needs them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use orket_tests::gateway::{self, WEBHOOK_SECRET};
use orket_tests::policy::SECRET_FILE;
use orket_tests::{
    Answer, Connection, DEADLINE, Delivery, Gateway, Policy, Reaction, Request, Upstream,
    assert_refused, eventually,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

const MEGABYTE: usize = 1_000_000;
const FORGE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const THIRD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// The sources `gitea` and `other`, each on a path of its own.
fn policy(memory: &str) -> Policy {
    Policy::new()
        .limits(&format!("webhook_memory = \"{memory}\""))
        .rest(
            r#"[[routes]]
id = "other"
path = "/webhook/other"
methods = ["POST"]
auth = { kind = "webhook", provider = "gitea", secret = "gitea" }
upstream = "backend"
"#,
        )
}

/// A signed delivery of a million bytes.
fn large(source: &str) -> Request {
    let mut body = vec![b'x'; MEGABYTE];
    body[..16].copy_from_slice(format!("{:016x}", rand::random::<u64>()).as_bytes());
    Delivery::new("push", body).signed(&format!("/webhook/{source}"), WEBHOOK_SECRET)
}

struct Sending<'a> {
    gateway: &'a Arc<Gateway>,
    upstream: &'a Upstream,
    held: JoinSet<Answer>,
}

impl Sending<'_> {
    /// Sends one and waits until the upstream has it, which does not answer.
    async fn hold(&mut self, from: Ipv4Addr, source: &str) {
        let (gateway, request) = (Arc::clone(self.gateway), large(source));
        let before = self.upstream.count();
        self.held
            .spawn(async move { request.send_from(from, gateway.address()).await });
        self.upstream.arrived(before + 1).await;
    }

    /// One that finds no room.
    async fn refused(&self, from: Ipv4Addr, source: &str, status: u16, reason: &str) {
        let answer = large(source).send_from(from, self.gateway.address()).await;
        let detail = match status {
            429 => "Rate limit exceeded",
            _ => "Try again later",
        };
        assert_refused(&answer, status, detail);
        assert!(answer.header("retry-after").is_some());
        // No budget is used up, so no figures of one are told.
        assert_eq!(answer.header("ratelimit"), None);
        assert_eq!(answer.header("ratelimit-policy"), None);
        let id = answer.header("x-request-id").unwrap();
        eventually("the true reason is logged", DEADLINE, || async {
            let output = self.gateway.output();
            let record = output.lines().find(|line| line.contains(id));
            record.is_some_and(|line| line.contains(reason))
        })
        .await;
    }

    /// Lets the upstream answer: all that were held are answered, and nothing is held any more.
    async fn release(self) {
        self.upstream.react(Reaction::ok());
        for answer in self.held.join_all().await {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        eventually("nothing is held", DEADLINE, || async {
            bytes(self.gateway, "proven_bytes").await == 0
                && bytes(self.gateway, "unproven_bytes").await == 0
        })
        .await;
    }
}

async fn bytes(gateway: &Gateway, name: &str) -> usize {
    let page = Request::get("/metrics").send(gateway.admin()).await.text();
    let name = format!("orket_gateway_{name} ");
    let line = page.lines().find(|line| line.starts_with(&name));
    line.unwrap_or_else(|| panic!("{name}"))[name.len()..]
        .parse()
        .unwrap()
}

fn sending<'a>(gateway: &'a Arc<Gateway>, upstream: &'a Upstream) -> Sending<'a> {
    upstream.react(Reaction::Hold);
    Sending {
        gateway,
        upstream,
        held: JoinSet::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proven_counts_until_the_upstream_has_answered() {
    let upstream = Upstream::tcp().await;
    let gateway = Arc::new(Gateway::with_policy(upstream.address(), &policy("4MiB")).await);
    assert_eq!(bytes(&gateway, "webhook_memory_bytes").await, 4 << 20);
    let mut sending = sending(&gateway, &upstream);
    sending.hold(FORGE, "gitea").await;
    sending.hold(FORGE, "gitea").await;
    assert_eq!(bytes(&gateway, "proven_bytes").await, 2 * MEGABYTE);
    assert_eq!(bytes(&gateway, "unproven_bytes").await, 0);
    // Its share is a half: neither the address with another source, nor the source from another address, has more.
    let share = "webhook_share_exceeded";
    sending.refused(FORGE, "gitea", 429, share).await;
    sending.refused(FORGE, "other", 429, share).await;
    sending.refused(OTHER, "gitea", 429, share).await;
    // Others have the other half; then there is nothing left for anybody.
    sending.hold(OTHER, "other").await;
    sending.hold(OTHER, "other").await;
    sending
        .refused(THIRD, "gitea", 503, "webhook_memory_full")
        .await;
    assert_eq!(bytes(&gateway, "proven_bytes").await, 4 * MEGABYTE);
    assert_eq!(bytes(&gateway, "unproven_bytes").await, 0);
    sending.release().await;
    let answer = large("gitea").send(gateway.address()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forge_is_not_shut_out_by_what_its_slow_upstream_holds() {
    let upstream = Upstream::tcp().await;
    // Of eight, an address may hold two unproven.
    let gateway = Arc::new(Gateway::with_policy(upstream.address(), &policy("8MiB")).await);
    let mut sending = sending(&gateway, &upstream);
    for _ in 0..4 {
        sending.hold(FORGE, "gitea").await;
    }
    sending.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_never_proven_is_bounded_and_leaves_the_proven_their_room() {
    let upstream = Upstream::tcp().await;
    let gateway = Arc::new(Gateway::with_policy(upstream.address(), &policy("4MiB")).await);
    // A body that never ends: an address may hold a quarter of the memory so.
    let request = large("gitea");
    let mut slow = Connection::open_from(FORGE, gateway.address()).await;
    let whole = request.bytes(gateway.address());
    slow.send(&whole[..whole.len() - 1]).await;
    eventually("it is held", DEADLINE, || async {
        bytes(&gateway, "unproven_bytes").await > 900_000
    })
    .await;
    let sending = sending(&gateway, &upstream);
    let share = "webhook_share_exceeded";
    sending.refused(FORGE, "gitea", 429, share).await;
    upstream.react(Reaction::ok());
    let answer = large("gitea").send_from(OTHER, gateway.address()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Once it is whole it is taken.
    slow.send(&whole[whole.len() - 1..]).await;
    assert_eq!(slow.answer().await.status, 200);
    sending.release().await;
}

#[tokio::test]
async fn the_memory_holds_the_largest_body_a_route_takes() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(SECRET_FILE.0), SECRET_FILE.1).unwrap();
    for (memory, limit, fine) in [
        ("4MiB", "1MiB", true),
        ("4MiB", "1025KiB", false),
        ("256MiB", "64MiB", true),
    ] {
        let policy = policy(memory).gitea(&format!("body_limit = \"{limit}\""));
        let ended = gateway::check(dir.path(), &policy.to_string()).await;
        assert_eq!(ended.status.success(), fine, "{}", ended.output());
        if !fine {
            let told = "bodies of the route `gitea` can be larger than an address's share";
            assert!(ended.output().contains(told), "{}", ended.output());
            assert!(ended.output().contains("4100KiB"), "{}", ended.output());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_without_a_secret_do_not_shut_out_who_has_one() {
    let upstream = Upstream::tcp().await;
    let policy = policy("4MiB")
        .limits("body_timeout = \"10m\"")
        .gitea("addresses = { exempt = [\"127.0.0.9\"] }");
    let gateway = Arc::new(Gateway::with_policy(upstream.address(), &policy).await);
    // Two addresses hold the half that is open to them, but for a few hundred bytes, in bodies that lack their last byte.
    let mut slow = Vec::new();
    for (count, size) in [(5, 200_000), (4, 12_000)] {
        for n in 2..=3 {
            for _ in 0..count {
                let request = Delivery::new("push", vec![b'x'; size]).forged("/webhook/gitea");
                let whole = request.bytes(gateway.address());
                let from = Ipv4Addr::new(127, 0, 0, n);
                let mut connection = Connection::open_from(from, gateway.address()).await;
                connection.send(&whole[..whole.len() - 1]).await;
                slow.push(connection);
            }
        }
    }
    let held = 10 * 199_999 + 8 * 11_999;
    eventually("a half is held", DEADLINE, || async {
        bytes(&gateway, "unproven_bytes").await == held
    })
    .await;
    // Nothing more of what is large; what is small finds room.
    let answer = large("gitea").send_from(FORGE, gateway.address()).await;
    assert_refused(&answer, 503, "Try again later");
    let exempt = Ipv4Addr::new(127, 0, 0, 9);
    for from in [FORGE, exempt] {
        let small = Delivery::new("push", vec![b'x'; 20_000]);
        let answer = small
            .signed("/webhook/gitea", WEBHOOK_SECRET)
            .send_from(from, gateway.address())
            .await;
        assert_eq!(answer.status, 200, "{from}: {}", answer.text());
    }
    // An exempt address has room for a large one, too.
    let answer = large("gitea").send_from(exempt, gateway.address()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("only those are held", DEADLINE, || async {
        bytes(&gateway, "unproven_bytes").await == held
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_whole_is_a_failed_proof() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("failures_per_address = \"2/h\"\nbody_timeout = \"300ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let request = Delivery::fresh().forged("/webhook/gitea");
    let whole = request.bytes(gateway.address());
    for _ in 0..2 {
        let mut slow = Connection::open(gateway.address()).await;
        slow.send(&whole[..whole.len() - 1]).await;
        assert_refused(&slow.answer().await, 408, "Request timeout");
    }
    let without_key = Request::get("/v1/a").send(gateway.address()).await;
    assert_refused(&without_key, 429, "Rate limit exceeded");
}
