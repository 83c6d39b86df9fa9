//! Rules in shadow mode: judged, logged, counted, and nothing is refused.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET, check, run};
use orket_tests::policy::SECRET_FILE;
use orket_tests::{
    Answer, DEADLINE, Delivery, Gateway, Policy, Request, Upstream, assert_refused, eventually,
};
use tempfile::TempDir;

const LIMIT: &str = "[[rate_limits]]\nid = \"tight\"\nby = \"key\"\nrate = \"1/h\"\n";

fn shadowed_limit() -> Policy {
    Policy::new()
        .api("rate_limits = [\"tight\", \"wide\"]")
        .rest(&format!("{LIMIT}mode = \"shadow\""))
        .rest("[[rate_limits]]\nid = \"wide\"\nby = \"key\"\nrate = \"600/min\"")
}

async fn ask(gateway: &Gateway) -> Answer {
    Request::get("/v1/a")
        .key(API_KEY)
        .send(gateway.address())
        .await
}

async fn metrics(gateway: &Gateway) -> String {
    Request::get("/metrics").send(gateway.admin()).await.text()
}

/// The audit records of shadow denials so far.
fn records(gateway: &Gateway) -> Vec<serde_json::Value> {
    gateway
        .output()
        .lines()
        .filter(|line| line.contains("\"event\":\"shadow_denied\""))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// A field of a record, wherever the log's form puts it.
fn field<'a>(record: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    record.get(name).unwrap_or(&record["fields"][name])
}

#[tokio::test]
async fn a_limit_in_shadow_mode_refuses_nothing_and_tells_what_it_would() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &shadowed_limit()).await;
    for _ in 0..4 {
        let answer = ask(&gateway).await;
        assert_eq!(answer.status, 200);
        for header in ["ratelimit", "ratelimit-policy"] {
            let value = answer.header(header).expect("the other limit is announced");
            assert!(
                value.contains("wide") && !value.contains("tight"),
                "{header}: {value}"
            );
        }
    }
    assert_eq!(upstream.count(), 4);
    eventually("three records", DEADLINE, || async {
        records(&gateway).len() == 3
    })
    .await;
    for record in records(&gateway) {
        assert_eq!(field(&record, "event"), "shadow_denied", "{record}");
        assert_eq!(field(&record, "reason"), "rate_limit_exceeded", "{record}");
        assert_eq!(field(&record, "limit"), "tight", "{record}");
        assert_eq!(field(&record, "route"), "api", "{record}");
        assert_eq!(field(&record, "would_answer"), 429, "{record}");
        assert!(
            field(&record, "retry_after").as_u64() > Some(3000),
            "{record}"
        );
        assert!(field(&record, "request_id").is_string(), "{record}");
    }
    let page = metrics(&gateway).await;
    let line = page
        .lines()
        .find(|line| line.starts_with("orket_gateway_shadow_denials_total{"))
        .unwrap_or_else(|| panic!("{page}"));
    for part in [
        "route=\"api\"",
        "reason=\"rate_limit_exceeded\"",
        "limit=\"tight\"",
    ] {
        assert!(line.contains(part), "{line}");
    }
    assert!(line.ends_with(" 3"), "{line}");
}

#[tokio::test]
async fn address_rules_in_shadow_mode_refuse_nothing() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().gitea("addresses = { deny = [\"127.0.0.0/8\"], mode = \"shadow\" }");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let delivery = Delivery::fresh();
    let answer = delivery
        .signed("/webhook/gitea", WEBHOOK_SECRET)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200);
    // What else is wrong is refused as ever.
    let answer = Delivery::fresh()
        .forged("/webhook/gitea")
        .send(gateway.address())
        .await;
    assert_refused(&answer, 401, "Invalid signature");
    eventually("two records", DEADLINE, || async {
        records(&gateway).len() == 2
    })
    .await;
    for record in records(&gateway) {
        assert_eq!(field(&record, "reason"), "address_denied", "{record}");
        assert_eq!(field(&record, "would_answer"), 403, "{record}");
    }
    assert!(
        metrics(&gateway)
            .await
            .contains("reason=\"address_denied\"")
    );
}

#[tokio::test]
async fn out_of_shadow_mode_a_limit_begins_with_what_was_spent_in_it() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &shadowed_limit()).await;
    assert_eq!(ask(&gateway).await.status, 200);
    let file = gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("mode = \"shadow\"", "")).unwrap();
    let ended = run(gateway.dir(), &["reload", "--config", "gateway.toml"], &[]).await;
    assert!(ended.status.success(), "{}", ended.output());
    assert_refused(&ask(&gateway).await, 429, "Rate limit exceeded");
}

#[tokio::test]
async fn check_warns_of_shadow_mode_and_knows_where_it_may_stand() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(SECRET_FILE.0), SECRET_FILE.1).unwrap();
    let said = check(dir.path(), &shadowed_limit().to_string()).await;
    assert!(said.status.success(), "{}", said.output());
    assert!(
        said.output()
            .contains("warning: the limit `tight` only watches: in shadow mode nothing is refused"),
        "{}",
        said.output()
    );
    let only = "only a [[rate_limits]] entry and a route's `addresses` have a mode";
    for (policy, word) in [
        (Policy::new().api("mode = \"shadow\""), only),
        (Policy::new().limits("mode = \"shadow\""), only),
        (Policy::new().upstream("mode = \"shadow\""), only),
        (Policy::new().rest("[[keys]]\nid = \"x\"\nsecret = \"ci\"\nscopes = [\"*\"]\nmode = \"shadow\""), only),
        (
            Policy::new().rest("[[routes]]\nid = \"x\"\npath = \"/x\"\nmethods = [\"GET\"]\nauth = { kind = \"none\", mode = \"shadow\" }\nupstream = \"backend\""),
            only,
        ),
        (Policy::new().rest(&format!("{LIMIT}mode = \"shade\"")), "`shade` is not a mode"),
    ] {
        let said = check(dir.path(), &policy.to_string()).await;
        assert!(!said.status.success(), "{}", said.output());
        assert!(said.output().contains(word), "{}", said.output());
    }
}
