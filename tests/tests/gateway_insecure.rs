//! The insecure bypass: open to a person's own tools on this machine, shut to a browser, and without
//! any effect where a key is configured.

use orket_tests::gateway::{API_KEY, PREAMBLE, WEBHOOK_SECRET};
use orket_tests::{Cases, Gateway, Policy, Request, Upstream, assert_refused};

const INSECURE: (&str, &str) = ("ORKET_ALLOW_INSECURE_NO_API_KEY", "true");
const NOT_FROM_A_BROWSER: &str = "Not from a browser";

#[tokio::test]
async fn a_tool_on_this_machine_needs_no_key() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &[INSECURE]).await;
    let port = gateway.address().port();
    let mut cases = Cases::new();
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("LocalHost:{port}"),
        format!("127.8.9.1:{port}"),
        format!("[::1]:{port}"),
        "localhost".to_owned(),
    ] {
        let get = Request::get("/v1/version")
            .host(&host)
            .header("User-Agent", "curl/8.0");
        let answer = get.send(gateway.address()).await;
        cases.holds(&host, answer.status == 200, || answer.text());
    }
    let json = "application/json";
    for (name, request) in [
        (
            "a write of JSON",
            Request::post("/v1/runs", "{}").header("Content-Type", json),
        ),
        (
            "a write of JSON with its charset",
            Request::post("/v1/runs", "{}")
                .header("Content-Type", "application/json; charset=utf-8"),
        ),
        (
            "a key that no one configured",
            Request::get("/v1/version").key(API_KEY),
        ),
        (
            "a fetch the browser calls its own",
            Request::get("/v1/version").header("Sec-Fetch-Site", "none"),
        ),
    ] {
        let answer = request.send(gateway.address()).await;
        cases.holds(name, answer.status == 200, || answer.text());
        let actor = upstream.last().header("x-orket-actor").map(str::to_owned);
        cases.holds(name, actor.as_deref() == Some("anonymous"), || {
            format!("{actor:?}")
        });
    }
    cases.finish();
}

#[tokio::test]
async fn a_page_in_a_browser_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &[INSECURE]).await;
    let address = gateway.address();
    let port = address.port();
    let get = || Request::get("/v1/version");
    let write = || Request::post("/v1/runs", "{}");
    let json = |request: Request| request.header("Content-Type", "application/json");
    let mut cases = Cases::new();
    for (name, request) in [
        (
            "another site's page",
            get().header("Origin", "https://evil.example"),
        ),
        ("a sandboxed page", get().header("Origin", "null")),
        (
            "a page of this machine",
            get().header("Origin", &format!("http://127.0.0.1:{port}")),
        ),
        ("an empty origin", get().line("Origin:")),
        (
            "an origin on a write",
            json(write()).header("Origin", "https://evil.example"),
        ),
        (
            "a cross-site fetch",
            get().header("Sec-Fetch-Site", "cross-site"),
        ),
        (
            "a cross-site navigation",
            get()
                .header("Sec-Fetch-Site", "cross-site")
                .header("Sec-Fetch-Mode", "navigate"),
        ),
        (
            "a fetch within the site",
            get().header("Sec-Fetch-Site", "same-site"),
        ),
        ("DNS rebinding", get().host(&format!("evil.example:{port}"))),
        ("DNS rebinding without a port", get().host("evil.example")),
        (
            "a name that begins like this machine",
            get().host(&format!("localhost.evil.example:{port}")),
        ),
        (
            "a name that begins like an address",
            get().host(&format!("127.0.0.1.evil.example:{port}")),
        ),
        ("an address of another machine", get().host("192.0.2.10")),
        (
            "the unspecified address",
            get().host(&format!("0.0.0.0:{port}")),
        ),
        (
            "a form",
            write().header("Content-Type", "application/x-www-form-urlencoded"),
        ),
        ("plain text", write().header("Content-Type", "text/plain")),
        (
            "plain text that names JSON",
            write().header("Content-Type", "text/plain; application/json"),
        ),
        (
            "a multipart form",
            write().header("Content-Type", "multipart/form-data; boundary=x"),
        ),
        ("a write without a type", write()),
        (
            "a write without a body",
            Request::new("POST", "/v1/runs/x/cancel").body(""),
        ),
        (
            "a deletion without a type",
            Request::new("DELETE", "/v1/cards/x"),
        ),
    ] {
        cases
            .refused(
                name,
                address,
                &request.bytes(address),
                403,
                NOT_FROM_A_BROWSER,
            )
            .await;
    }
    cases.finish();
    upstream.untouched("requests of a browser");
}

