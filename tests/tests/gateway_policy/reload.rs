//! Reloading while requests pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use orket_tests::gateway::{API_KEY, run};
use orket_tests::{
    Address, Connection, DEADLINE, Gateway, Policy, Reaction, Request, Upstream, assert_refused,
    eventually,
};

fn edit(gateway: &Gateway, change: impl FnOnce(String) -> String) {
    let path = gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(text)).unwrap();
}

async fn reload(gateway: &Gateway) -> (bool, String) {
    // By the socket: a file that is no TOML does not say where it is.
    let ended = run(
        gateway.dir(),
        &["reload", "--control", "state/gateway.sock"],
        &[],
    )
    .await;
    (ended.status.success(), ended.output())
}

async fn ask(address: &Address) -> u16 {
    Request::get("/v1/version")
        .key(API_KEY)
        .send(address)
        .await
        .status
}

/// What the operator is told over the control socket.
async fn status(gateway: &Gateway) -> serde_json::Value {
    let socket = gateway.dir().join("state/gateway.sock");
    let address = Address::parse(&format!("unix:{}", socket.display()));
    Request::get("/status").send(&address).await.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_policy_under_load_changes_nothing_and_is_told_everywhere() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let address = gateway.address().clone();
    let (stop, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (address, stop, served) = (address.clone(), stop.clone(), served.clone());
        load.spawn(async move {
            let mut connection = Connection::open(&address).await;
            let bytes = Request::get("/v1/version").key(API_KEY).bytes(&address);
            let mut wrong = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                connection.send(&bytes).await;
                match connection.answer().await.status {
                    200 => drop(served.fetch_add(1, Ordering::SeqCst)),
                    other => wrong.push(other),
                }
            }
            wrong
        });
    }
    let good = std::fs::read_to_string(gateway.dir().join("gateway.toml")).unwrap();
    let metric = "orket_gateway_policy_in_force_is_on_disk";
    for broken in [
        "version = 1\n[",
        "version = 2",
        &good.replace("\"/v1/*\"", "\"/v1/../*\""),
    ] {
        let begun = served.load(Ordering::SeqCst);
        edit(&gateway, |_| broken.to_owned());
        let (success, said) = reload(&gateway).await;
        assert!(
            !success && said.contains("the old policy stays in force"),
            "{said}"
        );
        assert!(said.contains('^'), "the verdict shows the place: {said}");
        assert_eq!(status(&gateway).await["in_force_is_on_disk"], false);
        let ready = Request::get("/ready").send(gateway.admin()).await.text();
        assert!(ready.contains("\"in_force_is_on_disk\":false"), "{ready}");
        let page = Request::get("/metrics").send(gateway.admin()).await.text();
        assert!(page.contains(&format!("{metric} 0")), "{page}");
        eventually("requests go on", DEADLINE, || async {
            served.load(Ordering::SeqCst) > begun + 20
        })
        .await;
    }
    eventually("the log tells of each", DEADLINE, || async {
        gateway
            .output()
            .matches("\"event\":\"reload_refused\"")
            .count()
            == 3
    })
    .await;
    edit(&gateway, |_| good);
    assert!(reload(&gateway).await.0);
    assert_eq!(status(&gateway).await["in_force_is_on_disk"], true);
    stop.store(true, Ordering::SeqCst);
    let wrong: Vec<u16> = load.join_all().await.concat();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn a_request_under_way_keeps_the_policy_it_began_with() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Hold);
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let address = gateway.address().clone();
    let under_way = tokio::spawn({
        let address = address.clone();
        async move { ask(&address).await }
    });
    upstream.arrived(1).await;
    edit(&gateway, |text| {
        text.replace("path = \"/v1/*\"", "path = \"/v2/*\"")
    });
    assert!(reload(&gateway).await.0);
    upstream.react(Reaction::ok());
    assert_eq!(under_way.await.unwrap(), 200, "it goes on by the old one");
    assert_eq!(
        ask(&address).await,
        404,
        "the next is judged by the new one"
    );
}

#[tokio::test]
async fn changed_listeners_are_named_and_the_rest_comes_into_force() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    edit(&gateway, |text| {
        text.replace("http = \"127.0.0.1:0\"", "http = \"127.0.0.1:1\"")
            .replace("path = \"/v1/*\"", "path = \"/v2/*\"")
    });
    let (success, said) = reload(&gateway).await;
    assert!(
        success && said.contains("restart needed: listen.http"),
        "{said}"
    );
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 404, "Not found");
    let answer = Request::get("/v2/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200);
}
