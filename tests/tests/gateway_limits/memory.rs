//! A million clients take no more memory than is said: what is kept for each is bounded, whoever asks.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use orket_gateway::budget::{ALL_LIMITERS_CAPACITY, LIMITER_CAPACITY, Owner};
use orket_gateway::limit::{Limiter, Rate};
use orket_tests::{Connection, Gateway, Policy, Request, Upstream};

/// What docs/reference/policy.md says of all tables together.
const BOUND: usize = 64 << 20;

/// The bytes of a process that are in memory.
fn resident(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[test]
fn a_million_owners_of_each_table_stay_within_the_bound() {
    let count = NonZeroU32::new(5).unwrap();
    let rate = Rate {
        count,
        period: Duration::from_secs(3600),
        burst: count,
    };
    let before = resident(std::process::id());
    // As many as there are of their own, and two of a policy.
    let limiters: Vec<Limiter<Owner>> = (0..4)
        .map(|n| Limiter::new(format!("l{n}"), rate, LIMITER_CAPACITY).unwrap())
        .collect();
    for n in 0..1_000_000u32 {
        let owner = Owner::Address(IpAddr::V4(Ipv4Addr::from_bits(n)));
        for limiter in &limiters {
            let _ = limiter.spend(&owner);
        }
    }
    let grown = resident(std::process::id()).saturating_sub(before);
    for limiter in &limiters {
        assert!(limiter.len() <= LIMITER_CAPACITY, "{}", limiter.len());
    }
    assert!(grown < BOUND, "{} MiB", grown >> 20);
}

/// Addresses that come, recover and go: a table is as large after millions of them as it was when it was full.
#[test]
fn addresses_that_come_and_go_stay_within_the_bound() {
    const LIMITERS: usize = 8;
    // One in a fifth of a second: who came a moment ago has recovered in part when the table is full.
    let rate = Rate {
        count: NonZeroU32::new(5).unwrap(),
        period: Duration::from_secs(1),
        burst: NonZeroU32::MIN,
    };
    let before = resident(std::process::id());
    let limiters: Vec<Limiter<Owner>> = (0..LIMITERS)
        .map(|n| Limiter::new(format!("l{n}"), rate, ALL_LIMITERS_CAPACITY / LIMITERS).unwrap())
        .collect();
    for limiter in &limiters {
        for n in 0..500_000u32 {
            let owner = Owner::Address(IpAddr::V4(Ipv4Addr::from_bits(n)));
            let _ = limiter.spend(&owner);
        }
    }
    let grown = resident(std::process::id()).saturating_sub(before);
    for limiter in &limiters {
        assert!(limiter.len() <= limiter.capacity());
    }
    assert!(grown < BOUND, "{} MiB", grown >> 20);
}

/// Sends one request without a key for each client address that a trusted proxy names, over kept connections. How far the
/// gateway grew, and how many addresses it remembers.
async fn flood(addresses: u32) -> (usize, Option<u32>) {
    const CLIENTS: u32 = 4;
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .limits("failures_per_address = \"1/h\"")
        .rest("[client_address]\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let mut gateway = Gateway::before(upstream.address())
        .standard(&policy)
        .env("ORKET_LOG_ACCESS", "off")
        .start()
        .await;
    let address = gateway.address().clone();
    let before = resident(gateway.program().pid());
    let mut clients = tokio::task::JoinSet::new();
    for part in 0..CLIENTS {
        let address = address.clone();
        clients.spawn(async move {
            let mut connection = Connection::open(&address).await;
            for n in (0..addresses).filter(|n| n % CLIENTS == part) {
                let client = Ipv4Addr::from_bits((11 << 24) + n).to_string();
                let request = Request::get("/v1/a").header("X-Forwarded-For", &client);
                connection.send(&request.bytes(&address)).await;
                let status = connection.answer().await.status;
                // Beyond the table's room newcomers share one budget.
                assert!(matches!(status, 403 | 429), "{status}");
            }
        });
    }
    clients.join_all().await;
    let page = Request::get("/metrics").send(gateway.admin()).await.text();
    let entries = page
        .lines()
        .find(|l| l.contains("limiter_entries{") && l.contains("failures"))
        .and_then(|l| l.rsplit(' ').next()?.parse::<u32>().ok());
    let grown = resident(gateway.program().pid()).saturating_sub(before);
    upstream.untouched("a flood of addresses without a key");
    (grown, entries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_addresses_leaves_the_gateway_within_the_bound() {
    let (grown, entries) = flood(20_000).await;
    assert_eq!(entries, Some(20_000), "each is told apart");
    assert!(grown < BOUND, "{} MiB", grown >> 20);
}

/// By hand, for it takes minutes:
/// `cargo nextest run -p orket-tests --run-ignored only --no-capture a_million_forwarded_addresses`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn a_million_forwarded_addresses_leave_the_gateway_within_the_bound() {
    let (grown, entries) = flood(1_000_000).await;
    println!("{} KiB more, {entries:?} addresses told apart", grown >> 10);
    assert!(entries.is_some_and(|n| n as usize <= LIMITER_CAPACITY && n > 90_000));
    assert!(grown < BOUND, "{} MiB", grown >> 20);
}
