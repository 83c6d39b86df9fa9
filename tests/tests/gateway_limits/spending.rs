//! Only what is proven and new spends a budget.

use std::sync::Arc;

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{Delivery, Gateway, Policy, Reaction, Request, Upstream, assert_refused};

const PATH: &str = "/webhook/gitea";
const KEY: (&str, &str) = ("ORKET_API_KEY", API_KEY);
const SECRET: (&str, &str) = ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET);
const NO_FAILURE_LIMIT: (&str, &str) = ("ORKET_FAILURE_LIMIT", "0");

async fn deliver(gateway: &Gateway, delivery: &Delivery) -> orket_tests::Answer {
    delivery
        .signed(PATH, WEBHOOK_SECRET)
        .send(gateway.address())
        .await
}

#[tokio::test]
async fn a_forged_delivery_spends_nothing_of_the_source() {
    let upstream = Upstream::tcp().await;
    let env = [SECRET, NO_FAILURE_LIMIT, ("ORKET_RATE_LIMIT", "3")];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    for _ in 0..40 {
        let delivery = Delivery::fresh();
        assert_eq!(
            delivery.forged(PATH).send(gateway.address()).await.status,
            401
        );
        assert_eq!(
            delivery.unsigned(PATH).send(gateway.address()).await.status,
            401
        );
    }
    for _ in 0..3 {
        assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, 200);
    }
    let answer = deliver(&gateway, &Delivery::fresh()).await;
    assert_refused(&answer, 429, "Webhook rate limit exceeded");
}

#[tokio::test]
async fn a_repetition_costs_nothing() {
    let upstream = Upstream::tcp().await;
    let env = [SECRET, ("ORKET_RATE_LIMIT", "2")];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    let first = Delivery::fresh();
    assert_eq!(deliver(&gateway, &first).await.status, 200);
    for _ in 0..20 {
        assert_eq!(
            deliver(&gateway, &first).await.json()["status"],
            "duplicate"
        );
    }
    assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, 200);
    let answer = deliver(&gateway, &Delivery::fresh()).await;
    assert_refused(&answer, 429, "Webhook rate limit exceeded");
    // Over its budget, what is done is still known.
    assert_eq!(
        deliver(&gateway, &first).await.json()["status"],
        "duplicate"
    );
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_delivery_refused_for_the_budget_is_not_remembered_as_done() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .gitea("rate_limits = [\"source\"]")
        .rest("[[rate_limits]]\nid = \"source\"\nby = \"source\"\nrate = \"60/min\"\nburst = 1");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let delivery = Delivery::fresh();
    assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, 200);
    assert_eq!(deliver(&gateway, &delivery).await.status, 429);
    orket_tests::eventually("the delivery is taken", orket_tests::DEADLINE, || async {
        deliver(&gateway, &delivery).await.status == 200
    })
    .await;
    assert_eq!(
        upstream.last().body,
        delivery.body,
        "it reached the upstream"
    );
}

#[tokio::test]
async fn what_one_limit_refuses_spends_nothing_of_another() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .api("rate_limits = [\"key\", \"route\"]")
        .rest("[[rate_limits]]\nid = \"key\"\nby = \"key\"\nrate = \"3/h\"\n[[rate_limits]]\nid = \"route\"\nby = \"route\"\nrate = \"1/h\"\n[[routes]]\nid = \"other\"\npath = \"/other\"\nmethods = [\"GET\"]\nauth = { kind = \"api_key\" }\nrate_limits = [\"key\"]\nupstream = \"backend\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let ask = async |path: &str| {
        let request = Request::get(path).key(API_KEY);
        request.send(gateway.address()).await.status
    };
    assert_eq!(ask("/v1/a").await, 200);
    for _ in 0..10 {
        assert_eq!(ask("/v1/a").await, 429);
    }
    // One of three is spent.
    assert_eq!(ask("/other").await, 200);
    assert_eq!(ask("/other").await, 200);
    assert_eq!(ask("/other").await, 429);
}

