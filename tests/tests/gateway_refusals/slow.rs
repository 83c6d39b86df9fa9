//! Heads and bodies that take too long. Only the answer is asserted, never how long it took.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{Connection, Delivery, Gateway, Policy, Request, Upstream, assert_refused};

#[tokio::test]
async fn a_head_that_never_ends_is_refused() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("head_timeout = \"300ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    for begun in [
        "G",
        "GET /v1/version HTT",
        "GET /v1/version HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    ] {
        let mut connection = Connection::open(gateway.address()).await;
        connection.send(begun.as_bytes()).await;
        assert_refused(&connection.answer().await, 408, "Request timeout");
        assert!(connection.is_closed().await);
    }
    upstream.untouched("slow heads");
}

#[tokio::test]
async fn a_dripped_head_is_refused_though_every_byte_comes_in_time() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("head_timeout = \"500ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let (mut connection, address) = (Connection::open(gateway.address()).await, gateway.address());
    connection
        .send(&Request::get("/health").head(address)[..20])
        .await;
    // Drips until it is answered: each byte comes well within the time of a whole head.
    let answer = loop {
        connection.send(b"x").await;
        if let Some(answer) = connection
            .answer_within(std::time::Duration::from_millis(50))
            .await
        {
            break answer;
        }
    };
    assert_refused(&answer, 408, "Request timeout");
    upstream.untouched("a dripped head");
}

#[tokio::test]
async fn a_slow_second_head_on_a_kept_connection_is_refused() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("head_timeout = \"300ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let mut connection = Connection::open(gateway.address()).await;
    connection
        .send(
            &Request::get("/v1/version")
                .key(API_KEY)
                .bytes(gateway.address()),
        )
        .await;
    assert_eq!(connection.answer().await.status, 200);
    connection
        .send(b"GET /v1/version HTTP/1.1\r\nHost: a\r\nX-Sl")
        .await;
    assert_refused(&connection.answer().await, 408, "Request timeout");
    assert!(connection.is_closed().await);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_webhook_body_that_never_ends_is_refused() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("body_timeout = \"300ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let request = Delivery::fresh().signed("/webhook/gitea", WEBHOOK_SECRET);
    let whole = request.bytes(gateway.address());
    let head = request.head(gateway.address()).len();
    for sent in [head, head + 10, whole.len() - 1] {
        let mut connection = Connection::open(gateway.address()).await;
        connection.send(&whole[..sent]).await;
        assert_refused(&connection.answer().await, 408, "Request timeout");
        assert!(connection.is_closed().await);
    }
    upstream.untouched("slow webhook bodies");
}

#[tokio::test]
async fn a_dripped_webhook_body_is_refused_though_every_byte_comes_in_time() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("body_timeout = \"500ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let request =
        Delivery::new("push", vec![b'x'; 100_000]).signed("/webhook/gitea", WEBHOOK_SECRET);
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(&request.head(gateway.address())).await;
    let answer = loop {
        connection.send(b"x").await;
        if let Some(answer) = connection
            .answer_within(std::time::Duration::from_millis(50))
            .await
        {
            break answer;
        }
    };
    assert_refused(&answer, 408, "Request timeout");
    upstream.untouched("a dripped webhook body");
}

#[tokio::test]
async fn an_api_body_that_never_ends_is_refused() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("body_timeout = \"300ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let request = Request::post("/v1/runs", vec![b'x'; 1000]).key(API_KEY);
    let whole = request.bytes(gateway.address());
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(&whole[..whole.len() - 1]).await;
    assert_refused(&connection.answer().await, 408, "Request timeout");
    assert!(connection.is_closed().await);
    assert_eq!(upstream.count(), 0, "half a body is no request");
}
