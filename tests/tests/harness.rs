//! The harness itself: what observes has to be seen observing.

use orket_tests::{Reaction, Request, Upstream};
use tempfile::TempDir;

#[tokio::test]
async fn the_recording_upstream_keeps_the_exact_bytes() {
    let upstream = Upstream::tcp().await;
    let request = Request::post("/a%2Fb?c=d", "body").header("X-Odd", "value");
    let answer = request.send(upstream.address()).await;
    assert_eq!(answer.status, 200);
    let recorded = upstream.only();
    assert_eq!(recorded.raw, request.bytes(upstream.address()));
    assert_eq!(
        (recorded.method.as_str(), recorded.target.as_str()),
        ("POST", "/a%2Fb?c=d")
    );
    assert_eq!(recorded.body, b"body");
}

#[tokio::test]
async fn the_recording_upstream_reads_chunks_and_trailers_on_a_unix_socket() {
    let dir = TempDir::new().unwrap();
    let upstream = Upstream::unix(dir.path());
    let request = Request::new("POST", "/")
        .chunked(&[7; 1000], 300)
        .trailer("X-Late", "1");
    assert_eq!(request.send(upstream.address()).await.status, 200);
    let recorded = upstream.only();
    assert_eq!(recorded.body, vec![7; 1000]);
    assert!(recorded.names("x_late"));
}

#[tokio::test]
async fn the_recording_upstream_can_close_and_echo() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Close);
    let mut connection = orket_tests::Connection::open(upstream.address()).await;
    connection
        .send(&Request::get("/").bytes(upstream.address()))
        .await;
    assert!(connection.is_closed().await);

    upstream.react(Reaction::Echo);
    let mut connection = orket_tests::Connection::open(upstream.address()).await;
    let upgrade = Request::get("/ws").header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    connection.send(&upgrade.bytes(upstream.address())).await;
    let answer = connection.answer().await;
    assert_eq!(answer.status, 101);
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    connection.send(b"any bytes").await;
    assert_eq!(connection.read_exact(9).await, b"any bytes");
}
