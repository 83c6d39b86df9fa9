//! A key that opens nothing: one answer outside, the true reason inside; and what is told of keys that do.

use orket_gateway::issued_key;
use orket_tests::gateway::{API_KEY, run};
use orket_tests::{DEADLINE, Gateway, Request, Upstream, assert_refused, eventually};

use super::{control, metrics, two_keys};

/// The records of refusals in the log, as `(reason, key)`.
fn refusals(gateway: &Gateway) -> Vec<(String, Option<String>)> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    gateway
        .output()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|record| record["event"] == "refused")
        .map(|record| (text(&record["reason"]).unwrap(), text(&record["key"])))
        .collect()
}

#[tokio::test]
async fn a_mistyped_key_is_told_apart_inside_and_not_outside() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let (known, unheard_of) = (issued_key::make("ci"), issued_key::make("nobody"));
    let cut = |key: &str| key[..key.len() - 1].to_owned();
    let mut bodies = Vec::new();
    let presented = [
        (cut(&known), "api_key_mistyped", Some("ci")),
        (cut(&unheard_of), "api_key_mistyped", None),
        (known.clone(), "api_key_unknown", Some("ci")),
        (unheard_of, "api_key_unknown", None),
        ("of-another-form".to_owned(), "api_key_unknown", None),
    ];
    for (key, _, _) in &presented {
        let answer = Request::get("/v1/version")
            .key(key)
            .send(gateway.address())
            .await;
        assert_refused(&answer, 403, "Could not validate credentials");
        let mut body: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        body["request_id"] = "one".into();
        bodies.push(body);
    }
    assert!(bodies.windows(2).all(|two| two[0] == two[1]), "{bodies:#?}");
    upstream.untouched("keys that open nothing");
    eventually("all are in the log", DEADLINE, || async {
        refusals(&gateway).len() == presented.len()
    })
    .await;
    // A record is written once the answer is out, so those of two connections may change places.
    let mut expected: Vec<_> = presented
        .iter()
        .map(|(_, reason, id)| ((*reason).to_owned(), id.map(str::to_owned)))
        .collect();
    let mut found = refusals(&gateway);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    for (key, _, _) in &presented {
        assert!(
            !gateway.output().contains(key.as_str()),
            "{key} is in the log"
        );
        assert!(!gateway.output().contains(&key[key.len() - 12..]));
    }
    assert!(
        metrics(&gateway)
            .await
            .contains("outcome=\"api_key_mistyped\",actor=\"none\",status=\"403\"} 2")
    );
    let header = format!("X-API-Key: {}", cut(&known));
    let explained = run(
        gateway.dir(),
        &[
            "explain",
            "--config",
            "gateway.toml",
            "--path",
            "/v1/version",
            "--header",
            &header,
        ],
        &[],
    )
    .await;
    assert!(
        explained.stdout.contains("api_key_mistyped"),
        "{}",
        explained.output()
    );
}

#[tokio::test]
async fn uses_of_a_key_are_counted_over_reloads() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let page = metrics(&gateway).await;
    assert!(
        page.contains("orket_gateway_key_uses_total{key=\"ci\"} 0"),
        "{page}"
    );
    assert!(
        !page.contains("orket_gateway_key_last_used_timestamp_seconds{"),
        "{page}"
    );
    let before = jiff::Timestamp::now().as_second();
    for _ in 0..2 {
        assert_eq!(super::status(&gateway, API_KEY).await, 200);
        super::reload(&gateway, |text| text + "\n# another\n").await;
    }
    let page = metrics(&gateway).await;
    assert!(
        page.contains("orket_gateway_key_uses_total{key=\"ci\"} 2"),
        "{page}"
    );
    assert!(
        page.contains("orket_gateway_key_uses_total{key=\"other\"} 0"),
        "{page}"
    );
    let last: i64 = page
        .lines()
        .find_map(|l| l.strip_prefix("orket_gateway_key_last_used_timestamp_seconds{key=\"ci\"} "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(last >= before, "{last} {before}");
    super::reload(&gateway, |text| {
        text.replace(
            "id = \"other\"\n",
            "id = \"other\"\nexpires = 2100-01-01T00:00:00Z\n",
        )
    })
    .await;
    let page = metrics(&gateway).await;
    assert!(
        page.contains("orket_gateway_key_expires_timestamp_seconds{key=\"other\"} 4102444800"),
        "{page}"
    );
    assert!(
        !page.contains("expires_timestamp_seconds{key=\"ci\"}"),
        "{page}"
    );
    let keys = control(&gateway, &Request::get("/keys")).await.text();
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    assert_eq!(keys[0]["id"], "ci");
    assert_eq!(keys[0]["uses"], 2);
    assert_eq!(keys[0]["secrets"][0]["live"], true);
    assert_eq!(keys[1]["expires"], "2100-01-01T00:00:00Z");
}

#[tokio::test]
async fn an_expired_key_is_warned_of_and_says_so() {
    let upstream = Upstream::tcp().await;
    let digest = orket_tests::gitea::sha256(b"an old secret of the key other");
    let policy = two_keys().to_string().replace(
        "other = [",
        &format!("other = [{{ digest = \"sha256:{digest}\", expires = 2020-01-01T00:00:00Z }}, "),
    );
    let policy = policy.replace(
        "id = \"ci\"\n",
        "id = \"ci\"\nexpires = 2021-01-01T00:00:00Z\n",
    );
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&policy)
        .start()
        .await;
    let said = run(gateway.dir(), &["check", "gateway.toml"], &[]).await;
    assert!(said.status.success(), "{}", said.output());
    assert!(
        said.stdout
            .contains("the key `ci` is expired and opens nothing"),
        "{}",
        said.stdout
    );
    for key in [API_KEY, "an old secret of the key other"] {
        let answer = Request::get("/v1/version")
            .key(key)
            .send(gateway.address())
            .await;
        assert_refused(&answer, 403, "Could not validate credentials");
    }
    let expected = [
        ("api_key_expired".to_owned(), Some("ci".to_owned())),
        ("api_key_expired".to_owned(), Some("other".to_owned())),
    ];
    eventually("both are in the log", DEADLINE, || async {
        refusals(&gateway) == expected
    })
    .await;
}