#[tokio::test]
async fn a_wrong_key_spends_nothing_of_a_key() {
    let upstream = Upstream::tcp().await;
    let env = [KEY, NO_FAILURE_LIMIT, ("ORKET_API_RATE_LIMIT", "3")];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    for _ in 0..40 {
        assert_eq!(
            Request::get("/v1/a")
                .key("wrong")
                .send(gateway.address())
                .await
                .status,
            403
        );
    }
    for _ in 0..3 {
        assert_eq!(
            Request::get("/v1/a")
                .key(API_KEY)
                .send(gateway.address())
                .await
                .status,
            200
        );
    }
    let answer = Request::get("/v1/a")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 429, "Rate limit exceeded");
}

#[tokio::test]
async fn api_requests_and_deliveries_have_budgets_of_their_own() {
    let upstream = Upstream::tcp().await;
    let env = [
        KEY,
        SECRET,
        ("ORKET_API_RATE_LIMIT", "2"),
        ("ORKET_RATE_LIMIT", "2"),
    ];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    let api = async || {
        Request::get("/v1/a")
            .key(API_KEY)
            .send(gateway.address())
            .await
            .status
    };
    assert_eq!([api().await, api().await, api().await], [200, 200, 429]);
    for status in [200, 200, 429] {
        assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, status);
    }
}

#[tokio::test]
async fn each_key_has_a_budget_of_its_own() {
    let upstream = Upstream::tcp().await;
    let other = "ork-other-3mZ8vQ1xTb6LnW9sKc4RpJ7y";
    let digest = orket_tests::gitea::sha256(other.as_bytes());
    let policy = Policy::new()
        .secrets(&format!("other = [{{ digest = \"sha256:{digest}\" }}]"))
        .api("rate_limits = [\"per-key\"]")
        .rest("[[rate_limits]]\nid = \"per-key\"\nby = \"key\"\nrate = \"2/min\"")
        .rest("[[keys]]\nid = \"other\"\nsecret = \"other\"\nscopes = [\"*\"]");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    for key in [API_KEY, other] {
        for status in [200, 200, 429, 429] {
            let answer = Request::get("/v1/a").key(key).send(gateway.address()).await;
            assert_eq!(answer.status, status);
        }
    }
    let actors: Vec<String> = upstream
        .requests()
        .iter()
        .map(|r| r.header("x-orket-actor").unwrap().to_owned())
        .collect();
    assert_eq!(actors, ["key:ci", "key:ci", "key:other", "key:other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_holds_exactly_across_all_workers() {
    let upstream = Upstream::tcp().await;
    let env = [
        KEY,
        ("ORKET_API_RATE_LIMIT", "10"),
        ("ORKET_GATEWAY_THREADS", "4"),
    ];
    let gateway = Arc::new(Gateway::builtin(upstream.address(), &env).await);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let gateway = Arc::clone(&gateway);
        clients.spawn(async move {
            Request::get("/v1/a")
                .key(API_KEY)
                .send(gateway.address())
                .await
                .status
        });
    }
    let statuses = clients.join_all().await;
    // 10 at once and one more every 6 s: the burst may take that long on a busy machine.
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert!(
        (10..=12).contains(&passed),
        "{passed} passed of {statuses:?}"
    );
    assert_eq!(upstream.count(), passed);
}

#[tokio::test]
async fn limits_by_address_and_by_route_hold() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .rest("[[rate_limits]]\nid = \"address\"\nby = \"address\"\nrate = \"2/min\"")
        .rest("[[rate_limits]]\nid = \"route\"\nby = \"route\"\nrate = \"3/min\"")
        .rest("[[routes]]\nid = \"open\"\npath = \"/open\"\nmethods = [\"GET\"]\nauth = { kind = \"none\" }\nrate_limits = [\"address\", \"route\"]\nupstream = \"backend\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let from = async |last: u8| {
        let client = std::net::Ipv4Addr::new(127, 0, 0, last);
        Request::get("/open")
            .send_from(client, gateway.address())
            .await
    };
    assert_eq!([from(1).await.status, from(1).await.status], [200, 200]);
    assert_refused(&from(1).await, 429, "Rate limit exceeded");
    assert_eq!(
        from(2).await.status,
        200,
        "another address has a budget of its own"
    );
    assert_refused(&from(3).await, 429, "Rate limit exceeded");
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn what_the_backend_refuses_was_spent() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::json(500, "{}"));
    let env = [KEY, ("ORKET_API_RATE_LIMIT", "2")];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    for status in [500, 500, 429] {
        let answer = Request::get("/v1/a")
            .key(API_KEY)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, status);
    }
}
