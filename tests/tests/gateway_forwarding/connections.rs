//! Connections: kept, pipelined, closed, over TCP and over a unix socket.

use std::sync::Arc;

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{
    Connection, Delivery, Gateway, Policy, Reaction, Request, Upstream, assert_refused,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

const PATH: &str = "/webhook/gitea";

#[tokio::test]
async fn a_refusal_over_a_body_that_was_read_keeps_the_connection() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let mut connection = Connection::open(gateway.address()).await;
    for _ in 0..3 {
        connection
            .send(&Delivery::fresh().forged(PATH).bytes(gateway.address()))
            .await;
        let exchange = connection.exchange().await;
        assert_refused(&exchange.answer, 401, "Invalid signature");
        assert!(!exchange.closed, "cheap refusals keep the connection");
        connection
            .send(&Request::get("/v1/version").bytes(gateway.address()))
            .await;
        let exchange = connection.exchange().await;
        assert_refused(&exchange.answer, 403, "Could not validate credentials");
        assert!(!exchange.closed, "there was no body to read");
    }
    connection
        .send(
            &Request::get("/v1/version")
                .key(API_KEY)
                .bytes(gateway.address()),
        )
        .await;
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_refusal_over_an_unread_body_can_be_read_and_closes() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for request in [
        Request::post("/v1/runs", vec![b'x'; 200_000]),
        Request::new("POST", "/v1/runs").chunked(&vec![b'x'; 200_000], 4096),
        Delivery::new("push", vec![b'x'; 200_000]).unsigned(PATH),
        Request::post("/nowhere", vec![b'x'; 200_000]),
    ] {
        // The body must never be taken for a request: it is followed by one that would pass.
        let mut connection = Connection::open(gateway.address()).await;
        connection.send(&request.bytes(gateway.address())).await;
        let answer = connection.answer().await;
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        connection
            .send(
                &Request::get("/v1/version")
                    .key(API_KEY)
                    .bytes(gateway.address()),
            )
            .await;
        if let Some(second) = connection.one_answer("GET").await {
            assert_eq!(
                second.status, 200,
                "only the request itself may be answered"
            );
        }
    }
}

#[tokio::test]
async fn a_body_that_looks_like_a_request_is_never_one() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let inner = Request::get("/v1/smuggled")
        .key(API_KEY)
        .bytes(gateway.address());
    for outer in [
        Request::post("/v1/runs", inner.clone()),
        Request::post("/nowhere", inner.clone()),
        Request::post(PATH, inner.clone()),
        Delivery::new("push", inner.clone()).forged(PATH),
        Request::new("GET", "/v1/version").body(inner.clone()),
    ] {
        let mut connection = Connection::open(gateway.address()).await;
        connection.send(&outer.bytes(gateway.address())).await;
        assert!((400..500).contains(&connection.answer().await.status));
        connection.finish().await;
        assert_eq!(connection.read_to_end().await, b"", "a second answer came");
    }
    upstream.untouched("requests within bodies");
}

#[tokio::test]
async fn pipelined_requests_are_each_judged_and_answered_in_order() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let delivery = Delivery::fresh();
    let all = [
        Request::get("/v1/version").key(API_KEY).bytes(address),
        Request::get("/v1/version").bytes(address),
        Request::post("/v1/runs", "{}").key(API_KEY).bytes(address),
        delivery.signed(PATH, WEBHOOK_SECRET).bytes(address),
        Delivery::fresh().forged(PATH).bytes(address),
        Request::get("/health").bytes(address),
        Request::get("/v1/last").key(API_KEY).bytes(address),
    ]
    .concat();
    let mut connection = Connection::open(address).await;
    connection.send(&all).await;
    let mut statuses = Vec::new();
    for _ in 0..7 {
        statuses.push(connection.answer().await.status);
    }
    assert_eq!(statuses, [200, 403, 200, 200, 401, 200, 200]);
    let targets: Vec<String> = upstream.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/v1/version", "/v1/runs", PATH, "/v1/last"]);
}

