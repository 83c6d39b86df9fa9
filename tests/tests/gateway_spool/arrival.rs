//! The order of arrival, and who pays: what came earlier goes first, and each is charged once.

use jiff::Timestamp;
use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::gitea::sha256;
use orket_tests::tls::Authority;
use orket_tests::wait::obtain;
use orket_tests::{DEADLINE, Delivery, Gateway, Policy, Reaction, Request, Upstream, eventually};
use serde_json::json;
use tempfile::TempDir;

use super::{
    PATH, deliver, emptied, first_waits_because, keys, nowhere, spool, spooled, spooling, waiting,
};

fn limited(rate: &str) -> Policy {
    spooling().gitea("rate_limits = [\"few\"]").rest(&format!(
        "[[rate_limits]]\nid = \"few\"\nby = \"source\"\nrate = \"{rate}\"\nburst = 1\n"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_does_not_overtake_one_that_arrived_earlier_and_is_still_tried() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Hang);
    let policy = limited("20/s").upstream("response_timeout = \"1s\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let (first, second) = (Delivery::fresh(), Delivery::fresh());
    let request = first.signed(PATH, WEBHOOK_SECRET);
    let address = gateway.address().clone();
    let tried = tokio::spawn(async move { request.send(&address).await });
    upstream.arrived(1).await;
    // Over its budget, so it waits from the first; its budget is back long before the first try ends.
    spooled(&deliver(&gateway, &second).await);
    spooled(&tried.await.unwrap());
    upstream.react(Reaction::ok());
    emptied(&gateway).await;
    let seen = keys(&upstream);
    let second = sha256(&second.body);
    assert_eq!(
        seen.iter().position(|key| *key == second),
        Some(seen.len() - 1)
    );
    assert!(
        seen.len() >= 3,
        "the first was tried, and handed over: {seen:?}"
    );
}

#[tokio::test]
async fn what_was_charged_when_it_came_is_not_charged_again() {
    let dir = TempDir::new().unwrap();
    let limit = "[[rate_limits]]\nid = \"few\"\nby = \"source\"\nrate = \"3/h\"\n";
    let policy = spooling().gitea("rate_limits = [\"few\"]").rest(limit);
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &policy).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(spooled(&deliver(&gateway, &Delivery::fresh()).await));
    }
    let upstream = Upstream::unix(dir.path());
    // Three are paid for; the fourth waits for the budget of the next hour, and the fifth for the fourth.
    eventually("what is paid for is handed over", DEADLINE, || async {
        waiting(&gateway).await == ids[3..]
    })
    .await;
    first_waits_because(&gateway, "over_budget").await;
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn an_answer_to_someone_else_ends_the_pause() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let delivery = Delivery::fresh();
    spooled(&deliver(&gateway, &delivery).await);
    // After some setbacks the pause is long.
    let next = obtain("a long pause", DEADLINE, || async {
        let list = spool(&gateway, &["list"]).await.ok()?;
        let next: Timestamp = list["waiting"][0]["next_attempt"].as_str()?.parse().ok()?;
        (next.as_millisecond() - Timestamp::now().as_millisecond() > 4500).then_some(next)
    })
    .await;
    let upstream = Upstream::unix(dir.path());
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200);
    upstream.arrived(2).await;
    assert!(Timestamp::now() < next, "it waited for its own time");
    emptied(&gateway).await;
    assert_eq!(upstream.last().body, delivery.body);
}

#[tokio::test]
async fn what_one_upstream_has_done_another_still_has_to_do() {
    let (one, other) = (Upstream::tcp().await, Upstream::tcp().await);
    let policy = spooling().rest(&format!(
        r#"[upstreams.other]
address = "{}"
[[routes]]
id = "other"
path = "/webhook/other"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
source = "gitea"
spool = true
upstream = "other"
"#,
        other.address()
    ));
    let gateway = Gateway::with_policy(one.address(), &policy).await;
    let to_other = async |delivery: &Delivery| {
        let request = delivery.signed("/webhook/other", WEBHOOK_SECRET);
        request.send(gateway.address()).await
    };
    let known = json!({"status": "duplicate"});
    let delivery = Delivery::fresh();
    assert_eq!(
        deliver(&gateway, &delivery).await.json(),
        json!({"upstream": "reached"})
    );
    assert_eq!(
        to_other(&delivery).await.json(),
        json!({"upstream": "reached"})
    );
    assert_eq!(deliver(&gateway, &delivery).await.json(), known);
    assert_eq!(to_other(&delivery).await.json(), known);
    assert_eq!((one.count(), other.count()), (1, 1));
    // What waits for the one does not wait for the other; both go over, each to its own.
    one.react(Reaction::json(500, "{}"));
    let delivery = Delivery::fresh();
    spooled(&deliver(&gateway, &delivery).await);
    spooled(&to_other(&delivery).await);
    assert_eq!(deliver(&gateway, &delivery).await.json(), known);
    assert_eq!(to_other(&delivery).await.json(), known);
    one.react(Reaction::ok());
    emptied(&gateway).await;
    assert_eq!(one.last().body, delivery.body);
    assert_eq!(other.last().body, delivery.body);
    assert_eq!(other.count(), 2);
}

#[tokio::test]
async fn deliveries_go_by_tls_now_and_later_and_to_nobody_else() {
    let authority = Authority::new("inside");
    let stranger = Authority::new("inside");
    let names = ["inside.example"];
    let upstream = Upstream::tls(&authority.certificate(&names)).await;
    let trusting = "tls = { server_name = \"inside.example\", ca_file = \"{dir}/ca.pem\" }";
    let start = async |upstream: &Upstream| {
        Gateway::before(upstream.address())
            .standard(&spooling().upstream(trusting))
            .file("ca.pem", authority.pem().as_bytes())
            .start()
            .await
    };
    let gateway = start(&upstream).await;
    let (now, later) = (
        Delivery::new("push", vec![b'x'; 300_000]),
        Delivery::fresh(),
    );
    assert_eq!(deliver(&gateway, &now).await.status, 200);
    assert_eq!(upstream.last().body, now.body);
    upstream.react(Reaction::json(503, "{}"));
    spooled(&deliver(&gateway, &later).await);
    upstream.react(Reaction::ok());
    emptied(&gateway).await;
    assert_eq!(upstream.last().body, later.body);

    let false_one = Upstream::tls(&stranger.certificate(&names)).await;
    let gateway = start(&false_one).await;
    spooled(&deliver(&gateway, &Delivery::fresh()).await);
    first_waits_because(&gateway, "unreachable").await;
    eventually("it was tried again", DEADLINE, || async {
        let list = spool(&gateway, &["list"]).await.unwrap();
        list["waiting"][0]["attempts"].as_u64() >= Some(2)
    })
    .await;
    assert_eq!(false_one.count(), 0, "it was sent to someone unproven");
    assert_eq!(waiting(&gateway).await.len(), 1);
}
