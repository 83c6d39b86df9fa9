//! Rules about the client's address.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{Delivery, Gateway, Policy, Request, Upstream, assert_refused};

async fn refused(rule: &str) {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().gitea(rule).api(rule);
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    for request in [
        Delivery::fresh().signed("/webhook/gitea", WEBHOOK_SECRET),
        Delivery::fresh().forged("/webhook/gitea"),
        Request::get("/v1/version").key(API_KEY),
        Request::get("/v1/version"),
        Request::get("/v1/version")
            .key(API_KEY)
            .header("X-Forwarded-For", "192.0.2.10"),
        Request::get("/v1/version")
            .key(API_KEY)
            .header("X-Real-IP", "192.0.2.10"),
    ] {
        assert_refused(
            &request.send(gateway.address()).await,
            403,
            "Address not allowed",
        );
    }
    upstream.untouched(rule);
}

async fn admitted(rule: &str) {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new().gitea(rule).api(rule);
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "{rule}: {}", answer.text());
    let delivery = Delivery::fresh().signed("/webhook/gitea", WEBHOOK_SECRET);
    assert_eq!(delivery.send(gateway.address()).await.status, 200, "{rule}");
    let answer = Request::get("/v1/version").send(gateway.address()).await;
    assert_refused(&answer, 403, "Could not validate credentials");
}

#[tokio::test]
async fn a_denied_address_is_refused() {
    refused(r#"addresses = { deny = ["127.0.0.1"] }"#).await;
    refused(r#"addresses = { deny = ["192.0.2.0/24", "127.0.0.0/8"] }"#).await;
}

#[tokio::test]
async fn an_address_that_is_not_on_the_list_is_refused() {
    refused(r#"addresses = { allow = ["192.0.2.0/24", "2001:db8::/32"] }"#).await;
}

#[tokio::test]
async fn denied_beats_allowed() {
    refused(r#"addresses = { allow = ["127.0.0.0/8"], deny = ["127.0.0.1"] }"#).await;
}

#[tokio::test]
async fn a_listed_address_still_needs_its_proof() {
    admitted(r#"addresses = { allow = ["127.0.0.0/8"] }"#).await;
    admitted(r#"addresses = { deny = ["192.0.2.10"] }"#).await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_client_it_names_is_judged() {
    let upstream = Upstream::tcp().await;
    let rule = r#"addresses = { deny = ["192.0.2.10"] }"#;
    let policy = Policy::new()
        .api(rule)
        .rest("[client_address]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let named = |list: &str| {
        Request::get("/v1/version")
            .key(API_KEY)
            .header("X-Forwarded-For", list)
    };
    for (list, client) in [
        ("198.51.100.7", "198.51.100.7"),
        ("192.0.2.10, 198.51.100.7", "198.51.100.7"),
        ("192.0.2.10, 198.51.100.7, 10.1.2.3", "198.51.100.7"),
        ("2001:db8::1", "2001:db8::1"),
    ] {
        let answer = named(list).send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{list}: {}", answer.text());
        assert_eq!(
            upstream.last().header("x-forwarded-for"),
            Some(client),
            "{list}"
        );
    }
    for list in [
        "192.0.2.10",
        "198.51.100.7, 192.0.2.10",
        "192.0.2.10, 10.0.0.1",
        "::ffff:192.0.2.10",
    ] {
        let answer = named(list).send(gateway.address()).await;
        assert_refused(&answer, 403, "Address not allowed");
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_names_that_is_no_address_never_becomes_one() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .api(r#"addresses = { deny = ["192.0.2.10"] }"#)
        .rest("[client_address]\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let get = || Request::get("/v1/version").key(API_KEY);
    for request in [
        get(),
        get().line("X-Forwarded-For:"),
        get().header("X-Forwarded-For", "unknown"),
        get().header("X-Forwarded-For", "198.51.100.7, _hidden"),
        get().header("X-Forwarded-For", "198.51.100.7:4711"),
        get().header("X-Forwarded-For", ",,,"),
        get().header("X-Forwarded-For", "999.1.1.1"),
        get().header("X-Forwarded-For", "127.0.0.1, 127.0.0.2"),
    ] {
        let before = upstream.count();
        let answer = request.send(gateway.address()).await;
        assert!(
            matches!(answer.status, 200 | 400 | 403),
            "{}",
            answer.text()
        );
        if upstream.count() > before {
            let recorded = upstream.last();
            let client = recorded
                .header("x-forwarded-for")
                .expect("a client address");
            assert!(client.parse::<std::net::IpAddr>().is_ok(), "{client}");
        }
    }
    // Two lines are one list: the last entry is the one the proxy itself wrote.
    let two = get()
        .header("X-Forwarded-For", "198.51.100.7")
        .header("X-Forwarded-For", "192.0.2.10");
    assert_refused(
        &two.send(gateway.address()).await,
        403,
        "Address not allowed",
    );
}
