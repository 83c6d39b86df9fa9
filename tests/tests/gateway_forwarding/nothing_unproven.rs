//! For every refusal: not a byte, not even a connection, reaches the upstream.

use std::sync::Arc;

use orket_tests::gateway::{API_KEY, TEST_TOKEN, WEBHOOK_SECRET};
use orket_tests::gitea::signature;
use orket_tests::{Connection, Delivery, Gateway, Policy, Request, Upstream};

const PATH: &str = "/webhook/gitea";

/// One request for each way to be refused before the inside is asked.
fn refused() -> Vec<Request> {
    let delivery = Delivery::fresh;
    let right = |body: &[u8]| signature(WEBHOOK_SECRET.as_bytes(), body);
    vec![
        Request::get("/v1/version"),
        Request::get("/v1/version").key("wrong"),
        Request::get("/v1/version").line("X-API-Key:"),
        Request::get("/v1/version").key(API_KEY).key(API_KEY),
        Request::post("/v1/runs", vec![b'x'; 100_000]),
        Request::new("POST", "/v1/runs").chunked(&[b'x'; 100_000], 1000),
        Request::new("TRACE", "/v1/version").key(API_KEY),
        Request::get("/v1/../v1/version").key(API_KEY),
        Request::get("/v1//version").key(API_KEY),
        Request::get("/v1/version")
            .key(API_KEY)
            .header("X-Large", &"v".repeat(20_000)),
        Request::get("/v1/version")
            .key(API_KEY)
            .header("Host", "other.example"),
        Request::get("/nowhere").key(API_KEY),
        Request::get("/ws/events"),
        Request::get(PATH),
        Request::post(PATH, ""),
        Request::post(PATH, vec![b'x'; 1_048_577]),
        delivery().unsigned(PATH),
        delivery().forged(PATH),
        delivery()
            .unsigned(PATH)
            .header("X-Gitea-Signature", "short"),
        delivery().signed(PATH, "another secret"),
        delivery()
            .signed(PATH, WEBHOOK_SECRET)
            .header("Content-Encoding", "gzip"),
        delivery()
            .signed(PATH, WEBHOOK_SECRET)
            .header("X-Gitea-Event", "push"),
        Delivery::new("push", vec![b'x'; 1_048_577]).signed(PATH, WEBHOOK_SECRET),
        Delivery::new("push", vec![b'x'; 1_048_576]).forged(PATH),
        Request::new("POST", PATH)
            .header("X-Gitea-Signature", &right(&[b'x'; 65_537]))
            .chunked(&[b'x'; 65_537], 4096),
        Request::new("POST", PATH)
            .header("X-Gitea-Signature", &right(b"y"))
            .chunked(b"x", 1),
        Request::post("/webhook/test", "{}"),
        Request::post("/webhook/test", "{}").header("X-Webhook-Test-Token", "wrong"),
        Request::post("/webhook/test", "{}").key(API_KEY),
    ]
}

#[tokio::test]
async fn no_refused_request_leads_to_a_connection() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(
        upstream.address(),
        &[
            ("ORKET_API_KEY", API_KEY),
            ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
            ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true"),
            ("ORKET_WEBHOOK_TEST_TOKEN", TEST_TOKEN),
        ],
    )
    .await;
    for request in refused() {
        let answer = request.send(gateway.address()).await;
        assert!(
            (400..500).contains(&answer.status),
            "{}: {request:?}",
            answer.status
        );
        upstream.untouched(&format!("{} {}", answer.status, answer.text()));
    }
}

#[tokio::test]
async fn a_flood_of_refusals_leads_to_no_connection() {
    let upstream = Upstream::tcp().await;
    let gateway = Arc::new(Gateway::with_key_and_secret(upstream.address()).await);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let gateway = Arc::clone(&gateway);
        clients.spawn(async move {
            for request in refused() {
                let status = request.send(gateway.address()).await.status;
                assert!((400..500).contains(&status), "{status}");
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    upstream.untouched("a flood of refusals");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_verdict_leads_to_no_connection() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let request = Delivery::new("push", vec![b'x'; 10_000]).signed(PATH, WEBHOOK_SECRET);
    let bytes = request.bytes(gateway.address());
    for sent in [10, 200, bytes.len() - 5000, bytes.len() - 1] {
        let mut connection = Connection::open(gateway.address()).await;
        connection.send(&bytes[..sent]).await;
        drop(connection);
    }
    // A whole request after them: once it is answered, they have been seen.
    let answer = Request::get("/health").send(gateway.address()).await;
    assert_eq!(answer.status, 200);
    upstream.untouched("clients that left");
}

#[tokio::test]
async fn a_valid_body_behind_an_invalid_one_on_the_same_connection_is_judged_alone() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let forged = Delivery::fresh().forged(PATH).bytes(gateway.address());
    let good = Delivery::fresh();
    let signed = good.signed(PATH, WEBHOOK_SECRET).bytes(gateway.address());
    let mut connection = Connection::open(gateway.address()).await;
    connection
        .send(&[forged.clone(), signed, forged].concat())
        .await;
    let statuses = [
        connection.answer().await.status,
        connection.answer().await.status,
        connection.answer().await.status,
    ];
    assert_eq!(statuses, [401, 200, 401]);
    assert_eq!(upstream.only().body, good.body);
}

#[tokio::test]
async fn the_gateway_sends_no_requests_of_its_own() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    for path in ["/health", "/nowhere"] {
        Request::get(path).send(gateway.address()).await;
    }
    for path in ["/metrics", "/ready"] {
        Request::get(path).send(gateway.admin()).await;
    }
    upstream.untouched("questions to the gateway itself");
}
