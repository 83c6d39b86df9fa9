//! The record at the start, and one warning for each insecure switch.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::refusal::assert_request_id;
use orket_tests::{DEADLINE, Delivery, Gateway, Policy, Request, Upstream, eventually};

/// The lines of the log that state the posture.
fn records(gateway: &Gateway) -> Vec<String> {
    gateway
        .output()
        .lines()
        .filter(|line| line.contains("\"event\":\"posture\""))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn one_record_states_the_posture_of_the_built_in_policy() {
    let upstream = Upstream::tcp().await;
    let env = [
        ("ORKET_API_KEY", API_KEY),
        ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("ORKET_ENV", "production"),
    ];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    eventually("the posture is stated", DEADLINE, || async {
        !records(&gateway).is_empty()
    })
    .await;
    let records = records(&gateway);
    assert_eq!(records.len(), 1, "{records:?}");
    assert!(records[0].contains("production"), "{records:?}");
    assert!(!records[0].contains(API_KEY) && !records[0].contains(WEBHOOK_SECRET));
}

#[tokio::test]
async fn one_record_states_the_posture_of_a_policy_file() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    eventually("the posture is stated", DEADLINE, || async {
        !records(&gateway).is_empty()
    })
    .await;
    assert_eq!(records(&gateway).len(), 1);
    assert!(!gateway.output().contains(WEBHOOK_SECRET));
}

/// The warnings about the posture that name one of `words`.
fn warnings(gateway: &Gateway, words: &[&str]) -> Vec<String> {
    let output = gateway.output();
    output
        .lines()
        .filter(|line| line.contains("\"level\":\"WARN\""))
        .filter(|line| words.iter().any(|word| line.to_lowercase().contains(word)))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn one_warning_stands_for_each_insecure_switch() {
    const BYPASS: &[&str] = &["insecure"];
    const TEST_WEBHOOK: &[&str] = &["test webhook"];
    let upstream = Upstream::tcp().await;
    let env = [
        ("ORKET_ALLOW_INSECURE_NO_API_KEY", "true"),
        ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true"),
    ];
    let mut gateway = Gateway::builtin(upstream.address(), &env).await;
    gateway.program().terminate().await;
    for about in [BYPASS, TEST_WEBHOOK] {
        let found = warnings(&gateway, about);
        assert_eq!(found.len(), 1, "{about:?}: {found:#?}");
    }
    let mut gateway = Gateway::with_key_and_secret(upstream.address()).await;
    gateway.program().terminate().await;
    for about in [BYPASS, TEST_WEBHOOK] {
        assert_eq!(warnings(&gateway, about), Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_request_id_of_a_refusal_leads_to_its_true_reason() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let path = "/webhook/gitea";
    let mut expected = Vec::new();
    for (request, reason) in [
        (Request::get("/v1/a"), "api_key_missing"),
        (Request::get("/v1/a").key("wrong"), "api_key_unknown"),
        (Delivery::fresh().unsigned(path), "signature_missing"),
        (Delivery::fresh().forged(path), "signature_wrong"),
        (
            Delivery::fresh()
                .unsigned(path)
                .header("X-Gitea-Signature", "short"),
            "signature_malformed",
        ),
        (Request::get("/nowhere"), "route_not_found"),
        (Request::get(path), "method_not_allowed"),
        (Request::get("/v1/../a"), "path_ambiguous"),
        (
            Request::get("/v1/a").key("a").key("b"),
            "security_header_duplicated",
        ),
    ] {
        let answer = request.send(gateway.address()).await;
        assert!(
            !answer.text().contains(reason) || answer.status >= 404,
            "{}",
            answer.text()
        );
        expected.push((assert_request_id(&answer), reason));
    }
    let admin = gateway.admin().clone();
    eventually("every refusal is counted", DEADLINE, || async {
        let metrics = Request::get("/metrics").send(&admin).await.text();
        expected.iter().all(|(_, reason)| metrics.contains(reason))
    })
    .await;
    gateway.program().terminate().await;
    let log = gateway.output();
    for (id, reason) in expected {
        let line = log.lines().find(|line| line.contains(&id));
        let line = line.unwrap_or_else(|| panic!("{id} ({reason}) is not in the log: {log}"));
        assert!(line.contains(reason), "{reason}: {line}");
    }
}

#[tokio::test]
async fn whatever_is_sent_every_line_of_the_log_is_one_json_object() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address().clone();
    for line in [
        b"GET /v1/\x1b[31mred HTTP/1.1".as_slice(),
        b"GET /v1/\"quoted\" HTTP/1.1",
        b"GET /v1/a%0a{\"event\":\"posture\"} HTTP/1.1",
        b"G\xff\xfeT / HTTP/1.1",
        b"\x00\x01\x02",
    ] {
        let host = format!("\r\nHost: {}\r\nUser-Agent: a\tb\r\n\r\n", address.host());
        let bytes = [line, host.as_bytes()].concat();
        orket_tests::wire::exchange(&address, &bytes).await;
    }
    gateway.program().terminate().await;
    for line in gateway.program().stderr().lines() {
        let record: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(record.is_object(), "{line}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_a_clear_error() {
    let upstream = Upstream::tcp().await;
    let taken = upstream.address().to_string();
    let gateway = Gateway::before(upstream.address()).env("ORKET_GATEWAY_LISTEN", &taken);
    let ended = gateway.refused().await;
    assert!(ended.output().contains(&taken), "{}", ended.output());
    assert!(!ended.output().contains("panicked"), "{}", ended.output());
}
