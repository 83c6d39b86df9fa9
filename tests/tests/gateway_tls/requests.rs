//! What holds for plain requests holds within TLS.

use std::time::Duration;

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{Connection, Delivery, Policy, Reaction, Request, assert_refused};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Secured;

const HOOK: &str = "/webhook/gitea";

/// An answer without what differs from one to the next.
fn essence(answer: &orket_tests::Answer) -> (u16, Vec<(String, String)>, serde_json::Value) {
    let headers = answer
        .headers
        .iter()
        .filter(|(name, _)| name != "x-request-id" && name != "date")
        .cloned()
        .collect();
    let mut body = answer.json();
    body["request_id"] = serde_json::Value::Null;
    (answer.status, headers, body)
}

#[tokio::test]
async fn refusals_are_the_same_as_in_clear() {
    let secured = Secured::start(Policy::new()).await;
    let address = secured.gateway.https(&secured.client());
    let raw = |bytes: &str| bytes.as_bytes().to_vec();
    for request in [
        Request::get("/v1/version").bytes(&address),
        Request::get("/v1/version").key("wrong").bytes(&address),
        Request::get("/nowhere").bytes(&address),
        Request::new("PUT", HOOK).bytes(&address),
        Delivery::fresh().unsigned(HOOK).bytes(&address),
        Delivery::fresh().forged(HOOK).bytes(&address),
        Request::post("/v1/runs", vec![b'x'; 200_000]).bytes(&address),
        raw("GET /v1/version HTTP/1.1\nHost: a\n\n"),
        raw("GET /v1/version HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        raw(
            "POST /v1/runs HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        raw("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
        raw(&format!(
            "GET /v1/version HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "y".repeat(20_000)
        )),
    ] {
        let over_tls = orket_tests::wire::exchange(&address, &request).await;
        let in_clear = orket_tests::wire::exchange(secured.gateway.address(), &request).await;
        assert_eq!(
            (essence(&over_tls.answer), over_tls.closed),
            (essence(&in_clear.answer), in_clear.closed),
            "{}",
            String::from_utf8_lossy(&request[..request.len().min(200)])
        );
    }
    secured.upstream.untouched("refusals over TLS");
}

#[tokio::test]
async fn the_inside_learns_that_the_client_came_by_tls() {
    let secured = Secured::start(Policy::new()).await;
    for (address, scheme) in [
        (secured.gateway.https(&secured.client()), "https"),
        (secured.gateway.address().clone(), "http"),
    ] {
        let claimed = Request::get("/v1/version")
            .key(API_KEY)
            .header("X-Forwarded-Proto", "gopher");
        assert_eq!(claimed.send(&address).await.status, 200);
        let seen = secured.upstream.last();
        assert_eq!(seen.header("x-forwarded-proto"), Some(scheme));
    }
}

#[tokio::test]
async fn a_delivery_of_one_mebibyte_arrives_byte_for_byte() {
    let secured = Secured::start(Policy::new()).await;
    let address = secured.gateway.https(&secured.client());
    for size in [0, 1, 16_384, 65_536, 65_537, 1024 * 1024] {
        let body: Vec<u8> = (0..=250).cycle().take(size).collect();
        let delivery = Delivery::new("push", body);
        let answer = delivery.signed(HOOK, WEBHOOK_SECRET).send(&address).await;
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        assert!(secured.upstream.last().body == delivery.body, "{size}");
    }
    let large = Delivery::new("push", vec![b'x'; 1024 * 1024 + 1]);
    let answer = large.signed(HOOK, WEBHOOK_SECRET).send(&address).await;
    assert_refused(&answer, 413, "Payload too large");
}

#[tokio::test]
async fn a_large_answer_arrives_whole() {
    let secured = Secured::start(Policy::new()).await;
    let body = vec![b'y'; 3_000_000];
    secured.upstream.react(Reaction::Answer {
        status: 200,
        content_type: "text/plain".into(),
        body: body.clone(),
        headers: Vec::new(),
    });
    let answer = Request::get("/v1/log")
        .key(API_KEY)
        .send(&secured.gateway.https(&secured.client()))
        .await;
    assert!(answer.body == body);
}

#[tokio::test]
async fn kept_and_pipelined_requests_are_each_judged() {
    let secured = Secured::start(Policy::new()).await;
    let address = secured.gateway.https(&secured.client());
    let all = [
        Request::get("/v1/a").key(API_KEY).bytes(&address),
        Request::get("/v1/b").bytes(&address),
        Delivery::fresh()
            .signed(HOOK, WEBHOOK_SECRET)
            .bytes(&address),
        Delivery::fresh().forged(HOOK).bytes(&address),
        Request::get("/health").bytes(&address),
        Request::get("/v1/c").key(API_KEY).bytes(&address),
    ];
    let mut connection = Connection::open(&address).await;
    connection.send(&all.concat()).await;
    for status in [200, 403, 200, 401, 200, 200] {
        assert_eq!(connection.answer().await.status, status);
    }
    for request in &all[..2] {
        connection.send(request).await;
        connection.answer().await;
    }
    let targets: Vec<String> = secured
        .upstream
        .requests()
        .into_iter()
        .map(|r| r.target)
        .collect();
    assert_eq!(targets, ["/v1/a", HOOK, "/v1/c", "/v1/a"]);
}

#[tokio::test]
async fn a_dripped_head_is_refused_also_on_a_kept_connection() {
    let policy = Policy::new().limits("head_timeout = \"500ms\"");
    let secured = Secured::start(policy).await;
    let address = secured.gateway.https(&secured.client());
    let mut connection = Connection::open(&address).await;
    connection
        .send(&Request::get("/health").bytes(&address))
        .await;
    assert_eq!(connection.answer().await.status, 200);
    connection.send(b"GET /health HTTP/1.1\r\n").await;
    let answer = loop {
        connection.send(b"x").await;
        if let Some(answer) = connection.answer_within(Duration::from_millis(50)).await {
            break answer;
        }
    };
    assert_refused(&answer, 408, "Request timeout");
    assert!(connection.is_closed().await);
    secured.upstream.untouched("a dripped head");
}

/// Without `close_notify` a client could not tell an end from a cut (RFC 8446, section 6.1).
#[tokio::test]
async fn a_refusal_over_an_unread_body_is_read_whole_and_ends_properly() {
    let secured = Secured::start(Policy::new()).await;
    let address = secured.gateway.https(&secured.client());
    let unread = Request::post("/v1/runs", vec![b'x'; 200_000]).bytes(&address);
    let closing = Request::get("/v1/version")
        .header("Connection", "close")
        .bytes(&address);
    let malformed = b"GET / HTTP/1.1\nHost: a\n\n".to_vec();
    for (request, status) in [(unread, "403"), (closing, "403"), (malformed, "400")] {
        let socket = TcpStream::connect(address.host()).await.unwrap();
        let mut stream = secured.client().connect(socket).await.unwrap();
        let _ = stream.write_all(&request).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        assert!(read.is_ok(), "cut off after {status}: {read:?}");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert!(text.trim_end().ends_with('}'), "{text}");
    }
    secured.upstream.untouched("refusals");
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_still_gets_its_answer() {
    let secured = Secured::start(Policy::new()).await;
    let address = secured.gateway.https(&secured.client());
    secured.upstream.react(Reaction::Hold);
    let mut connection = Connection::open(&address).await;
    let ask = Request::get("/v1/version").key(API_KEY);
    connection.send(&ask.bytes(&address)).await;
    // Says `close_notify`, and ends the socket's side as well.
    connection.finish().await;
    secured.upstream.arrived(1).await;
    secured.upstream.react(Reaction::ok());
    assert_eq!(connection.answer().await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_ends_properly() {
    let secured = Secured::start(Policy::new().limits("keepalive_timeout = \"300ms\"")).await;
    let address = secured.gateway.https(&secured.client());
    for ask in [Request::get("/health").bytes(&address), Vec::new()] {
        let socket = TcpStream::connect(address.host()).await.unwrap();
        let mut stream = secured.client().connect(socket).await.unwrap();
        stream.write_all(&ask).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        assert!(read.is_ok(), "cut off: {read:?}");
        assert_eq!(answer.is_empty(), ask.is_empty());
    }
}

#[tokio::test]
async fn a_body_that_is_cut_off_is_no_delivery() {
    let secured = Secured::start(Policy::new()).await;
    let address = secured.gateway.https(&secured.client());
    let request = Delivery::fresh()
        .signed(HOOK, WEBHOOK_SECRET)
        .bytes(&address);
    let socket = TcpStream::connect(address.host()).await.unwrap();
    let mut stream = secured.client().connect(socket).await.unwrap();
    stream
        .write_all(&request[..request.len() - 1])
        .await
        .unwrap();
    stream.flush().await.unwrap();
    // The socket ends below TLS, as it would were it cut by someone on the way.
    let (mut socket, _) = stream.into_inner();
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    assert_eq!(secured.upstream.count(), 0);
}

#[tokio::test]
async fn a_websocket_passes_within_tls() {
    let secured = Secured::start(Policy::new()).await;
    secured.upstream.react(Reaction::Echo);
    let address = secured.gateway.https(&secured.client());
    let upgrade = Request::get("/ws/events")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut connection = Connection::open(&address).await;
    connection.send(&upgrade.key(API_KEY).bytes(&address)).await;
    assert_eq!(connection.answer().await.status, 101);
    for frame in [b"\x81\x85abcdhello".as_slice(), &vec![0x82; 100_000]] {
        connection.send(frame).await;
        assert!(connection.read_exact(frame.len()).await == frame);
    }
}