#[tokio::test]
async fn a_websocket_opened_by_a_page_is_refused_and_by_a_tool_is_not() {
    let upstream = Upstream::tcp().await;
    upstream.react(orket_tests::Reaction::Echo);
    let gateway = Gateway::builtin(upstream.address(), &[INSECURE]).await;
    let upgrade = || {
        Request::get("/ws/events")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    let page = upgrade().header("Origin", "https://evil.example");
    assert_refused(&page.send(gateway.address()).await, 403, NOT_FROM_A_BROWSER);
    let rebound = upgrade().host("evil.example");
    assert_refused(
        &rebound.send(gateway.address()).await,
        403,
        NOT_FROM_A_BROWSER,
    );
    upstream.untouched("pages that open a WebSocket");
    assert_eq!(upgrade().send(gateway.address()).await.status, 101);
}

#[tokio::test]
async fn the_preflight_of_a_browser_opens_nothing() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &[INSECURE]).await;
    let preflight = Request::new("OPTIONS", "/v1/runs")
        .header("Origin", "https://evil.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "content-type");
    let answer = preflight.send(gateway.address()).await;
    assert!(answer.status >= 400, "{}", answer.status);
    let allows = answer
        .headers
        .iter()
        .find(|(name, _)| name.starts_with("access-control"));
    assert_eq!(allows, None);
    upstream.untouched("a preflight");
}

#[tokio::test]
async fn where_a_key_is_configured_the_switch_changes_nothing() {
    let upstream = Upstream::tcp().await;
    let env = [INSECURE, ("ORKET_API_KEY", API_KEY)];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    for request in [
        Request::get("/v1/version"),
        Request::get("/v1/version").key("wrong"),
        Request::get("/ws/events"),
        Request::get("/v1/version").header("Origin", "https://evil.example"),
    ] {
        let answer = request.send(gateway.address()).await;
        assert_refused(&answer, 403, "Could not validate credentials");
    }
    upstream.untouched("requests without the key");
    let with_key = Request::get("/v1/version")
        .key(API_KEY)
        .header("Origin", "https://own.example");
    assert_eq!(
        with_key.send(gateway.address()).await.status,
        200,
        "a key proves enough"
    );
}

#[tokio::test]
async fn only_a_word_for_yes_is_yes() {
    let upstream = Upstream::tcp().await;
    for yes in ["true", "1", "yes", "on", "True", "ON"] {
        let env = [("ORKET_ALLOW_INSECURE_NO_API_KEY", yes)];
        let gateway = Gateway::builtin(upstream.address(), &env).await;
        let answer = Request::get("/v1/version").send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{yes}");
    }
    let before = upstream.count();
    for no in ["false", "0", "no", "off", "", " "] {
        let env = [("ORKET_ALLOW_INSECURE_NO_API_KEY", no)];
        let gateway = Gateway::builtin(upstream.address(), &env).await;
        let answer = Request::get("/v1/version").send(gateway.address()).await;
        assert_refused(&answer, 403, "Could not validate credentials");
    }
    assert_eq!(upstream.count(), before);
}

