//! Connections of clients never take the last descriptor: whoever runs the gateway reaches it, and what is promised is kept.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{
    Address, Connection, DEADLINE, Delivery, Gateway, Policy, Reaction, Request, Upstream,
    eventually,
};

#[tokio::test]
async fn with_all_connections_taken_the_operator_and_the_spool_still_have_theirs() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().gitea("spool = true").to_string().replace(
        "[limits]",
        "[upstreams.away]\naddress = \"unix:{dir}/away.sock\"\n[limits]",
    );
    let hook = "path = \"/webhook/gitea\"\nmethods = [\"POST\"]\nauth = { kind = \"webhook\", provider = \"gitea\", secret = \"gitea\" }\nupstream = ";
    let policy = policy.replace(&format!("{hook}\"backend\""), &format!("{hook}\"away\""));
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let mut gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&policy)
        .open_files(160)
        .start()
        .await;
    let mut sender = Connection::open(gateway.address()).await;
    let ask = Request::get("/health").bytes(gateway.address());
    sender.send(&ask).await;
    assert_eq!(sender.answer().await.status, 200);

    // Each has a connection to the inside as well.
    upstream.react(Reaction::Hang);
    let mut held = Vec::new();
    for _ in 0..150 {
        let mut connection = Connection::open(gateway.address()).await;
        let ask = Request::get("/v1/a").key(API_KEY);
        connection.send(&ask.bytes(gateway.address())).await;
        held.push(connection);
    }
    let metrics = async || {
        let page = Request::get("/metrics").send(gateway.admin()).await;
        assert_eq!(page.status, 200);
        page.text()
    };
    eventually("all places are taken", DEADLINE, || async {
        let page = metrics().await;
        let figure = |name: &str| -> usize {
            let line = page.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
        };
        let open = figure("orket_gateway_connections ");
        let refused = figure("orket_gateway_connections_refused_total{cap=\"all\"} ");
        open > 20 && open + refused == 151 && upstream.count() == open - 1
    })
    .await;
    let socket = Address::Unix(gateway.dir().join("state/gateway.sock"));
    let mut operators = Vec::new();
    for _ in 0..4 {
        let mut operator = Connection::open(&socket).await;
        operator.send(&Request::get("/status").bytes(&socket)).await;
        assert_eq!(operator.answer().await.status, 200);
        operators.push(operator);
    }
    let verdict = Request::post("/reload", "").send(&socket).await.json();
    assert_eq!(verdict["in_force"], true, "{verdict}");
    let delivery = Delivery::fresh().signed("/webhook/gitea", WEBHOOK_SECRET);
    sender.send(&delivery.bytes(gateway.address())).await;
    let answer = sender.answer().await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let revoke = Request::post_json("/keys/revoke", &serde_json::json!({ "id": "ci" }));
    let revoked = revoke.send(&socket).await.json();
    assert_eq!(revoked["not_kept"], serde_json::Value::Null, "{revoked}");
    let said = gateway.output();
    assert!(said.contains("few_descriptors"), "{said}");
    assert!(!said.contains("accept_failed"), "{said}");
    gateway.program().kill().await;
}

#[tokio::test]
async fn idle_connections_of_this_machine_take_no_descriptors() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().to_string();
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&policy)
        .open_files(160)
        .start()
        .await;
    let socket = Address::Unix(gateway.dir().join("state/gateway.sock"));
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(Connection::open(gateway.admin()).await);
        idle.push(Connection::open(&socket).await);
    }
    for _ in 0..10 {
        let answer = Request::get("/v1/a")
            .key(API_KEY)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200);
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
    assert!(open.count() < 100);
    assert!(!gateway.output().contains("accept_failed"));
}

#[tokio::test]
async fn idle_connections_of_this_machine_do_not_keep_the_operator_waiting() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let socket = Address::Unix(gateway.dir().join("state/gateway.sock"));
    for address in [gateway.admin(), &socket] {
        // Far more than could all wait for their time to be over.
        let mut idle = Vec::new();
        for _ in 0..120 {
            idle.push(Connection::open(address).await);
        }
        let path = if *address == socket {
            "/status"
        } else {
            "/ready"
        };
        let answer = Request::get(path).send(address).await;
        assert_eq!(answer.status, 200);
    }
}
