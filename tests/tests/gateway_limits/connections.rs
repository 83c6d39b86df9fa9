//! How many connections there may be.

use std::net::Ipv4Addr;

use orket_tests::gateway::API_KEY;
use orket_tests::{Connection, DEADLINE, Gateway, Policy, Request, Upstream, eventually};

const ONE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A kept connection on which a request was answered; none when it was turned away.
async fn kept(client: Ipv4Addr, gateway: &Gateway) -> Option<Connection> {
    let mut connection = Connection::open_from(client, gateway.address()).await;
    connection
        .send(&Request::get("/v1/a").key(API_KEY).bytes(gateway.address()))
        .await;
    let answer = connection.one_answer("GET").await?;
    (answer.status == 200).then_some(connection)
}

#[tokio::test]
async fn one_address_holds_no_more_than_its_share() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("connections_per_address = 4");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(kept(ONE, &gateway).await.expect("within its share"));
    }
    assert!(
        kept(ONE, &gateway).await.is_none(),
        "the fifth is turned away"
    );
    assert!(
        kept(TWO, &gateway).await.is_some(),
        "another address is not"
    );
    drop(held.pop());
    eventually("a place is free again", DEADLINE, || async {
        kept(ONE, &gateway).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn all_together_hold_no_more_than_there_are() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("connections = 4");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let mut held = Vec::new();
    for client in [ONE, TWO, ONE, TWO] {
        held.push(kept(client, &gateway).await.expect("within the limit"));
    }
    assert!(kept(ONE, &gateway).await.is_none() && kept(TWO, &gateway).await.is_none());
    held.clear();
    eventually("places are free again", DEADLINE, || async {
        kept(ONE, &gateway).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_trusted_proxy_is_held_to_no_share_of_one_address() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .limits("connections_per_address = 2")
        .rest("[client_address]\ntrusted_proxies = [\"127.0.0.1\"]");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(
            kept(ONE, &gateway)
                .await
                .expect("a proxy carries many clients"),
        );
    }
    assert_eq!(held.len(), 6);
}
