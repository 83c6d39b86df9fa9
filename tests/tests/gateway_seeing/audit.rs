//! Every refusal has one audit record; a flood of them has a bounded number, and none is lost without being counted.

use orket_tests::gateway::API_KEY;
use orket_tests::refusal::assert_request_id;
use orket_tests::{Connection, DEADLINE, Delivery, Gateway, Policy, Request, Upstream, eventually};

use super::{at_the_end, of};

#[tokio::test]
async fn a_refusal_has_one_audit_record_and_one_access_record() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .api("rate_limits = [\"one\"]")
        .rest("[[rate_limits]]\nid = \"one\"\nby = \"key\"\nrate = \"1/h\"");
    let mut gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let address = gateway.address().clone();
    Request::get("/v1/a").key(API_KEY).send(&address).await;
    let mut expected = Vec::new();
    for (request, reason) in [
        (Request::get("/v1/a"), "api_key_missing"),
        (Request::get("/v1/a").key(API_KEY), "rate_limit_exceeded"),
        (
            Delivery::fresh().forged("/webhook/gitea"),
            "signature_wrong",
        ),
        (Request::get("/v1/../a"), "path_ambiguous"),
        (
            Request::post("/v1/a", "").line("bad header"),
            "head_malformed",
        ),
    ] {
        let answer = request.send(&address).await;
        expected.push((assert_request_id(&answer), reason));
    }
    let log = at_the_end(&mut gateway).await;
    for (id, reason) in expected {
        for (target, event, field) in [
            ("audit", "refused", "reason"),
            ("access", "request", "outcome"),
        ] {
            let records = of(&log, target, event);
            let found: Vec<_> = records.iter().filter(|r| r["request_id"] == id).collect();
            assert_eq!(found.len(), 1, "{reason}: {found:#?}");
            assert_eq!(found[0][field], reason);
        }
    }
    let records = of(&log, "audit", "refused");
    let limited = records
        .iter()
        .find(|r| r["reason"] == "rate_limit_exceeded");
    assert_eq!(limited.unwrap()["limit"], "one");
    // The head was refused as it came: what stands in its place is not written down.
    let odd = records.iter().find(|r| r["reason"] == "head_malformed");
    assert_eq!(odd.unwrap().get("method"), None);
}

#[tokio::test]
async fn what_an_operator_does_has_audit_records() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let socket = gateway.dir().join("state/gateway.sock");
    let reload = ["reload", "--control", socket.to_str().unwrap()];
    let file = gateway.dir().join("gateway.toml");
    orket_tests::gateway::run(gateway.dir(), &reload, &[]).await;
    std::fs::write(&file, "version = 2").unwrap();
    orket_tests::gateway::run(gateway.dir(), &reload, &[]).await;
    let log = at_the_end(&mut gateway).await;
    for (event, count) in [
        ("posture", 2),
        ("reloaded", 1),
        ("reload_refused", 1),
        ("stopping", 1),
        ("stopped", 1),
    ] {
        assert_eq!(of(&log, "audit", event).len(), count, "{event}");
    }
    assert_eq!(of(&log, "audit", "reloaded")[0]["by"], "control socket");
}

#[tokio::test]
async fn a_flood_of_refusals_is_written_within_a_bound_and_counted_to_the_last() {
    const FLOOD: usize = 3_000;
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let mut connection = Connection::open(gateway.address()).await;
    let request = Request::get("/nowhere").bytes(gateway.address());
    for _ in 0..FLOOD {
        connection.send(&request).await;
        assert_eq!(connection.answer().await.status, 404);
    }
    // Whoever is proven has a record all the same.
    let proven = Request::get("/v1/a").key(API_KEY);
    let proven = proven.send(gateway.address()).await;
    let log = at_the_end(&mut gateway).await;
    let written = of(&log, "audit", "refused").len();
    let access = of(&log, "access", "request");
    assert_eq!(access.len(), written + 1);
    assert!(
        access
            .iter()
            .any(|r| r["request_id"] == assert_request_id(&proven))
    );
    let left_out: u64 = of(&log, "audit", "left_out")
        .iter()
        .map(|r| {
            assert_eq!(r["reason"], "route_not_found");
            assert_eq!(r["client"], "127.0.0.1");
            r["count"].as_u64().unwrap()
        })
        .sum();
    assert!(written < FLOOD && left_out > 0, "{written}");
    assert_eq!(written as u64 + left_out, FLOOD as u64);
}

#[tokio::test]
async fn a_connection_over_the_cap_is_in_the_audit_log() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().limits("connections_per_address = 1");
    let mut gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let mut first = Connection::open(gateway.address()).await;
    first
        .send(&Request::get("/health").bytes(gateway.address()))
        .await;
    assert_eq!(first.answer().await.status, 200);
    let _over = Connection::open(gateway.address()).await;
    eventually("it is written down", DEADLINE, || async {
        gateway.output().contains("connection_refused")
    })
    .await;
    let log = at_the_end(&mut gateway).await;
    let refused = of(&log, "audit", "connection_refused");
    assert_eq!(refused.len(), 1, "{log:#?}");
    assert_eq!(refused[0]["reason"], "connections_per_address");
}
