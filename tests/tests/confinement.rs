//! What a run tries against everything around it, with the real program: each attack is stopped, and
//! each works where confinement is switched off, so that these tests can fail.
//!
//! Nothing is assumed of the machine: what it does not give is said loudly and left out.

mod attacks;
mod bounds;
mod levels;
mod selftest;
mod system_calls;

use orket_tests::{Backend, DEADLINE, wait::obtain};
use serde_json::{Value, json};

/// Another user for runs, which every machine has.
const NOBODY: &str = "65534";

/// The ways in which a command can be kept in, with the configuration of each.
const WAYS: [(&str, &str); 4] = [
    ("confined", "level = \"confined\"\n"),
    ("namespaces", "level = \"auto\"\n"),
    ("contained", "level = \"contained\"\nnetwork = \"none\"\n"),
    (
        "user",
        "level = \"user\"\nnetwork = \"none\"\nrun_as = \"65534\"\n",
    ),
];

/// Confinement switched off.
const OFF: &str = "level = \"group\"\n";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn skip(what: &str) {
    eprintln!("SKIPPED: {what}");
}

/// A backend with this `[confinement]`; `None`, said loudly, where the machine cannot reach it.
async fn backend(confinement: &str) -> Option<Backend> {
    let config = format!("[runs]\ngrace = \"2s\"\n[confinement]\n{confinement}");
    if !reachable(&config).await {
        return None;
    }
    Some(Backend::start(&config).await)
}

async fn reachable(config: &str) -> bool {
    if config.contains("run_as") && !is_root() {
        skip("only root can make commands another user's");
        return false;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("backend.toml");
    std::fs::write(&path, config).unwrap();
    let arguments = ["self-test", "--config", path.to_str().unwrap()];
    let ended = orket_tests::backend::run(dir.path(), &arguments).await;
    // A hole is a failure of ours; that the machine has no means is not.
    if ended.output().contains("cannot be reached here") {
        skip(&ended.output());
        return false;
    }
    // What `auto` comes to is not the same everywhere; these tests mean it with namespaces.
    if config.contains("\"auto\"") && !ended.output().contains("namespaces          own") {
        skip(&ended.output());
        return false;
    }
    true
}

/// Runs a script to its end: the run, and what it said.
async fn run(backend: &Backend, script: &str) -> (Value, String) {
    run_with(backend, json!({ "command": ["sh", "-c", script] })).await
}

async fn run_with(backend: &Backend, body: Value) -> (Value, String) {
    let made = backend.post("/v1/runs", &body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let run = obtain("the end of a run", DEADLINE, || async {
        let run = backend.get(&format!("/v1/runs/{id}")).await.json();
        let state = run["state"].as_str()?;
        let active = ["scheduled", "queued", "running", "canceling"];
        (!active.contains(&state)).then_some(run)
    })
    .await;
    let logs = backend
        .get(&format!("/v1/runs/{id}/logs?limit=500"))
        .await
        .json();
    let items = logs["items"].as_array().cloned().unwrap_or_default();
    let texts = items.iter().filter_map(|item| item["text"].as_str());
    (run, texts.collect())
}