#[tokio::test]
async fn the_proof_of_one_request_does_not_serve_the_next_on_its_connection() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let mut connection = Connection::open(gateway.address()).await;
    for _ in 0..3 {
        connection
            .send(
                &Request::get("/v1/version")
                    .key(API_KEY)
                    .bytes(gateway.address()),
            )
            .await;
        assert_eq!(connection.answer().await.status, 200);
        connection
            .send(&Request::get("/v1/version").bytes(gateway.address()))
            .await;
        assert_refused(
            &connection.answer().await,
            403,
            "Could not validate credentials",
        );
    }
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn connection_close_is_honoured() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for request in [
        Request::get("/v1/version"),
        Request::get("/v1/version").key(API_KEY),
    ] {
        let request = request.header("Connection", "close");
        let mut connection = Connection::open(gateway.address()).await;
        connection.send(&request.bytes(gateway.address())).await;
        connection.answer().await;
        assert!(connection.is_closed().await);
    }
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_still_gets_its_answer() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    for (n, request) in [
        Request::get("/v1/version").key(API_KEY),
        Request::post("/v1/runs", vec![b'x'; 100_000]).key(API_KEY),
        Request::new("POST", "/v1/runs")
            .chunked(&[b'x'; 5000], 1000)
            .key(API_KEY),
        Delivery::fresh().signed(PATH, WEBHOOK_SECRET),
    ]
    .into_iter()
    .enumerate()
    {
        upstream.react(Reaction::Hold);
        let mut connection = Connection::open(address).await;
        connection.send(&request.bytes(address)).await;
        connection.finish().await;
        // The end of its side has long arrived when the answer comes.
        upstream.arrived(n + 1).await;
        upstream.react(Reaction::ok());
        assert_eq!(connection.answer().await.status, 200);
        assert!(
            connection.is_closed().await,
            "nothing more can come from it"
        );
    }
}

#[tokio::test]
async fn requests_before_the_end_of_a_side_are_all_answered() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let ask = Request::get("/v1/a").key(API_KEY).bytes(gateway.address());
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(&ask.repeat(3)).await;
    connection.finish().await;
    for _ in 0..3 {
        assert_eq!(connection.answer().await.status, 200);
    }
    assert!(connection.is_closed().await);
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    upstream.react(Reaction::Chunks(vec![vec![b'a'; 10], vec![b'b'; 70_000]]));
    let whole = [vec![b'a'; 10], vec![b'b'; 70_000]].concat();
    for keep in ["", "Connection: keep-alive\r\n"] {
        let ask = format!("GET /v1/log HTTP/1.0\r\nHost: a\r\nX-API-Key: {API_KEY}\r\n{keep}\r\n");
        let exchange = orket_tests::wire::exchange(gateway.address(), ask.as_bytes()).await;
        let answer = &exchange.answer;
        assert_eq!(
            (answer.status, answer.header("transfer-encoding")),
            (200, None)
        );
        assert_ne!(answer.header("connection"), Some("keep-alive"));
        assert!(answer.body == whole, "{} bytes", answer.body.len());
        assert!(
            exchange.closed,
            "the end of the connection is the end of the answer"
        );
    }
    // With a length it is kept, and a client of HTTP/1.1 gets the chunks.
    let mut kept = Connection::open(gateway.address()).await;
    upstream.react(Reaction::ok());
    let ask = format!(
        "GET /v1/a HTTP/1.0\r\nHost: a\r\nX-API-Key: {API_KEY}\r\nConnection: keep-alive\r\n\r\n"
    );
    for _ in 0..2 {
        kept.send(ask.as_bytes()).await;
        assert_eq!(kept.answer().await.status, 200);
    }
    upstream.react(Reaction::Chunks(vec![vec![b'a'; 10]]));
    let answer = Request::get("/v1/log")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(
        (answer.header("transfer-encoding"), answer.text().as_str()),
        (Some("chunked"), "aaaaaaaaaa")
    );
}

