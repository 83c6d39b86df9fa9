//! `orket-gateway explain`: the verdict on a request and why, by the pipeline that judges live ones.

mod closed_pipe;
mod differential;
mod facts;
mod rules;

use std::path::Path;

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET, run};
use orket_tests::gitea::signature;
use orket_tests::policy::SECRET_FILE;
use orket_tests::{Gateway, Policy, Request, Upstream};
use serde_json::Value;
use tempfile::TempDir;

fn folder(policy: &Policy) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(SECRET_FILE.0), SECRET_FILE.1).unwrap();
    let text = policy
        .to_string()
        .replace("{dir}", dir.path().to_str().unwrap())
        .replace("{upstream}", "127.0.0.1:1");
    std::fs::write(dir.path().join("gateway.toml"), text).unwrap();
    dir
}

async fn explain(dir: &TempDir, arguments: &[&str]) -> Value {
    explain_in(dir.path(), arguments).await
}

async fn explain_in(dir: &Path, arguments: &[&str]) -> Value {
    let fixed = ["explain", "--config", "gateway.toml", "--format", "json"];
    let key = [("KEY_FOR_EXPLAIN", API_KEY)];
    let ended = run(dir, &[&fixed, arguments].concat(), &key).await;
    assert!(ended.status.success(), "{}", ended.output());
    assert!(
        !ended.output().contains(WEBHOOK_SECRET),
        "a secret is shown"
    );
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.output()))
}

#[tokio::test]
async fn the_true_reason_is_told() {
    let dir = folder(&Policy::new());
    for (arguments, verdict, reason) in [
        (
            vec!["--path", "/v1/runs"],
            "refused",
            Some("api_key_missing"),
        ),
        (
            vec!["--path", "/v1/runs", "--header", "X-API-Key: nope"],
            "refused",
            Some("api_key_unknown"),
        ),
        (
            vec!["--path", "/v1/../x"],
            "refused",
            Some("path_ambiguous"),
        ),
        (
            vec!["--path", "/nowhere"],
            "refused",
            Some("route_not_found"),
        ),
        (
            vec!["--path", "/webhook/gitea"],
            "refused",
            Some("method_not_allowed"),
        ),
        (vec!["--path", "/health"], "answered", None),
    ] {
        let said = explain(&dir, &arguments).await;
        assert_eq!(said["verdict"], verdict, "{said}");
        assert_eq!(said["reason"].as_str(), reason, "{said}");
    }
    let key = format!("X-API-Key: {API_KEY}");
    let said = explain(&dir, &["--path", "/v1/runs", "--header", &key]).await;
    assert_eq!(
        (
            said["verdict"].as_str(),
            said["upstream"].as_str(),
            said["actor"].as_str()
        ),
        (Some("forwarded"), Some("backend"), Some("key:ci"))
    );
}

#[tokio::test]
async fn it_says_what_a_live_gateway_does() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let dir = folder(&Policy::new());
    for (method, path) in [
        ("GET", "/v1/runs"),
        ("PUT", "/webhook/gitea"),
        ("GET", "/v1%2fruns"),
        ("POST", "/webhook/gitea"),
        ("GET", "/x"),
    ] {
        let said = explain(&dir, &["--method", method, "--path", path]).await;
        let live = Request::new(method, path).send(gateway.address()).await;
        assert_eq!(
            said["status"].as_u64(),
            Some(u64::from(live.status)),
            "{method} {path}: {said}"
        );
        assert_eq!(said["detail"], live.json()["detail"], "{method} {path}");
    }
}

#[tokio::test]
async fn for_a_wrong_signature_the_common_mistake_is_found() {
    let dir = folder(&Policy::new());
    let body = b"{\"a\": 1}".as_slice();
    std::fs::write(dir.path().join("body"), body).unwrap();
    let signed = |bytes: &[u8]| signature(WEBHOOK_SECRET.as_bytes(), bytes);
    let cases = [
        (signed(b"{\"a\": 1}\n"), "with a line break at its end"),
        (signed(b"{\"a\":1}"), "re-serialised without white space"),
        (format!("sha256={}", signed(body)), "bare lower-case hex"),
        (signed(body).to_uppercase(), "bare lower-case hex"),
    ];
    for (wrong, mistake) in cases {
        let header = format!("X-Gitea-Signature: {wrong}");
        let said = explain(
            &dir,
            &[
                "--method",
                "POST",
                "--path",
                "/webhook/gitea",
                "--header",
                &header,
                "--body-file",
                "body",
            ],
        )
        .await;
        let hints = said["hints"].to_string();
        assert!(hints.contains(mistake), "{mistake}: {said}");
    }
    let header = format!("X-Gitea-Signature: {}", signed(body));
    let said = explain(
        &dir,
        &[
            "--method",
            "POST",
            "--path",
            "/webhook/gitea",
            "--header",
            &header,
            "--body-file",
            "body",
        ],
    )
    .await;
    assert_eq!(said["verdict"], "forwarded", "{said}");
    assert_eq!(
        said["idempotency_key"].as_str().map(str::len),
        Some(64),
        "{said}"
    );
}

