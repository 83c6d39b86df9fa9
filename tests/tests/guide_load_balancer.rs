//! `docs/guides/behind-a-load-balancer.md`, followed: its policy, with balancers and clients on loopback.

use std::net::Ipv4Addr;

use orket_tests::gateway::API_KEY;
use orket_tests::repository::{read, root};
use orket_tests::tls::{Authority, write_private};
use orket_tests::{Connection, DEADLINE, Gateway, Request, Upstream, assert_refused, eventually};

/// A balancer: in the list.
const BALANCER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Another address, not in the list.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// The guide's policy, with this machine's addresses and a small failure budget.
fn policy() -> String {
    let page = read(&root().join("docs/guides/behind-a-load-balancer.md"));
    let (_, block) = page.split_once("```toml gateway\n").expect("an example");
    let (block, _) = block.split_once("```").expect("its end");
    [
        ("0.0.0.0:8443", "127.0.0.1:0"),
        ("127.0.0.1:9901", "127.0.0.1:0"),
        ("/var/lib/orket/gateway", "{dir}/state"),
        ("/etc/orket/tls", "{dir}"),
        ("/etc/orket/api_key", "{dir}/api_key"),
        ("unix:/run/orket/backend.sock", "{upstream}"),
        ("10.0.1.0/24", "127.0.0.2"),
        ("120/min", "3/min"),
        (
            "connections_per_address = 256",
            "connections_per_address = 2",
        ),
    ]
    .iter()
    .fold(block.to_owned(), |text, (theirs, ours)| {
        assert!(text.contains(theirs), "the guide's example has no {theirs}");
        text.replace(theirs, ours)
    })
}

#[tokio::test]
async fn the_guide_holds() {
    let authority = Authority::new("the operator's");
    let upstream = Upstream::tcp().await;
    let builder = Gateway::before(upstream.address()).policy(&policy());
    authority.certificate(&["localhost"]).write(builder.dir());
    write_private(&builder.dir().join("api_key"), API_KEY.as_bytes());
    let gateway = builder.start().await;
    let address = gateway.https(&authority.client());
    let ask = || Request::get("/v1/version").key(API_KEY);

    // Health checks need no key, whatever they call the host.
    let health = Request::get("/health").host("10.0.0.4");
    assert_eq!(health.send_from(BALANCER, &address).await.status, 200);

    // Who the client is, line by line.
    for (from, forwarded, client) in [
        (BALANCER, Some("192.0.2.7"), "192.0.2.7"),
        (BALANCER, Some("6.6.6.6, 192.0.2.7"), "192.0.2.7"),
        (BALANCER, Some("192.0.2.7, 127.0.0.2"), "192.0.2.7"),
        (BALANCER, None, "127.0.0.2"),
        (STRANGER, Some("127.0.0.2"), "127.0.0.3"),
        (STRANGER, Some("192.0.2.7"), "127.0.0.3"),
    ] {
        let lines = forwarded.map(|value| ("X-Forwarded-For", value));
        let request = ask().headers(lines).header("X-Forwarded-Proto", "http");
        assert_eq!(request.send_from(from, &address).await.status, 200);
        let seen = upstream.last();
        assert_eq!(
            seen.header("x-forwarded-for"),
            Some(client),
            "{forwarded:?}"
        );
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    }

    // One client's failures are not another's.
    let guess = |client: &str| {
        Request::get("/v1/version")
            .key("wrong")
            .header("X-Forwarded-For", client)
    };
    for _ in 0..3 {
        let answer = guess("192.0.2.66").send_from(BALANCER, &address).await;
        assert_refused(&answer, 403, "Could not validate credentials");
    }
    let answer = guess("192.0.2.66").send_from(BALANCER, &address).await;
    assert_refused(&answer, 429, "Rate limit exceeded");
    let answer = guess("192.0.2.67").send_from(BALANCER, &address).await;
    assert_refused(&answer, 403, "Could not validate credentials");

    // A balancer holds as many connections as it wants, a stranger his share.
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut connection = Connection::open_from(BALANCER, &address).await;
        connection.send(&ask().bytes(&address)).await;
        assert_eq!(connection.answer().await.status, 200);
        held.push(connection);
    }

    // A head that is not believed is logged under the address it came from.
    let mut connection = Connection::open_from(BALANCER, &address).await;
    connection
        .send(b"GET /v1/x HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")
        .await;
    let answer = connection.answer().await;
    assert_refused(&answer, 400, "Bad request");
    let id = answer.header("x-request-id").unwrap();
    eventually("it is logged", DEADLINE, || async {
        gateway.output().contains(id)
    })
    .await;
    let output = gateway.output();
    let record = output.lines().find(|line| line.contains(id)).unwrap();
    assert!(record.contains("\"client\":\"127.0.0.2\""), "{record}");
}
