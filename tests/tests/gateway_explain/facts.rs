//! Facts that stand outside of a policy's text: which keys were revoked, and at which door the gateway began to listen.

use orket_tests::gateway::{API_KEY, run};
use orket_tests::{Gateway, Policy, Request, Upstream};

use super::{explain, folder, live};

const WITH_KEY: [&str; 4] = [
    "--path",
    "/v1/a",
    "--header-env",
    "X-API-Key: KEY_FOR_EXPLAIN",
];

#[tokio::test]
async fn a_revoked_key_is_judged_as_one_offline_too() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let file = std::fs::read_to_string(gateway.dir().join("gateway.toml")).unwrap();
    let revoke = ["keys", "revoke", "ci", "--config", "gateway.toml"];
    run(gateway.dir(), &revoke, &[]).await;
    // The file as it was: only the state says that the key was revoked.
    std::fs::write(gateway.dir().join("gateway.toml"), file).unwrap();
    let asked = Request::get("/v1/a").key(API_KEY);
    assert_eq!(asked.send(gateway.address()).await.status, 403);
    let said = super::explain_in(gateway.dir(), &WITH_KEY).await;
    assert_eq!(said["reason"], "api_key_revoked", "{said}");
    let said = live(&gateway, &WITH_KEY).await;
    assert_eq!(said["reason"], "api_key_revoked", "{said}");
}

#[tokio::test]
async fn a_broken_list_of_revoked_keys_is_told() {
    let dir = folder(&Policy::new());
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let list = dir.path().join("state/revoked-keys");
    std::fs::write(&list, "what\n").unwrap();
    // A start would not believe what others could have written.
    let ended = run(
        dir.path(),
        &["explain", "--config", "gateway.toml", "--path", "/v1/a"],
        &[],
    )
    .await;
    assert!(!ended.status.success());
    assert!(
        ended.stderr.contains("others can read or write it"),
        "{}",
        ended.output()
    );
    let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&list, own).unwrap();
    let fixed = ["explain", "--config", "gateway.toml", "--path", "/v1/a"];
    let ended = run(dir.path(), &fixed, &[]).await;
    assert!(!ended.status.success());
    assert!(
        ended.stderr.contains("is broken in line 1"),
        "{}",
        ended.output()
    );
    std::fs::remove_file(dir.path().join("state/revoked-keys")).unwrap();
    let said = explain(&dir, &["--path", "/v1/a"]).await;
    assert_eq!(said["reason"], "api_key_missing", "{said}");
}

/// New listeners come with a restart: until then a request comes in by the old ones.
#[tokio::test]
async fn a_running_gateway_explains_by_the_door_it_listens_at() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let file = gateway.dir().join("gateway.toml");
    orket_tests::tls::Authority::new("the test's")
        .certificate(&["localhost"])
        .write(gateway.dir());
    let text = std::fs::read_to_string(&file).unwrap();
    let https = "http = \"127.0.0.1:0\"\nhttps = { address = \"127.0.0.1:0\", cert_file = \"cert.pem\", key_file = \"key.pem\" }";
    std::fs::write(&file, text.replace("http = \"127.0.0.1:0\"", https)).unwrap();
    let reload = run(gateway.dir(), &["reload", "--config", "gateway.toml"], &[]).await;
    assert!(
        reload.stdout.contains("restart needed: listen.https"),
        "{}",
        reload.output()
    );
    let said = live(&gateway, &WITH_KEY).await;
    let set = said["sent"]["set"].to_string();
    assert!(set.contains(r#"["x-forwarded-proto","http"]"#), "{said}");
    let asked = Request::get("/v1/a").key(API_KEY);
    assert_eq!(asked.send(gateway.address()).await.status, 200);
    assert_eq!(upstream.last().header("x-forwarded-proto"), Some("http"));
}