/// A policy with something of everything an explanation can show.
fn rich() -> Policy {
    Policy::new()
        .api("rate_limits = [\"per-key\", \"watched\"]\nkeep_authorization = true")
        .secrets("inner = [{ file = \"{dir}/inner\" }]")
        .gitea("addresses = { deny = [\"192.0.2.0/24\"] }")
        .rest("[[rate_limits]]\nid = \"per-key\"\nby = \"key\"\nrate = \"600/min\"\nburst = 5")
        .rest("[[rate_limits]]\nid = \"watched\"\nby = \"route\"\nrate = \"1/h\"\nmode = \"shadow\"")
        .rest("[client_address]\ntrusted_proxies = [\"10.0.0.0/8\"]")
        .rest("[upstreams.other]\naddress = \"127.0.0.1:2\"\nset_headers = { \"X-API-Key\" = \"inner\" }")
        .rest("[[scopes]]\nid = \"one\"\nallow = [\"GET /v1/one\"]")
        .rest(
            "[[routes]]\nid = \"other\"\npath = \"/other/*\"\nrewrite = \"/in/*\"\nmethods = [\"POST\"]\nauth = { kind = \"none\" }\nbody_limit = \"2KiB\"\nupstream = \"other\"",
        )
}

const INNER: &str = "inner-9Kq3Zt7WxB2nVm5RcLd8Yh1P";

async fn explain_text(dir: &TempDir, arguments: &[&str]) -> String {
    let fixed = ["explain", "--config", "gateway.toml"];
    let ended = run(
        dir.path(),
        &[&fixed, arguments].concat(),
        &[("KEY_FOR_EXPLAIN", API_KEY)],
    )
    .await;
    assert!(ended.status.success(), "{}", ended.output());
    for secret in [WEBHOOK_SECRET, API_KEY, INNER, "Bearer"] {
        assert!(!ended.output().contains(secret), "{}", ended.output());
    }
    ended.stdout.replace(dir.path().to_str().unwrap(), "{dir}")
}

/// A delivery that is signed for its body.
const SIGNED: [&str; 8] = [
    "--method",
    "POST",
    "--path",
    "/webhook/gitea",
    "--header-file",
    "headers",
    "--body-file",
    "body",
];

/// What is asked about, and how.
fn questions() -> Vec<(&'static str, Vec<&'static str>)> {
    vec![
        (
            "a key, in a variable, that opens",
            vec![
                "--path",
                "/v1/runs?x=secret-query",
                "--header-env",
                "X-API-Key: KEY_FOR_EXPLAIN",
                "--header",
                "Authorization: Bearer abc",
                "--header",
                "Connection: x-gone",
                "--header",
                "X-Gone: 1",
                "--header",
                "X-Forwarded-For: 192.0.2.7",
                "--address",
                "10.0.0.1",
            ],
        ),
        ("no key", vec!["--path", "/v1/runs"]),
        ("no key where no route is", vec!["--path", "/v1/"]),
        ("no route", vec!["--path", "/x"]),
        ("another method", vec!["--path", "/webhook/gitea"]),
        (
            "a malformed line",
            vec!["--path", "/v1/runs", "--header", "A B: c"],
        ),
        ("an ambiguous path", vec!["--path", "/v1/%2e%2e/x"]),
        ("a signed delivery", SIGNED.to_vec()),
        (
            "a signed delivery from a denied address",
            [&SIGNED[..], &["--address", "192.0.2.9"]].concat(),
        ),
        (
            "a delivery signed for another body",
            [&SIGNED[..6], &["--body-file", "headers"]].concat(),
        ),
        (
            "an open route with a header from a secret",
            vec![
                "--method",
                "POST",
                "--path",
                "/other/a/b",
                "--header",
                "X-API-Key: mine",
                "--body-file",
                "body",
            ],
        ),
        (
            "a body too large",
            vec![
                "--method",
                "POST",
                "--path",
                "/other/a/b",
                "--header",
                "Content-Length: 4000",
            ],
        ),
        (
            "an upgrade where there is none",
            vec![
                "--path",
                "/v1/a",
                "--header-env",
                "X-API-Key: KEY_FOR_EXPLAIN",
                "--header",
                "Connection: Upgrade",
                "--header",
                "Upgrade: websocket",
            ],
        ),
        ("health", vec!["--path", "/health"]),
    ]
}

#[tokio::test]
async fn every_step_is_told_and_what_would_be_sent() {
    let dir = folder(&rich());
    std::fs::write(dir.path().join("inner"), INNER).unwrap();
    let signed = signature(WEBHOOK_SECRET.as_bytes(), b"{}");
    std::fs::write(dir.path().join("body"), "{}").unwrap();
    std::fs::write(
        dir.path().join("headers"),
        format!(
            "X-Gitea-Signature: {signed}\nX-Gitea-Event: push\nContent-Type: application/json\n"
        ),
    )
    .unwrap();
    let mut told = Vec::new();
    for (what, arguments) in questions() {
        let said = explain_text(&dir, &arguments).await;
        told.push(format!("# {what}\n{said}\n"));
    }
    orket_tests::snapshot::hold("explain.txt", &told.concat());
}

