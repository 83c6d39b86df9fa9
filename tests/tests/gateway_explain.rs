//! `orket-gateway explain`: the verdict on a request and why, by the pipeline that judges live ones.

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
    let fixed = ["explain", "--config", "gateway.toml", "--format", "json"];
    let ended = run(dir.path(), &[&fixed, arguments].concat(), &[]).await;
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
