//! One short try while the sender waits: what it settles is answered, everything else is kept.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::gitea::sha256;
use orket_tests::{
    Delivery, Gateway, Policy, Reaction, Request, Upstream, assert_refused, eventually,
};
use serde_json::json;
use tempfile::TempDir;

use super::{
    PATH, deliver, emptied, files, keys, metric, nowhere, spool, spooled, spooling, waiting,
};

#[tokio::test]
async fn what_the_upstream_settles_is_answered_as_it_answered() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &spooling()).await;
    for (status, body) in [
        (200, r#"{"a":1}"#),
        (202, r#"{"status":"accepted"}"#),
        (400, r#"{"detail":"Invalid payload"}"#),
        (404, "{}"),
        (409, "{}"),
        (422, "{}"),
    ] {
        let Reaction::Answer {
            status,
            content_type,
            body,
            ..
        } = Reaction::json(status, body)
        else {
            unreachable!()
        };
        upstream.react(Reaction::Answer {
            status,
            content_type,
            body: body.clone(),
            headers: vec![
                ("X-Kept".into(), "yes".into()),
                ("Connection".into(), "X-Hop".into()),
                ("X-Hop".into(), "no".into()),
            ],
        });
        let delivery = Delivery::fresh();
        let answer = deliver(&gateway, &delivery).await;
        assert_eq!((answer.status, &answer.body), (status, &body));
        assert_eq!(answer.header("x-kept"), Some("yes"));
        assert_eq!(answer.header("x-hop"), None);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(
            answer.header("x-request-id"),
            upstream.last().header("x-request-id")
        );
        // Done is remembered; a refusal is not, so that a redelivery works.
        let before = upstream.count();
        let again = deliver(&gateway, &delivery).await;
        if status < 300 {
            assert_eq!(again.json(), json!({"status": "duplicate"}));
            assert_eq!(upstream.count(), before);
        } else {
            assert_eq!(again.status, status);
            assert_eq!(upstream.count(), before + 1);
        }
    }
    assert!(waiting(&gateway).await.is_empty());
    upstream.react(Reaction::Answer {
        status: 200,
        content_type: "text/plain".into(),
        body: vec![b'x'; 300 * 1024],
        headers: Vec::new(),
    });
    let answer = deliver(&gateway, &Delivery::fresh()).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0), "bounded");
}

#[tokio::test]
async fn what_the_upstream_does_not_settle_is_kept_and_handed_over() {
    let after = |status, seconds: &str| Reaction::Answer {
        status,
        content_type: "application/json".into(),
        body: b"{}".to_vec(),
        headers: vec![("Retry-After".into(), seconds.into())],
    };
    for (name, reaction) in [
        ("500", Reaction::json(500, "{}")),
        ("503", Reaction::json(503, "{}")),
        ("429", after(429, "1")),
        ("408", Reaction::json(408, "{}")),
        ("nothing", Reaction::Hang),
        ("closed", Reaction::Close),
        ("half an answer", Reaction::Half),
    ] {
        let upstream = Upstream::tcp().await;
        upstream.react(reaction);
        let policy = spooling().upstream("response_timeout = \"2s\"");
        let gateway = Gateway::with_policy(upstream.address(), &policy).await;
        let delivery = Delivery::fresh();
        let id = spooled(&deliver(&gateway, &delivery).await);
        assert_eq!(waiting(&gateway).await, [id.as_str()], "{name}");
        let again = deliver(&gateway, &delivery).await;
        assert_eq!(again.json(), json!({"status": "duplicate"}), "{name}");
        upstream.react(Reaction::ok());
        emptied(&gateway).await;
        assert_eq!(upstream.last().body, delivery.body, "{name}");
        // However often it was tried, it was under one key.
        let key = sha256(&delivery.body);
        assert!(keys(&upstream).iter().all(|k| *k == key), "{name}");
        let before = upstream.count();
        let again = deliver(&gateway, &delivery).await;
        assert_eq!(again.json(), json!({"status": "duplicate"}), "{name}");
        assert_eq!(upstream.count(), before, "{name}");
    }
}

#[tokio::test]
async fn without_an_upstream_deliveries_are_kept_in_their_order() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let deliveries: Vec<_> = (0..5).map(|_| Delivery::fresh()).collect();
    let mut ids = Vec::new();
    for delivery in &deliveries {
        ids.push(spooled(&deliver(&gateway, delivery).await));
    }
    assert_eq!(waiting(&gateway).await, ids);
    let waits = metric(&gateway, "orket_gateway_spool_waiting{", "gitea").await;
    assert_eq!(waits, Some(5.0));
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    let expected: Vec<_> = deliveries.iter().map(|d| sha256(&d.body)).collect();
    assert_eq!(keys(&upstream), expected);
    let name = "orket_gateway_spool_handed_over_total{";
    eventually("it is counted", orket_tests::DEADLINE, || async {
        metric(&gateway, name, "gitea").await == Some(5.0)
    })
    .await;
}

