//! The advisories of pingora up to the version in use, each tried over a raw socket: whatever pingora does below, none
//! of them works here.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{Connection, Delivery, Gateway, Reaction, Request, Upstream};

const SMUGGLED: &str = "/v1/smuggled";

/// A gateway and its upstream.
async fn pair() -> (Upstream, Gateway) {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    (upstream, gateway)
}

/// Sends `bytes` on one connection and takes in whatever is answered, until nothing more is.
async fn told(gateway: &Gateway, bytes: &[u8]) -> Vec<u16> {
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(bytes).await;
    connection.finish().await;
    let mut statuses = Vec::new();
    while let Some(answer) = connection.one_answer("GET").await {
        statuses.push(answer.status);
    }
    statuses
}

/// Whether anything of the smuggled request reached the inside, in whatever place.
fn smuggled(upstream: &Upstream) -> bool {
    upstream
        .requests()
        .iter()
        .any(|r| String::from_utf8_lossy(&r.raw).contains(SMUGGLED))
}

/// How many bytes reached the inside that belong to no whole request.
fn stray(upstream: &Upstream) -> usize {
    let whole: usize = upstream.requests().iter().map(|r| r.raw.len()).sum();
    upstream.bytes() - whole
}

/// Requests answered without their body being read left it to be read as the next request.
#[tokio::test]
async fn cve_2025_4366_an_unread_body_is_not_the_next_request() {
    let (upstream, gateway) = pair().await;
    let address = gateway.address();
    let inner = Request::get(SMUGGLED).key(API_KEY).bytes(address);
    let delivery = Delivery::new("push", inner.clone());
    let first = delivery.signed("/webhook/gitea", WEBHOOK_SECRET);
    assert_eq!(first.send(address).await.status, 200);
    upstream.forget();
    for (what, request) in [
        (
            "answered by the gateway",
            Request::get("/health").body(inner.clone()),
        ),
        ("no route", Request::post("/nowhere", inner.clone())),
        ("no key", Request::post("/v1/runs", inner.clone())),
        (
            "another method",
            Request::new("PUT", "/webhook/gitea").body(inner.clone()),
        ),
        (
            "in chunks",
            Request::new("POST", "/v1/runs").chunked(&inner, 7),
        ),
        (
            "known already",
            delivery.signed("/webhook/gitea", WEBHOOK_SECRET),
        ),
    ] {
        let statuses = told(&gateway, &request.bytes(address)).await;
        assert_eq!(statuses.len(), 1, "{what}: {statuses:?}");
        assert!(!smuggled(&upstream), "{what}");
    }
}

/// What stood behind an upgrade was passed through before the backend had agreed to it.
#[tokio::test]
async fn cve_2026_2833_what_follows_a_declined_upgrade_is_judged() {
    let (upstream, gateway) = pair().await;
    let upgrade = Request::get("/ws/events")
        .key(API_KEY)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .bytes(gateway.address());
    let behind = Request::get(SMUGGLED).bytes(gateway.address());
    upstream.react(Reaction::Hold);
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(&[upgrade, behind].concat()).await;
    upstream.arrived(1).await;
    // The gateway has all of it, and time to do something with it.
    for _ in 0..20 {
        let health = Request::get("/health").send(gateway.address()).await;
        assert_eq!(health.status, 200);
    }
    // The backend answers 200: nothing was agreed.
    upstream.react(Reaction::ok());
    assert_eq!(connection.answer().await.status, 200);
    if let Some(second) = connection.one_answer("GET").await {
        assert_eq!(second.status, 403, "it is judged by itself");
    }
    // Behind all that may have been sent on a connection comes the next request on it.
    let last = Request::get("/v1/last").key(API_KEY);
    assert_eq!(last.send(gateway.address()).await.status, 200);
    assert_eq!((upstream.count(), stray(&upstream)), (2, 0));
}

/// A request of HTTP/1.0 had a body up to the end of the connection, and several codings were read as none.
#[tokio::test]
async fn cve_2026_2835_no_body_ends_with_the_connection_and_no_coding_is_misread() {
    let (upstream, gateway) = pair().await;
    let host = gateway.address().host();
    let behind = Request::get(SMUGGLED).bytes(gateway.address());
    let head = |version: &str, lines: &str| {
        format!(
            "POST /v1/runs HTTP/{version}\r\nHost: {host}\r\nX-API-Key: {API_KEY}\r\n{lines}\r\n"
        )
    };
    for (what, head, fine) in [
        ("no length in 1.0", head("1.0", ""), true),
        (
            "no length in 1.0, kept",
            head("1.0", "Connection: keep-alive\r\n"),
            true,
        ),
        (
            "chunks in 1.0",
            head("1.0", "Transfer-Encoding: chunked\r\n"),
            false,
        ),
        (
            "identity, then chunked",
            head("1.1", "Transfer-Encoding: identity, chunked\r\n"),
            false,
        ),
        (
            "chunked, then identity",
            head(
                "1.1",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            ),
            false,
        ),
        (
            "a length and chunks",
            head("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            false,
        ),
        ("no length in 1.1", head("1.1", ""), true),
    ] {
        upstream.forget();
        let bytes = [head.as_bytes(), b"0\r\n\r\n", &behind].concat();
        let statuses = told(&gateway, &bytes).await;
        assert!(!smuggled(&upstream), "{what}: {statuses:?}");
        // What stands behind a request without a body is no request, and nothing passes behind one that is refused.
        let expected = if fine { 200 } else { 400 };
        assert_eq!(statuses.first(), Some(&expected), "{what}: {statuses:?}");
        assert!(
            statuses[1..].iter().all(|status| fine && *status == 400),
            "{what}: {statuses:?}"
        );
        assert_eq!(upstream.count(), usize::from(fine), "{what}");
        for recorded in upstream.requests() {
            assert!(recorded.body.is_empty(), "{what}: a body arrived");
        }
    }
}

/// Answers were kept under the path alone, whatever the host and whoever asked. Here no answer is kept.
#[tokio::test]
async fn cve_2026_2836_no_answer_is_given_to_another_request() {
    let (upstream, gateway) = pair().await;
    let answer = |body: &str| Reaction::Answer {
        status: 200,
        content_type: "text/plain".to_owned(),
        body: body.as_bytes().to_vec(),
        headers: vec![("Cache-Control".to_owned(), "public, max-age=600".to_owned())],
    };
    for (n, host) in ["one.example", "two.example", "one.example"]
        .iter()
        .enumerate()
    {
        let body = format!("for {n}");
        upstream.react(answer(&body));
        let told = Request::get("/v1/page")
            .key(API_KEY)
            .host(host)
            .send(gateway.address())
            .await;
        assert_eq!((told.status, told.text()), (200, body));
        assert_eq!(upstream.count(), n + 1);
    }
    let told = Request::get("/v1/page")
        .host("one.example")
        .send(gateway.address())
        .await;
    assert_eq!(told.status, 403, "nor without a key");
}

#[tokio::test]
async fn a_method_that_no_route_could_take_is_refused() {
    let (upstream, gateway) = pair().await;
    let mut cases = orket_tests::Cases::new();
    for method in [
        "get", "Get", "POSt", "TRACE", "TRACK", "PROPFIND", "PRI", "M-SEARCH", "X", "DEBUG",
    ] {
        let bytes = Request::new(method, "/v1/version")
            .key(API_KEY)
            .bytes(gateway.address());
        cases
            .refused(method, gateway.address(), &bytes, 405, "Method not allowed")
            .await;
    }
    cases.finish();
    upstream.untouched("methods that no route takes");
}
