//! What the answers say about a limit: `RateLimit-Policy`, `RateLimit` and `Retry-After`.

use std::time::Duration;

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::refusal::retry_after;
use orket_tests::{Answer, Delivery, Gateway, Policy, Request, Upstream, assert_refused};
use sfv::{ListEntry, Parser};

/// What a limit's header lists, parsed as a list of structured fields (RFC 9651): each item's name, which is a string, and its
/// parameters, which are integers.
fn items(answer: &Answer, header: &str) -> Vec<(String, Vec<(String, u64)>)> {
    let value = answer
        .header(header)
        .unwrap_or_else(|| panic!("{} without {header}: {:?}", answer.status, answer.headers));
    let list = Parser::parse_list(value.as_bytes())
        .unwrap_or_else(|e| panic!("{header} is no list of structured fields: {e}: {value}"));
    list.into_iter()
        .map(|entry| {
            let ListEntry::Item(item) = entry else {
                panic!("{header} lists no inner lists: {value}")
            };
            let name = item.bare_item.as_str();
            let name = name.unwrap_or_else(|| panic!("{header} names its limit: {value}"));
            let parameters = item.params.iter().map(|(key, number)| {
                let number = number.as_int().and_then(|n| u64::try_from(n).ok());
                let number = number.unwrap_or_else(|| panic!("{header}: {value}"));
                (key.clone(), number)
            });
            (name.to_owned(), parameters.collect())
        })
        .collect()
}

/// The one item of a limit's header.
fn item(answer: &Answer, header: &str) -> (String, Vec<(String, u64)>) {
    let mut all = items(answer, header);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn parameter(parameters: &[(String, u64)], key: &str) -> u64 {
    parameters
        .iter()
        .find(|(k, _)| k == key)
        .unwrap_or_else(|| panic!("no {key} in {parameters:?}"))
        .1
}

fn policy(rate: &str, burst: u64) -> Policy {
    Policy::new()
        .api("rate_limits = [\"per-key\"]")
        .rest(&format!(
            "[[rate_limits]]\nid = \"per-key\"\nby = \"key\"\nrate = \"{rate}\"\nburst = {burst}"
        ))
}

#[tokio::test]
async fn an_admitted_request_is_told_what_remains() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &policy("600/min", 5)).await;
    let mut remaining = Vec::new();
    for _ in 0..3 {
        let answer = Request::get("/v1/a")
            .key(API_KEY)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200);
        let (name, quota) = item(&answer, "ratelimit-policy");
        assert_eq!(name, "per-key");
        assert_eq!((parameter(&quota, "q"), parameter(&quota, "w")), (600, 60));
        let (name, state) = item(&answer, "ratelimit");
        assert_eq!(name, "per-key");
        remaining.push(parameter(&state, "r"));
    }
    assert!(
        remaining.iter().all(|r| *r <= 5),
        "more remains than the burst: {remaining:?}"
    );
    assert!(
        remaining[0] <= 4,
        "the first request was spent: {remaining:?}"
    );
}

/// draft-ietf-httpapi-ratelimit-headers-10: one item of each limit in both fields, under the same name, with `q` and `w` in the
/// policy, `r` and `t` in the state, and no parameter that the draft does not know.
#[tokio::test]
async fn every_limit_of_a_route_is_announced_in_one_list() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .api("rate_limits = [\"per-key\", \"of.the_route\"]")
        .rest("[[rate_limits]]\nid = \"per-key\"\nby = \"key\"\nrate = \"600/min\"")
        .rest("[[rate_limits]]\nid = \"of.the_route\"\nby = \"route\"\nrate = \"2/h\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let request = Request::get("/v1/a").key(API_KEY);
    let answer = request.send(gateway.address()).await;
    for (header, keys) in [("ratelimit-policy", ["q", "w"]), ("ratelimit", ["r", "t"])] {
        let all = items(&answer, header);
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["per-key", "of.the_route"], "{header}");
        for (_, parameters) in &all {
            let found: Vec<&str> = parameters.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(found, keys, "{header}");
        }
    }
}

#[tokio::test]
async fn a_refused_request_is_told_that_nothing_remains_and_how_long() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &policy("6/min", 1)).await;
    assert_eq!(
        Request::get("/v1/a")
            .key(API_KEY)
            .send(gateway.address())
            .await
            .status,
        200
    );
    let answer = Request::get("/v1/a")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 429, "Rate limit exceeded");
    let (_, state) = item(&answer, "ratelimit");
    assert_eq!(parameter(&state, "r"), 0);
    let seconds = retry_after(&answer);
    assert!((1..=10).contains(&seconds), "one every 10 s: {seconds}");
    assert_eq!(parameter(&state, "t"), seconds, "both say the same");
}

#[tokio::test]
async fn who_waits_as_long_as_told_is_admitted() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &policy("60/min", 1)).await;
    let request = Request::get("/v1/a").key(API_KEY);
    assert_eq!(request.send(gateway.address()).await.status, 200);
    let refused = request.send(gateway.address()).await;
    assert_refused(&refused, 429, "Rate limit exceeded");
    // Not a guess but what the gateway said to wait.
    tokio::time::sleep(Duration::from_secs(retry_after(&refused))).await;
    assert_eq!(request.send(gateway.address()).await.status, 200);
}

#[tokio::test]
async fn the_budget_of_a_source_is_announced_too() {
    let upstream = Upstream::tcp().await;
    let env = [
        ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("ORKET_RATE_LIMIT", "1"),
    ];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    let signed = || Delivery::fresh().signed("/webhook/gitea", WEBHOOK_SECRET);
    assert_eq!(signed().send(gateway.address()).await.status, 200);
    let answer = signed().send(gateway.address()).await;
    assert_refused(&answer, 429, "Webhook rate limit exceeded");
    let (_, quota) = item(&answer, "ratelimit-policy");
    assert_eq!((parameter(&quota, "q"), parameter(&quota, "w")), (1, 60));
    assert!((1..=60).contains(&retry_after(&answer)));
}

#[tokio::test]
async fn who_proved_nothing_is_told_nothing_about_anyones_budget() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &policy("600/min", 5)).await;
    let answer = Request::get("/v1/a")
        .key("wrong")
        .send(gateway.address())
        .await;
    assert_refused(&answer, 403, "Could not validate credentials");
    for header in ["ratelimit", "ratelimit-policy"] {
        let value = answer.header(header).unwrap_or_default();
        assert!(!value.contains("per-key"), "{header}: {value}");
    }
}