#[tokio::test]
async fn a_unix_socket_serves_as_upstream() {
    let dir = TempDir::new().unwrap();
    let upstream = Upstream::unix(dir.path());
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let answer = Request::get("/v1/version?a=b")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.last().target, "/v1/version?a=b");
    let delivery = Delivery::new("push", vec![b'x'; 300_000]);
    let answer = delivery
        .signed(PATH, WEBHOOK_SECRET)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(upstream.last().body == delivery.body);
    let before = upstream.connections();
    assert_eq!(
        Delivery::fresh()
            .forged(PATH)
            .send(gateway.address())
            .await
            .status,
        401
    );
    assert_eq!((upstream.connections(), upstream.count()), (before, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_each_get_their_own_answer() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Mirror);
    let env = [("ORKET_API_KEY", API_KEY), ("ORKET_FAILURE_LIMIT", "0")];
    let gateway = Arc::new(Gateway::builtin(upstream.address(), &env).await);
    let mut clients = JoinSet::new();
    for client in 0..50 {
        let gateway = Arc::clone(&gateway);
        clients.spawn(async move {
            let mut connection = Connection::open(gateway.address()).await;
            for n in 0..20 {
                let proven = (client + n) % 2 == 0;
                let target = format!("/v1/c{client}/n{n}");
                let request = Request::get(&target);
                let request = if proven {
                    request.key(API_KEY)
                } else {
                    request
                };
                connection.send(&request.bytes(gateway.address())).await;
                let answer = connection.answer().await;
                if proven {
                    assert_eq!(answer.json()["target"], target, "someone else's answer");
                } else {
                    assert_refused(&answer, 403, "Could not validate credentials");
                }
            }
        });
    }
    clients.join_all().await;
    assert_eq!(upstream.count(), 500);
    for request in upstream.requests() {
        assert_eq!(request.header("x-orket-actor"), Some("key:default"));
    }
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_given_to_no_one() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Hold);
    let policy = Policy::new().upstream("response_timeout = \"300ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    for n in 0..3 {
        let late = Request::get(&format!("/v1/late/{n}")).key(API_KEY);
        assert_refused(&late.send(gateway.address()).await, 504, "");
    }
    upstream.react(Reaction::Mirror);
    for n in 0..10 {
        let target = format!("/v1/next/{n}");
        let answer = Request::get(&target)
            .key(API_KEY)
            .send(gateway.address())
            .await;
        assert_eq!(answer.json()["target"], target, "an answer that came late");
    }
}

#[tokio::test]
async fn the_answer_to_a_client_that_left_is_given_to_no_one() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Hold);
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for n in 0..3 {
        let mut leaving = Connection::open(gateway.address()).await;
        let request = Request::get(&format!("/v1/left/{n}")).key(API_KEY);
        leaving.send(&request.bytes(gateway.address())).await;
        upstream.arrived(n + 1).await;
    }
    upstream.react(Reaction::Mirror);
    for n in 0..10 {
        let target = format!("/v1/next/{n}");
        let answer = Request::get(&target)
            .key(API_KEY)
            .send(gateway.address())
            .await;
        assert_eq!(
            answer.json()["target"],
            target,
            "an answer of a client that left"
        );
    }
}

#[tokio::test]
async fn a_reader_that_pauses_longer_than_an_upstream_may_gets_the_whole_answer() {
    const BYTES: usize = 32 * 1024 * 1024;
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Answer {
        status: 200,
        content_type: "application/octet-stream".to_owned(),
        body: vec![b'x'; BYTES],
        headers: Vec::new(),
    });
    let policy = Policy::new().upstream("response_timeout = \"300ms\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let mut slow = Connection::open(gateway.address()).await;
    let request = Request::get("/v1/large").key(API_KEY);
    slow.send(&request.bytes(gateway.address())).await;
    slow.read_exact(1).await;
    // So long: another upstream's answer is given up several times over meanwhile.
    upstream.react(Reaction::Hang);
    for _ in 0..4 {
        let silent = Request::get("/v1/silent").key(API_KEY);
        assert_refused(&silent.send(gateway.address()).await, 504, "");
    }
    let rest = slow.read_exact(BYTES).await;
    assert!(rest.ends_with(&[b'x'; 1024]));
}
