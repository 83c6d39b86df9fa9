//! A million clients take no more memory than is said: what is kept for each is bounded, whoever asks.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use orket_gateway::budget::{LIMITER_CAPACITY, Owner};
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
        assert!(limiter.len() <= LIMITER_CAPACITY + 16, "{}", limiter.len());
    }
    assert!(grown < BOUND, "{} MiB", grown >> 20);
}

/// Client addresses that a trusted proxy names, each failing once, over kept connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_addresses_leaves_the_gateway_within_the_bound() {
    const ADDRESSES: u32 = 20_000;
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .limits("failures_per_address = \"1/h\"")
        .rest("[client_address]\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let mut gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let address = gateway.address().clone();
    let before = resident(gateway.program().pid());
    let mut clients = tokio::task::JoinSet::new();
    for part in 0..4u32 {
        let address = address.clone();
        clients.spawn(async move {
            let mut connection = Connection::open(&address).await;
            for n in (0..ADDRESSES).filter(|n| n % 4 == part) {
                let client = Ipv4Addr::from_bits((11 << 24) + n).to_string();
                let request = Request::get("/v1/a").header("X-Forwarded-For", &client);
                connection.send(&request.bytes(&address)).await;
                assert_eq!(connection.answer().await.status, 403);
            }
        });
    }
    clients.join_all().await;
    let page = Request::get("/metrics").send(gateway.admin()).await.text();
    let entries = page
        .lines()
        .find(|l| l.contains("limiter_entries{") && l.contains("failures"))
        .and_then(|l| l.rsplit(' ').next()?.parse::<u32>().ok());
    assert_eq!(entries, Some(ADDRESSES), "each is told apart: {page}");
    let grown = resident(gateway.program().pid()).saturating_sub(before);
    assert!(grown < BOUND, "{} MiB", grown >> 20);
    upstream.untouched("a flood of addresses without a key");
}
