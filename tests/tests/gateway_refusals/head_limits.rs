//! Heads that are too large, and upgrades where there is none.

use orket_tests::gateway::API_KEY;
use orket_tests::{Cases, Gateway, Request, Upstream};

#[tokio::test]
async fn a_head_too_large_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let get = || Request::get("/v1/version").key(API_KEY);
    let many = |count| (0..count).fold(get(), |r, n| r.header(&format!("X-{n}"), "v"));
    let mut cases = Cases::new();
    for (name, request) in [
        (
            "17 KiB in one value",
            get().header("X-A", &"v".repeat(17 * 1024)),
        ),
        (
            "17 KiB in many lines",
            (0..17).fold(get(), |r, n| r.header(&format!("X-{n}"), &"v".repeat(1024))),
        ),
        (
            "17 KiB in the key",
            Request::get("/v1/version").key(&"k".repeat(17 * 1024)),
        ),
        (
            "17 KiB in the target",
            Request::get(&format!("/v1/{}", "a".repeat(17 * 1024))).key(API_KEY),
        ),
        (
            "17 KiB in the query",
            Request::get(&format!("/v1/version?{}", "a".repeat(17 * 1024))).key(API_KEY),
        ),
        ("101 header lines", many(99)),
        ("200 header lines", many(200)),
        ("300 header lines", many(300)),
        (
            "2 MiB in one value",
            get().header("X-A", &"v".repeat(2 * 1024 * 1024)),
        ),
    ] {
        let bytes = request.bytes(address);
        let exchange = cases
            .refused(name, address, &bytes, 431, "Request head too large")
            .await;
        if let Some(exchange) = exchange {
            cases.holds(name, exchange.closed, || {
                "the connection stayed open".to_owned()
            });
        }
    }
    cases.finish();
    upstream.untouched("heads too large");
}

#[tokio::test]
async fn an_upgrade_is_refused_where_the_route_has_none() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let mut cases = Cases::new();
    for protocol in ["websocket", "h2c", "TLS/1.0"] {
        let request = Request::get("/v1/version")
            .key(API_KEY)
            .header("Connection", "Upgrade")
            .header("Upgrade", protocol)
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        cases
            .refused(
                protocol,
                address,
                &request.bytes(address),
                400,
                "Bad request",
            )
            .await;
    }
    let request = Request::get("/ws/events")
        .key(API_KEY)
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    cases
        .refused(
            "h2c on /ws/events",
            address,
            &request.bytes(address),
            400,
            "Bad request",
        )
        .await;
    cases.finish();
    upstream.untouched("upgrades where none are");
}