#[tokio::test]
async fn what_is_given_as_a_header_is_never_told_back() {
    let dir = folder(&Policy::new());
    std::fs::write(dir.path().join("headers"), "no colon hunter2\n").unwrap();
    for arguments in [
        ["--header", "hunter2"],
        ["--header-file", "headers"],
        ["--header-env", "hunter2"],
        ["--header-env", "X-API-Key: hunter2"],
        ["--header", "hunter2 x: hunter2"],
        ["--header", "X-API-Key: hunter2"],
        ["--header", "Authorization: hunter2"],
    ] {
        let all = [
            &["explain", "--config", "gateway.toml", "--path", "/v1/a"],
            &arguments[..],
        ]
        .concat();
        let ended = run(dir.path(), &all, &[]).await;
        assert!(
            !ended.output().contains("hunter2"),
            "{arguments:?}: {}",
            ended.output()
        );
    }
}

async fn live(gateway: &Gateway, arguments: &[&str]) -> Value {
    let fixed = [
        "explain",
        "--live",
        "--config",
        "gateway.toml",
        "--format",
        "json",
    ];
    let ended = run(
        gateway.dir(),
        &[&fixed, arguments].concat(),
        &[("KEY_FOR_EXPLAIN", API_KEY)],
    )
    .await;
    assert!(ended.status.success(), "{}", ended.output());
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.output()))
}

fn budget_step(said: &Value) -> String {
    said["steps"]
        .as_array()
        .unwrap()
        .iter()
        .find(|step| step["check"] == "budget")
        .unwrap_or_else(|| panic!("{said}"))["says"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn a_running_gateway_is_asked_without_spending_anything() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .limits("failures_per_address = \"3/h\"")
        .api("rate_limits = [\"three\"]")
        .rest("[[rate_limits]]\nid = \"three\"\nby = \"key\"\nrate = \"3/h\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let ask = [
        "--path",
        "/v1/a",
        "--header-env",
        "X-API-Key: KEY_FOR_EXPLAIN",
    ];
    for _ in 0..10 {
        let said = live(&gateway, &ask).await;
        assert_eq!(said["verdict"], "forwarded", "{said}");
        assert_eq!(said["policy"]["live"], true, "{said}");
        assert!(said["policy"]["note"].is_null(), "{said}");
        assert!(
            budget_step(&said).contains("after this request 2 left"),
            "{said}"
        );
        let said = live(&gateway, &["--path", "/v1/a"]).await;
        assert_eq!(
            said["reason"], "api_key_missing",
            "no failure was counted: {said}"
        );
    }
    let real = async || {
        Request::get("/v1/a")
            .key(API_KEY)
            .send(gateway.address())
            .await
            .status
    };
    assert_eq!([real().await, real().await], [200, 200]);
    let said = live(&gateway, &ask).await;
    assert!(
        budget_step(&said).contains("after this request 0 left"),
        "{said}"
    );
    assert_eq!(real().await, 200, "explaining spent nothing");
    let said = live(&gateway, &ask).await;
    assert_eq!(said["reason"], "rate_limit_exceeded", "{said}");
    assert_eq!(upstream.count(), 3, "explaining forwards nothing");
}

#[tokio::test]
async fn a_running_gateway_tells_of_what_is_done_and_remembers_nothing_itself() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let delivery = orket_tests::Delivery::fresh();
    std::fs::write(gateway.dir().join("body"), &delivery.body).unwrap();
    let header = format!(
        "X-Gitea-Signature: {}",
        signature(WEBHOOK_SECRET.as_bytes(), &delivery.body)
    );
    let ask = [
        "--method",
        "POST",
        "--path",
        "/webhook/gitea",
        "--header",
        &header,
        "--body-file",
        "body",
    ];
    for _ in 0..2 {
        assert_eq!(live(&gateway, &ask).await["verdict"], "forwarded");
    }
    let sent = delivery.signed("/webhook/gitea", WEBHOOK_SECRET);
    assert_eq!(
        sent.send(gateway.address()).await.json()["upstream"],
        "reached"
    );
    let said = live(&gateway, &ask).await;
    assert_eq!(said["verdict"], "answered", "{said}");
    assert!(said.to_string().contains("had it before"), "{said}");
}

#[tokio::test]
async fn a_file_that_differs_from_what_is_in_force_is_told() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let file = gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("path = \"/v1/*\"", "path = \"/v2/*\"")).unwrap();
    let said = live(&gateway, &["--path", "/v2/a"]).await;
    assert_eq!(
        said["reason"], "route_not_found",
        "the policy in force judges: {said}"
    );
    let note = said["policy"]["note"].as_str().unwrap_or_default();
    assert!(note.contains("is not what is in force"), "{said}");
}
