//! Bodies: their size, their coding, their framing.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::gitea::{Delivery, signature};
use orket_tests::{Cases, Connection, Gateway, Policy, Request, Upstream, assert_refused};

const PATH: &str = "/webhook/gitea";
const MIB: usize = 1024 * 1024;

fn signed_chunked(body: &[u8], chunk: usize) -> Request {
    Request::new("POST", PATH)
        .header("X-Gitea-Event", "push")
        .header(
            "X-Gitea-Signature",
            &signature(WEBHOOK_SECRET.as_bytes(), body),
        )
        .chunked(body, chunk)
}

fn signed(body: Vec<u8>) -> Request {
    Delivery::new("push", body).signed(PATH, WEBHOOK_SECRET)
}

#[tokio::test]
async fn a_webhook_of_one_mebibyte_passes_and_one_byte_more_does_not() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let answer = signed(vec![b'x'; MIB]).send(gateway.address()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.only().body, vec![b'x'; MIB]);

    let exchange = signed(vec![b'x'; MIB + 1])
        .exchange(gateway.address())
        .await;
    assert_refused(&exchange.answer, 413, "Payload too large");
    assert!(
        exchange.closed,
        "a connection with an unread body must not be used again"
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_too_large_body_is_refused_from_its_announced_length_alone() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for length in ["1048577", "1099511627776", "18446744073709551618"] {
        let mut connection = Connection::open(gateway.address()).await;
        let head = Delivery::fresh().forged(PATH).head(gateway.address());
        let head = String::from_utf8(head).unwrap();
        let head: Vec<&str> = head
            .split("\r\n")
            .filter(|line| !line.starts_with("Content-Length"))
            .collect();
        let head = head.join("\r\n").replacen(
            "\r\n\r\n",
            &format!("\r\nContent-Length: {length}\r\n\r\n"),
            1,
        );
        connection.send(head.as_bytes()).await;
        assert_refused(&connection.answer().await, 413, "Payload too large");
    }
    upstream.untouched("bodies announced too large");
}

#[tokio::test]
async fn the_limit_of_a_route_holds_with_a_length_and_with_chunks() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .gitea("body_limit = \"32KiB\"\nreplay = false")
        .api("body_limit = \"32KiB\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let (fits, over) = (vec![b'y'; 32 * 1024], vec![b'y'; 32 * 1024 + 1]);
    let api = || Request::new("POST", "/v1/runs").key(API_KEY);
    for request in [
        signed(fits.clone()),
        signed_chunked(&fits, 5000),
        api().body(fits.clone()),
        api().chunked(&fits, 5000),
    ] {
        let answer = request.send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(upstream.last().body, fits);
    }
    for request in [
        signed(over.clone()),
        signed_chunked(&over, 5000),
        signed_chunked(&over, over.len()),
        api().body(over.clone()),
        api().chunked(&over, 5000),
    ] {
        assert_refused(
            &request.send(gateway.address()).await,
            413,
            "Payload too large",
        );
    }
    assert_eq!(
        upstream.count(),
        4,
        "nothing over the limit became a whole request upstream"
    );
}

#[tokio::test]
async fn a_chunked_webhook_passes_up_to_64_kib_and_needs_a_length_above() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for size in [0, 1, 1000, 65_535, 65_536] {
        let body = vec![b'z'; size];
        let answer = signed_chunked(&body, 4096).send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        assert_eq!(upstream.last().body.len(), size);
    }
    let passed = upstream.count();
    for (size, chunk) in [
        (65_537, 4096),
        (65_537, 65_537),
        (MIB, 8192),
        (MIB + 1, 8192),
    ] {
        let body = vec![b'z'; size];
        let answer = signed_chunked(&body, chunk).send(gateway.address()).await;
        assert_refused(&answer, 411, "Length required");
    }
    assert_eq!(upstream.count(), passed);
}

#[tokio::test]
async fn an_encoded_webhook_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let mut cases = Cases::new();
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-unknown"] {
        let request = Delivery::fresh()
            .signed(PATH, WEBHOOK_SECRET)
            .header("Content-Encoding", coding);
        let bytes = request.bytes(address);
        cases
            .refused(coding, address, &bytes, 415, "Unsupported content encoding")
            .await;
    }
    cases.finish();
    upstream.untouched("encoded webhooks");
}

#[tokio::test]
async fn broken_chunks_are_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let head = |more: &str| {
        format!(
            "POST {PATH} HTTP/1.1\r\nHost: {}\r\nX-Gitea-Event: push\r\nX-Gitea-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n{more}",
            address.host(),
            signature(WEBHOOK_SECRET.as_bytes(), b"hello"),
        )
    };
    let mut cases = Cases::new();
    for (name, body) in [
        ("a size that is no number", "zz\r\nhello\r\n0\r\n\r\n"),
        ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("an empty size", "\r\nhello\r\n0\r\n\r\n"),
        ("no line end behind the data", "5\r\nhelloX\r\n0\r\n\r\n"),
        (
            "a size beyond 64 bit",
            "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        ),
        ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
    ] {
        cases
            .refused(name, address, head(body).as_bytes(), 400, "Bad request")
            .await;
    }
    cases.finish();
    upstream.untouched("broken chunks");
}

#[tokio::test]
async fn a_body_cut_short_reaches_nobody() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let delivery = Delivery::fresh();
    let whole = delivery
        .signed(PATH, WEBHOOK_SECRET)
        .bytes(gateway.address());
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(&whole[..whole.len() - 1]).await;
    connection.finish().await;
    // It may answer or just close: it must not forward.
    connection.read_to_end().await;
    upstream.untouched("a body cut short");
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_only_after_the_head_passed() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let delivery = Delivery::fresh();

    let expecting = delivery
        .signed(PATH, WEBHOOK_SECRET)
        .header("Expect", "100-continue");
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(&expecting.head(gateway.address())).await;
    let interim = connection
        .one_answer("POST")
        .await
        .expect("an interim answer");
    assert_eq!(interim.status, 100);
    connection.send(&delivery.body).await;
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(upstream.only().body, delivery.body);

    let refused = [
        (
            delivery.unsigned(PATH).header("Expect", "100-continue"),
            401,
        ),
        (
            Request::post("/v1/runs", "{}").header("Expect", "100-continue"),
            403,
        ),
        (
            Request::post("/nowhere", "{}").header("Expect", "100-continue"),
            404,
        ),
    ];
    for (request, status) in refused {
        let mut connection = Connection::open(gateway.address()).await;
        connection.send(&request.head(gateway.address())).await;
        let answer = connection.one_answer("POST").await.expect("an answer");
        assert_refused(&answer, status, "");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_api_client_that_waits_for_100_continue_gets_it() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let request = Request::post("/v1/runs", "{}")
        .key(API_KEY)
        .header("Expect", "100-continue");
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(&request.head(gateway.address())).await;
    assert_eq!(
        connection
            .one_answer("POST")
            .await
            .expect("an answer")
            .status,
        100
    );
    connection.send(b"{}").await;
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(upstream.only().body, b"{}");
}
