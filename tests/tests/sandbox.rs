//! Sandboxes of the real backend: real services on real ports.

mod clients;
mod endings;
mod events;
mod input;
mod life;
mod restart;
mod service;

use std::{net::TcpListener, path::Path, time::Duration};

use orket_tests::{
    Backend, DEADLINE,
    wait::obtain,
    wire::{Answer, Request},
};
use serde_json::{Value, json};

/// Ports of one test: no two tests share any, so that they can run at the same time. A range holds
/// ten ports.
fn config(test: u16) -> String {
    config_with(test, "")
}

fn config_with(test: u16, more: &str) -> String {
    let base = 20_000 + 100 * test;
    let range = |n: u16| format!("{}-{}", base + 10 * n, base + 10 * n + 9);
    format!(
        "[sandboxes]\ndriver = \"process\"\ngrace = \"5s\"\ncool_down = \"0s\"\n{more}\n\
         [sandboxes.ports]\napi = \"{}\"\nfrontend = \"{}\"\ndatabase = \"{}\"\n\
         document_database = \"{}\"\nadmin = \"{}\"\n",
        range(0),
        range(1),
        range(2),
        range(3),
        range(4),
    )
}

/// The command of a small HTTP service, see [`service`].
pub(crate) fn server() -> Vec<String> {
    let own = std::env::current_exe().unwrap();
    let arguments = [
        "--exact",
        "--ignored",
        "--nocapture",
        "sandbox::service::the_service_of_the_tests",
    ];
    std::iter::once(own.to_str().unwrap())
        .chain(arguments)
        .map(str::to_owned)
        .collect()
}

fn api() -> Value {
    json!({ "name": "api", "command": server(), "role": "api", "health": { "path": "/health" } })
}

pub(crate) async fn create(backend: &Backend, body: &Value) -> Value {
    let answer = backend.post("/v1/sandboxes", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let sandbox = answer.json();
    assert_eq!(
        answer.header("location"),
        Some(format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap()).as_str())
    );
    sandbox
}

pub(crate) fn id(sandbox: &Value) -> &str {
    sandbox["id"].as_str().unwrap()
}

pub(crate) fn port(sandbox: &Value, service: usize) -> u16 {
    u16::try_from(sandbox["services"][service]["port"].as_u64().unwrap()).unwrap()
}

pub(crate) async fn look(backend: &Backend, id: &str) -> Value {
    let answer = backend.get(&format!("/v1/sandboxes/{id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Waits until the sandbox is in that state.
pub(crate) async fn reaches(backend: &Backend, id: &str, state: &str) -> Value {
    obtain(&format!("sandbox {id} is {state}"), DEADLINE, || async {
        let sandbox = look(backend, id).await;
        (sandbox["state"] == state).then_some(sandbox)
    })
    .await
}

pub(crate) async fn post(backend: &Backend, id: &str, action: &str) -> Answer {
    backend
        .post(&format!("/v1/sandboxes/{id}/{action}"), &json!({}))
        .await
}

pub(crate) async fn delete(backend: &Backend, id: &str) -> Answer {
    Request::new("DELETE", &format!("/v1/sandboxes/{id}"))
        .send(backend.address())
        .await
}

pub(crate) async fn listed(backend: &Backend) -> Vec<String> {
    let answer = backend.get("/v1/sandboxes").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let list = answer.json();
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| id(item).to_owned())
        .collect()
}

pub(crate) async fn logs(backend: &Backend, id: &str, query: &str) -> String {
    let answer = backend
        .get(&format!("/v1/sandboxes/{id}/logs?{query}"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["logs"].as_str().unwrap().to_owned()
}

pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// `GET` of a service itself; `None` when nobody answers.
pub(crate) async fn ask(port: u16, path: &str) -> Option<String> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    client
        .get(format!("http://127.0.0.1:{port}{path}"))
        .send()
        .await
        .ok()?
        .text()
        .await
        .ok()
}

/// The directory that belongs to a sandbox.
pub(crate) fn folder(backend: &Backend, id: &str) -> std::path::PathBuf {
    backend.state_dir().join("sandboxes/boxes").join(id)
}