#[tokio::test]
async fn a_word_that_is_neither_yes_nor_no_does_not_open() {
    let upstream = Upstream::tcp().await;
    // Whether it refuses to start or stays shut: what must not be is an open door.
    let gateway =
        Gateway::before(upstream.address()).env("ORKET_ALLOW_INSECURE_NO_API_KEY", "maybe");
    let ended = gateway.refused().await;
    assert!(
        ended.output().contains("ORKET_ALLOW_INSECURE_NO_API_KEY"),
        "{}",
        ended.output()
    );
}

#[tokio::test]
async fn production_refuses_the_switch() {
    let upstream = Upstream::tcp().await;
    for more in [vec![], vec![("ORKET_API_KEY", API_KEY)]] {
        let gateway = Gateway::before(upstream.address())
            .envs(&[
                INSECURE,
                ("ORKET_ENV", "production"),
                ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
            ])
            .envs(&more);
        let ended = gateway.refused().await;
        let output = ended.output().to_lowercase();
        assert!(output.contains("insecure"), "it does not say why: {output}");
    }
}

#[tokio::test]
async fn a_listener_beyond_the_loopback_refuses_the_switch() {
    let upstream = Upstream::tcp().await;
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let gateway = Gateway::before(upstream.address())
            .env("ORKET_GATEWAY_LISTEN", listen)
            .envs(&[INSECURE]);
        let ended = gateway.refused().await;
        assert!(
            ended.output().contains("loopback"),
            "it does not say why: {}",
            ended.output()
        );
    }
}

#[tokio::test]
async fn a_policy_file_is_held_to_the_same() {
    let upstream = Upstream::tcp().await;
    let open = PREAMBLE.replace(
        "environment = \"local\"",
        "environment = \"local\"\nallow_insecure_no_api_key = true",
    );
    let route = r#"
[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET", "POST"]
auth = { kind = "api_key" }
upstream = "backend"
"#;
    let gateway = Gateway::before(upstream.address())
        .policy(&format!("{open}{route}"))
        .start()
        .await;
    assert_eq!(
        Request::get("/v1/version")
            .send(gateway.address())
            .await
            .status,
        200
    );
    let page = Request::get("/v1/version")
        .host("evil.example")
        .send(gateway.address())
        .await;
    assert_refused(&page, 403, NOT_FROM_A_BROWSER);
    assert_eq!(upstream.count(), 1);

    let production = open.replace("\"local\"", "\"production\"");
    Gateway::before(upstream.address())
        .policy(&format!("{production}{route}"))
        .refused()
        .await;
    let beyond = open.replace("http = \"127.0.0.1:0\"", "http = \"0.0.0.0:0\"");
    Gateway::before(upstream.address())
        .policy(&format!("{beyond}{route}"))
        .refused()
        .await;

    // With a key in the file the switch changes nothing.
    let text = Policy::new().to_string().replace(
        "environment = \"local\"",
        "environment = \"local\"\nallow_insecure_no_api_key = true",
    );
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&text)
        .start()
        .await;
    let answer = Request::get("/v1/version").send(gateway.address()).await;
    assert_refused(&answer, 403, "Could not validate credentials");
}

#[tokio::test]
async fn what_came_through_a_proxy_or_from_a_page_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &[INSECURE]).await;
    for (name, value) in [
        ("X-Forwarded-For", "8.8.8.8"),
        ("X-Forwarded-Host", "orket.example"),
        ("X-Real-IP", "8.8.8.8"),
        ("Forwarded", "for=8.8.8.8"),
        ("Via", "1.1 proxy"),
        ("Referer", "http://evil.example/"),
        ("Referer", "not a url"),
    ] {
        let request = Request::get("/v1/version").header(name, value);
        assert_refused(
            &request.send(gateway.address()).await,
            403,
            NOT_FROM_A_BROWSER,
        );
    }
    assert_eq!(upstream.count(), 0);
    let own = Request::get("/v1/version").header("Referer", "http://127.0.0.1:3000/docs");
    assert_eq!(own.send(gateway.address()).await.status, 200);
}
