//! API keys in the life of a gateway: told apart, counted, revoked, and taken away from what they have open.

mod certain;
mod commands;
mod revoke;
mod streams;
mod told;
mod whose;

use orket_tests::gateway::run;
use orket_tests::{Address, Answer, Gateway, Policy, Request};

/// The secret of the key `other`, which is not to be disturbed.
const OTHER_KEY: &str = "ork-other-7Gh2Lp9XcVb4Nm1QwZs8Kd5T";

/// The standard policy with a second key of all scopes.
fn two_keys() -> Policy {
    let digest = orket_tests::gitea::sha256(OTHER_KEY.as_bytes());
    Policy::new()
        .secrets(&format!("other = [{{ digest = \"sha256:{digest}\" }}]"))
        .rest("[[keys]]\nid = \"other\"\nsecret = \"other\"\nscopes = [\"*\"]\n")
}

/// Asks the control socket.
async fn control(gateway: &Gateway, request: &Request) -> Answer {
    let socket = Address::Unix(gateway.dir().join("state/gateway.sock"));
    request.send(&socket).await
}

/// Revokes a key through the control socket, and what it answered.
async fn revoke(gateway: &Gateway, id: &str) -> serde_json::Value {
    let request = Request::post_json("/keys/revoke", &serde_json::json!({ "id": id }));
    let answer = control(gateway, &request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).unwrap()
}

/// What a request with this key gets.
async fn status(gateway: &Gateway, key: &str) -> u16 {
    let request = Request::get("/v1/version").key(key);
    request.send(gateway.address()).await.status
}

/// Changes the policy a gateway runs with and reloads it.
async fn reload(gateway: &Gateway, change: impl FnOnce(String) -> String) {
    let path = gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(text)).unwrap();
    let ended = run(gateway.dir(), &["reload", "--config", "gateway.toml"], &[]).await;
    assert!(ended.status.success(), "{}", ended.output());
}

async fn metrics(gateway: &Gateway) -> String {
    Request::get("/metrics").send(gateway.admin()).await.text()
}
