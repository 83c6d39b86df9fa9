//! One access record for every request, of ids and figures only.

use orket_tests::gateway::API_KEY;
use orket_tests::{
    Connection, DEADLINE, Delivery, Gateway, Policy, Reaction, Request, Upstream, eventually,
};

use super::{at_the_end, of, record_in};

#[tokio::test]
async fn a_forwarded_request_has_one_record_of_ids_and_figures() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let mut connection = Connection::open(gateway.address()).await;
    for _ in 0..2 {
        let request = Request::post("/v1/planted-path?token=planted-query", "planted-body")
            .key(API_KEY)
            .header("User-Agent", "planted-agent");
        connection.send(&request.bytes(gateway.address())).await;
        assert_eq!(connection.answer().await.status, 200);
    }
    let log = at_the_end(&mut gateway).await;
    let access = of(&log, "access", "request");
    assert_eq!(access.len(), 2, "{access:#?}");
    for (record, turn) in access.iter().zip(1..) {
        assert_eq!(record["connection_request"], turn);
        assert_eq!(record["route"], "api");
        assert_eq!(record["path"], "/v1/*");
        assert_eq!(record["method"], "POST");
        assert_eq!(record["actor"], "key:ci");
        assert_eq!(record["outcome"], "forwarded");
        assert_eq!(record["status"], 200);
        assert_eq!(record["bytes_in"], "planted-body".len());
        assert_eq!(record["upstream"], "backend");
        assert_eq!(record["upstream_attempts"], 1);
        assert_eq!(record["client"], "127.0.0.1");
        assert_eq!(record["listener"], "http");
        assert!(record["millis"].as_f64() >= record["upstream_millis"].as_f64());
        assert_eq!(record["trace_id"].as_str().unwrap().len(), 32);
    }
    assert_eq!(access[0]["upstream_reused"], false);
    assert_eq!(access[1]["upstream_reused"], true);
    let all = gateway.output();
    assert!(!all.contains("planted"), "{all}");
    assert!(of(&log, "audit", "refused").is_empty());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_written_down_as_forwarded() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Endless {
        content_type: "application/json".to_owned(),
    });
    let policy = Policy::new().upstream("response_timeout = \"300ms\"");
    let mut gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let mut connection = Connection::open(gateway.address()).await;
    let request = Request::get("/v1/half").key(API_KEY);
    connection.send(&request.bytes(gateway.address())).await;
    assert!(connection.read_to_end().await.starts_with(b"HTTP/1.1 200"));
    let log = at_the_end(&mut gateway).await;
    let access = of(&log, "access", "request");
    assert_eq!(access.len(), 1, "{access:#?}");
    for (field, value) in [
        ("outcome", "cut"),
        ("reason", "upstream_timeout"),
        ("level", "WARN"),
        ("route", "api"),
        ("actor", "key:ci"),
    ] {
        assert_eq!(access[0][field], value, "{access:#?}");
    }
    assert_eq!(access[0]["status"], 200);
}

#[tokio::test]
async fn every_outcome_has_its_record() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let delivery = Delivery::fresh();
    let signed = delivery.signed("/webhook/gitea", orket_tests::gateway::WEBHOOK_SECRET);
    let mut expected = Vec::new();
    for (request, outcome) in [
        (Request::get("/health"), "health"),
        (signed.clone(), "forwarded"),
        (signed, "duplicate"),
        (Request::get("/v1/a"), "api_key_missing"),
    ] {
        let answer = request.send(gateway.address()).await;
        expected.push((orket_tests::refusal::assert_request_id(&answer), outcome));
    }
    // Half a head and then nothing is no request and has no record.
    let mut connection = Connection::open(gateway.address()).await;
    connection.send(b"GET /v1/a HTTP/1.1\r\n").await;
    drop(connection);
    let log = at_the_end(&mut gateway).await;
    let access = of(&log, "access", "request");
    assert_eq!(access.len(), expected.len(), "{access:#?}");
    for (id, outcome) in expected {
        let found: Vec<_> = access.iter().filter(|r| r["request_id"] == id).collect();
        assert_eq!(found.len(), 1, "{outcome}");
        assert_eq!(found[0]["outcome"], outcome);
    }
}

#[tokio::test]
async fn both_logs_can_have_a_file_of_their_own_that_may_be_moved_away() {
    let upstream = Upstream::tcp().await;
    let builder = Gateway::before(upstream.address()).standard(&Policy::new());
    let (access, audit) = (builder.dir().join("access"), builder.dir().join("audit"));
    let mut gateway = builder
        .env("ORKET_LOG_ACCESS", access.to_str().unwrap())
        .env("ORKET_LOG_AUDIT", audit.to_str().unwrap())
        .start()
        .await;
    Request::get("/v1/a").send(gateway.address()).await;
    let record = record_in(&access, |r| r["outcome"] == "api_key_missing").await;
    let refusal = record_in(&audit, |r| r["event"] == "refused").await;
    assert_eq!(record["request_id"], refusal["request_id"]);
    record_in(&audit, |r| r["event"] == "posture").await;

    let moved = gateway.dir().join("access.1");
    std::fs::rename(&access, &moved).unwrap();
    eventually("the file is made anew", DEADLINE, || async {
        Request::get("/health").send(gateway.address()).await;
        access.is_file()
    })
    .await;
    let log = at_the_end(&mut gateway).await;
    assert!(
        log.iter()
            .all(|r| r["target"] != "access" && r["target"] != "audit"),
        "{log:#?}"
    );
    record_in(&audit, |r| r["event"] == "stopped").await;
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_or_is_misspelt_is_an_error_at_the_start() {
    let upstream = Upstream::tcp().await;
    for (name, value, said) in [
        (
            "ORKET_LOG_ACCESS",
            "/nowhere/at/all",
            "/nowhere/at/all cannot be opened",
        ),
        ("ORKET_LOG_AUDIT", "off", "ORKET_LOG_AUDIT is `stderr`"),
        (
            "ORKET_LOG_FORMAT",
            "xml",
            "ORKET_LOG_FORMAT is `json` or `text`",
        ),
    ] {
        let gateway = Gateway::before(upstream.address()).env(name, value);
        let ended = gateway.refused().await;
        assert!(ended.stderr.contains(said), "{}", ended.output());
    }
}

#[tokio::test]
async fn for_people_a_record_is_a_line_of_words() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::before(upstream.address())
        .standard(&Policy::new())
        .env("ORKET_LOG_FORMAT", "text")
        .start()
        .await;
    Request::get("/v1/a").send(gateway.address()).await;
    gateway.program().terminate().await;
    let text = gateway.program().stderr();
    let line = text
        .lines()
        .find(|l| l.contains("access: request"))
        .unwrap();
    assert!(
        line.contains(" route=api ") && line.contains(" outcome=api_key_missing "),
        "{line}"
    );
}
