//! `/ws/events`: an upgrade with a key passes, without one it does not.

use orket_tests::gateway::API_KEY;
use orket_tests::{Connection, Gateway, Reaction, Request, Upstream, assert_refused};

fn upgrade() -> Request {
    Request::get("/ws/events?after=7")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[tokio::test]
async fn with_a_key_the_upgrade_passes_and_bytes_flow_both_ways() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Echo);
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let mut connection = Connection::open(gateway.address()).await;
    connection
        .send(&upgrade().key(API_KEY).bytes(gateway.address()))
        .await;
    let answer = connection.answer().await;
    assert_eq!(answer.status, 101, "{}", answer.text());
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    for frame in [
        b"\x81\x85abcdhello".as_slice(),
        b"\x89\x80abcd",
        &vec![0x82; 50_000],
    ] {
        connection.send(frame).await;
        assert!(
            connection.read_exact(frame.len()).await == frame,
            "the echo differs"
        );
    }
    let recorded = upstream.only();
    assert_eq!(recorded.target, "/ws/events?after=7");
    assert_eq!(recorded.header("x-orket-actor"), Some("key:default"));
    assert!(!recorded.names("x-api-key"));
    assert_eq!(
        recorded.header("upgrade").map(str::to_lowercase).as_deref(),
        Some("websocket")
    );
}

#[tokio::test]
async fn without_a_key_the_upgrade_is_refused() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Echo);
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for request in [
        upgrade(),
        upgrade().key("wrong"),
        upgrade().header("Sec-WebSocket-Protocol", API_KEY),
        upgrade().header("Authorization", &format!("Bearer {API_KEY}")),
    ] {
        let answer = request.send(gateway.address()).await;
        assert_refused(&answer, 403, "Could not validate credentials");
    }
    upstream.untouched("upgrades without a key");
}

#[tokio::test]
async fn bytes_sent_ahead_of_the_answer_belong_to_the_upgraded_stream_only() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Echo);
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    // The upgrade is refused: what stands behind it is judged as a request of its own.
    let ahead = Request::get("/v1/ahead").bytes(gateway.address());
    let mut connection = Connection::open(gateway.address()).await;
    connection
        .send(&[upgrade().bytes(gateway.address()), ahead].concat())
        .await;
    assert_refused(
        &connection.answer().await,
        403,
        "Could not validate credentials",
    );
    if let Some(second) = connection.one_answer("GET").await {
        assert_refused(&second, 403, "Could not validate credentials");
    }
    upstream.untouched("a refused upgrade with bytes behind it");
}

#[tokio::test]
async fn an_upgrade_the_backend_declines_smuggles_nothing() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let ahead = Request::get("/v1/ahead").bytes(gateway.address());
    let mut connection = Connection::open(gateway.address()).await;
    connection
        .send(&[upgrade().key(API_KEY).bytes(gateway.address()), ahead].concat())
        .await;
    assert_eq!(connection.answer().await.status, 200);
    if let Some(second) = connection.one_answer("GET").await {
        assert_refused(&second, 403, "Could not validate credentials");
    }
    let targets: Vec<String> = upstream.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(
        targets,
        ["/ws/events?after=7"],
        "CVE-2026-2833: the rest must be judged"
    );
}

#[tokio::test]
async fn a_real_websocket_client_speaks_through_the_gateway() {
    use orket_tests::wait::DEADLINE;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Echo);
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let url = format!("ws://{}/ws/events", gateway.address());
    let mut request = url.as_str().into_client_request().unwrap();
    request
        .headers_mut()
        .insert("X-API-Key", API_KEY.parse().unwrap());
    let connecting = tokio_tungstenite::connect_async(request);
    let (_stream, answer) = tokio::time::timeout(DEADLINE, connecting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.status(), 101);

    let refused = tokio_tungstenite::connect_async(url.as_str())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("403"), "{refused}");
}

#[tokio::test]
async fn an_upgrade_nobody_asked_for_is_not_relayed() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    upstream.react(Reaction::Answer {
        status: 101,
        content_type: "text/plain".to_owned(),
        body: Vec::new(),
        headers: vec![("Upgrade".to_owned(), "websocket".to_owned())],
    });
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 502, "Backend unreachable");
}

#[tokio::test]
async fn a_handshake_with_a_body_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let request = upgrade().key(API_KEY).body("abcd");
    assert_refused(&request.send(gateway.address()).await, 400, "Bad request");
    assert_eq!(upstream.count(), 0);
}
