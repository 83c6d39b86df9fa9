//! The policy file at work: scopes, its own tests, and coming into force while requests pass.

mod apart;
mod reload;

use std::os::unix::fs::PermissionsExt;

use orket_tests::gateway::{API_KEY, run};
use orket_tests::{
    Connection, DEADLINE, Gateway, Policy, Request, Upstream, assert_refused, eventually,
};
use rustix::process::Signal;

const SCOPED_KEY: &str = "ork-scoped-1Zt8Qw5LmX3vBn7RkC9yHd2G";

/// A policy with a second key that may only read cards.
fn scoped(dir_secret: &str) -> Policy {
    Policy::new()
        .secrets(&format!("reader = [{{ file = \"{{dir}}/{dir_secret}\" }}]"))
        .rest(
            r#"[[scopes]]
id = "cards:read"
allow = ["GET /v1/cards", "GET /v1/cards/*"]
[[keys]]
id = "reader"
secret = "reader"
scopes = ["cards:read"]"#,
        )
}

#[tokio::test]
async fn a_key_opens_what_its_scopes_cover_and_nothing_else() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::before(upstream.address())
        .standard(&scoped("reader"))
        .file("reader", SCOPED_KEY.as_bytes())
        .start()
        .await;
    for target in ["/v1/cards", "/v1/cards/ISSUE-1"] {
        let answer = Request::get(target)
            .key(SCOPED_KEY)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200, "{target}");
    }
    let reached = upstream.count();
    for request in [
        Request::get("/v1/runs"),
        Request::post("/v1/cards", "{}"),
        Request::get("/v1/no-such"),
        Request::new("PUT", "/v1/cards"),
        Request::get("/ws/events"),
    ] {
        let answer = request.key(SCOPED_KEY).send(gateway.address()).await;
        assert_refused(&answer, 403, "Insufficient scope");
    }
    assert_eq!(
        upstream.count(),
        reached,
        "nothing of it reached the upstream"
    );
    let answer = Request::get("/v1/runs")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "a key of all scopes still opens it");
}

#[tokio::test]
async fn a_policy_whose_own_test_does_not_hold_is_not_served() {
    let upstream = Upstream::tcp().await;
    let test = |expect: &str| {
        Policy::new().rest(&format!(
            "[[tests]]\nname = \"no key, no entry\"\nrequest = {{ path = \"/v1/version\" }}\nexpect = {expect}"
        ))
    };
    let ended = Gateway::before(upstream.address())
        .standard(&test("{ forward = \"backend\" }"))
        .refused()
        .await;
    assert!(
        ended
            .output()
            .contains("the test `no key, no entry` does not hold"),
        "{}",
        ended.output()
    );
    assert!(
        ended.output().contains("api_key_missing"),
        "{}",
        ended.output()
    );
    Gateway::with_policy(
        upstream.address(),
        &test("{ status = 403, reason = \"api_key_missing\" }"),
    )
    .await;
}

/// Replaces the policy a gateway runs with.
fn edit(gateway: &Gateway, change: impl FnOnce(String) -> String) {
    let path = gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(text)).unwrap();
}

async fn reload(gateway: &Gateway) -> (bool, String) {
    let ended = run(gateway.dir(), &["reload", "--config", "gateway.toml"], &[]).await;
    (ended.status.success(), ended.output())
}

async fn admin(gateway: &Gateway, path: &str) -> String {
    Request::get(path).send(gateway.admin()).await.text()
}

#[tokio::test]
async fn a_reload_brings_the_new_policy_into_force_also_for_open_connections() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let mut connection = Connection::open(gateway.address()).await;
    let ask = Request::get("/v1/version")
        .key(API_KEY)
        .bytes(gateway.address());
    connection.send(&ask).await;
    assert_eq!(connection.answer().await.status, 200);
    edit(&gateway, |text| {
        text.replace("path = \"/v1/*\"", "path = \"/v2/*\"")
    });
    let (success, said) = reload(&gateway).await;
    assert!(
        success && said.contains("the new policy is in force"),
        "{said}"
    );
    connection.send(&ask).await;
    let answer = connection.answer().await;
    assert_refused(&answer, 404, "Not found");
    let answer = Request::get("/v2/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_policy_that_does_not_load_leaves_the_old_one_in_force_and_says_so_everywhere() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    edit(&gateway, |text| {
        text.replace("kind = \"api_key\"", "kind = \"api_kee\"")
    });
    let (success, said) = reload(&gateway).await;
    assert!(!success, "{said}");
    assert!(
        said.contains("`api_kee` is not a kind of proof") && said.contains('^'),
        "{said}"
    );
    assert!(said.contains("the old policy stays in force"), "{said}");
    let metric = "orket_gateway_policy_in_force_is_on_disk";
    assert!(
        admin(&gateway, "/metrics")
            .await
            .contains(&format!("{metric} 0"))
    );
    assert!(
        admin(&gateway, "/ready")
            .await
            .contains("\"in_force_is_on_disk\":false")
    );
    eventually("the log says so", DEADLINE, || async {
        gateway.output().contains("reload_refused")
    })
    .await;
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "the old policy is in force");
    edit(&gateway, |text| text.replace("api_kee", "api_key"));
    assert!(reload(&gateway).await.0);
    assert!(
        admin(&gateway, "/metrics")
            .await
            .contains(&format!("{metric} 1"))
    );
}

#[tokio::test]
async fn a_hangup_reloads_and_spent_budgets_stay_spent() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .api("rate_limits = [\"two\"]")
        .rest("[[rate_limits]]\nid = \"two\"\nby = \"key\"\nrate = \"2/h\"");
    let mut gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let address = gateway.address().clone();
    let ask = async || {
        Request::get("/v1/version")
            .key(API_KEY)
            .send(&address)
            .await
    };
    assert_eq!([ask().await.status, ask().await.status], [200, 200]);
    edit(&gateway, |text| {
        text.replace("path = \"/webhook/gitea\"", "path = \"/hooks/gitea\"")
    });
    gateway.program().signal(Signal::HUP);
    eventually("the new path is known", DEADLINE, || async {
        Request::post("/hooks/gitea", "{}")
            .send(&address)
            .await
            .status
            == 401
    })
    .await;
    assert_refused(&ask().await, 429, "Rate limit exceeded");
}

#[tokio::test]
async fn only_the_operator_reaches_the_control_socket() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let socket = gateway.dir().join("state/gateway.sock");
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    gateway.program().terminate().await;
    assert!(!socket.exists(), "the socket goes with the gateway");
    let (success, said) = reload(&gateway).await;
    assert!(!success && said.contains("is it running"), "{said}");
}