#[tokio::test]
async fn the_same_bytes_arrive_now_or_later_and_without_a_spool() {
    let dir = TempDir::new().unwrap();
    let policy = |spool: &str| {
        Policy::new()
            .upstream("set_headers = { \"X-Inner\" = \"inner\" }")
            .secrets("inner = [{ file = \"{dir}/gitea-secret\" }]")
            .gitea(spool)
    };
    let request = |delivery: &Delivery| {
        delivery
            .signed(&format!("{PATH}?a=1&b=%20"), WEBHOOK_SECRET)
            .host("forge.example")
            .header("X-API-Key", "stolen")
            .header("Authorization", "Bearer stolen")
            .header("X-Forwarded-For", "203.0.113.9")
            .header("X-Orket-Actor", "key:admin")
            .header("Proxy-Connection", "keep-alive")
            .header("TE", "trailers")
            .header("Connection", "X-Mine")
            .header("X-Mine", "1")
            .header("Accept", "*/*")
    };
    let seen = |upstream: &Upstream| {
        let request = upstream.only();
        let mut headers = request.headers.clone();
        headers.retain(|(name, _)| {
            !["x-request-id", "connection", "traceparent"].contains(&name.as_str())
        });
        headers.sort();
        (request.method, request.target, headers, request.body)
    };
    let delivery = Delivery::fresh();
    let mut all = Vec::new();
    for spool in ["", "spool = true"] {
        let upstream = Upstream::tcp().await;
        let gateway = Gateway::with_policy(upstream.address(), &policy(spool)).await;
        let answer = request(&delivery).send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        all.push(seen(&upstream));
    }
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &policy("spool = true")).await;
    let answer = request(&delivery).send(gateway.address()).await;
    let id = answer.header("x-request-id").unwrap().to_owned();
    spooled(&answer);
    // No credential lies on the disk, neither the client's nor the upstream's.
    let waiting = gateway.dir().join("state/spool/waiting");
    let stored = std::fs::read(waiting.join(&files(&waiting)[0])).unwrap();
    let stored = String::from_utf8_lossy(&stored);
    for secret in ["stolen", WEBHOOK_SECRET, "x-gitea-signature"] {
        assert!(!stored.contains(secret), "{secret}");
    }
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    assert_eq!(upstream.only().header("x-request-id"), Some(id.as_str()));
    all.push(seen(&upstream));
    assert_eq!(all[0], all[1], "the first try");
    assert_eq!(all[0], all[2], "handed over later");
}

#[tokio::test]
async fn a_form_is_handed_over_as_the_json_it_holds() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let json = br#"{"a":"b c"}"#;
    let signature = orket_tests::gitea::signature(WEBHOOK_SECRET.as_bytes(), json);
    let answer = Request::post(PATH, "payload=%7B%22a%22%3A%22b+c%22%7D")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("X-Gitea-Event", "push")
        .header("X-Gitea-Signature", &signature)
        .send(gateway.address())
        .await;
    spooled(&answer);
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    let request = upstream.only();
    assert_eq!(request.body, json);
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("content-length"), Some("11"));
}

#[tokio::test]
async fn what_is_not_proven_puts_nothing_into_it() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let kept = spooled(&deliver(&gateway, &Delivery::fresh()).await);
    for _ in 0..200 {
        let delivery = Delivery::fresh();
        let answer = delivery.forged(PATH).send(gateway.address()).await;
        assert_refused(&answer, 401, "Invalid signature");
        let answer = delivery.unsigned(PATH).send(gateway.address()).await;
        assert_refused(&answer, 401, "Missing signature");
    }
    assert_eq!(waiting(&gateway).await, [kept]);
    assert_eq!(files(&gateway.dir().join("state/spool/new")).len(), 0);
}

#[tokio::test]
async fn a_source_over_its_budget_waits_instead_of_being_refused() {
    let upstream = Upstream::tcp().await;
    let limit = "[[rate_limits]]\nid = \"few\"\nby = \"source\"\nrate = \"2/s\"\nburst = 2\n";
    let policy = spooling().gitea("rate_limits = [\"few\"]").rest(limit);
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let deliveries: Vec<_> = (0..6).map(|_| Delivery::fresh()).collect();
    let mut kept = 0;
    for delivery in &deliveries {
        let answer = deliver(&gateway, delivery).await;
        match answer.status {
            200 => {}
            202 => kept += 1,
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert!(kept > 0, "six at once are more than the budget");
    emptied(&gateway).await;
    let expected: Vec<_> = deliveries.iter().map(|d| sha256(&d.body)).collect();
    assert_eq!(keys(&upstream), expected, "all of them, in their order");
    // Another budget than the source's still refuses.
    let limit = "[[rate_limits]]\nid = \"few\"\nby = \"address\"\nrate = \"1/h\"\n";
    let policy = spooling().gitea("rate_limits = [\"few\"]").rest(limit);
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, 200);
    let answer = deliver(&gateway, &Delivery::fresh()).await;
    assert_refused(&answer, 429, "Rate limit exceeded");
}

#[tokio::test]
async fn routes_without_a_spool_and_key_routes_are_as_before() {
    let dir = TempDir::new().unwrap();
    let rest = r#"[[routes]]
id = "plain"
path = "/webhook/plain"
methods = ["POST"]
auth = { kind = "webhook", provider = "gitea", secret = "gitea" }
upstream = "backend"
"#;
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling().rest(rest)).await;
    let answer = Delivery::fresh()
        .signed("/webhook/plain", WEBHOOK_SECRET)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 502, "Backend unreachable");
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 502, "Backend unreachable");
    let list = spool(&gateway, &["list"]).await.unwrap();
    assert_eq!(list["waiting_total"], 0);
}
