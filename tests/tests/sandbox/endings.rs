//! Every way a sandbox can end has its reason.

use orket_tests::{Backend, DEADLINE, eventually};
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_service_that_exits_fails_the_sandbox_and_ends_the_others() {
    let backend = Backend::start(&config(20)).await;
    let other = json!({ "name": "other", "command": ["sleep", "1000"] });
    let created = create(&backend, &json!({ "services": [api(), other] })).await;
    let id = id(&created);
    reaches(&backend, id, "running").await;
    ask(22_000, "/exit").await;
    let failed = reaches(&backend, id, "failed").await;
    assert_eq!(failed["reason"], "service_exited");
    assert!(
        failed["detail"].as_str().unwrap().contains("`api`"),
        "{failed}"
    );
    assert!(
        failed["detail"].as_str().unwrap().contains("exit code 101"),
        "{failed}"
    );
    eventually(
        "the others are gone and the port is free",
        DEADLINE,
        || async {
            let sandbox = look(&backend, id).await;
            sandbox["ended_at"].is_string()
                && sandbox["services"][1]["state"] == "ended"
                && is_free(22_000)
        },
    )
    .await;
    assert_eq!(post(&backend, id, "stop").await.status, 409);
    assert!(
        logs(&backend, id, "service=api")
            .await
            .contains("listening")
    );
    assert_eq!(delete(&backend, id).await.status, 202);
    reaches(&backend, id, "deleted").await;
}

#[tokio::test]
async fn what_cannot_be_started_fails_with_its_reason() {
    let backend = Backend::start(&config(21)).await;
    std::fs::write(backend.workspace().join("plain"), "#!/bin/sh\n").unwrap();
    for (command, reason) in [
        ("no-such-command-anywhere", "command_not_found"),
        ("./plain", "launch_failed"),
        ("false", "service_exited"),
    ] {
        let service = json!({ "name": "a", "command": [command], "role": "api", "workdir": "." });
        let created = create(&backend, &json!({ "services": [service] })).await;
        let failed = reaches(&backend, id(&created), "failed").await;
        assert_eq!(failed["reason"], reason, "{failed}");
    }
}

#[tokio::test]
async fn one_that_does_not_become_well_in_time_fails() {
    let backend = Backend::start(&config_with(22, "start_timeout = \"300ms\"")).await;
    let service = json!({ "name": "deaf", "command": ["sleep", "1000"], "role": "api" });
    let created = create(&backend, &json!({ "services": [service] })).await;
    let failed = reaches(&backend, id(&created), "failed").await;
    assert_eq!(failed["reason"], "not_healthy_in_time");
    assert!(
        failed["detail"].as_str().unwrap().contains("`deaf`"),
        "{failed}"
    );
}

#[tokio::test]
async fn one_that_falls_ill_is_unhealthy_and_recovers() {
    let backend = Backend::start(&config(23)).await;
    let created = create(&backend, &json!({ "services": [api()] })).await;
    let id = id(&created);
    reaches(&backend, id, "running").await;
    let sick = folder(&backend, id).join("work/sick");
    std::fs::write(&sick, "").unwrap();
    let unhealthy = reaches(&backend, id, "unhealthy").await;
    assert_eq!(unhealthy["services"][0]["state"], "unhealthy");
    assert!(unhealthy["reason"].is_null());
    std::fs::remove_file(&sick).unwrap();
    reaches(&backend, id, "running").await;
}

#[tokio::test]
async fn time_runs_out_unless_it_is_extended() {
    let backend = Backend::start(&config_with(24, "max_ttl = \"1d\"")).await;
    let body = |ttl: &str| json!({ "ttl": ttl, "services": [api()] });
    let short = create(&backend, &body("1s")).await;
    let long = create(&backend, &body("5m")).await;
    let extend = |body| {
        let (backend, target) = (&backend, format!("/v1/sandboxes/{}/extend", id(&long)));
        async move { backend.post(&target, &body).await }
    };
    let extended = extend(json!({ "ttl": "1h" })).await;
    assert_eq!(extended.status, 200, "{}", extended.text());
    assert!(extended.json()["expires_at"].as_str() > long["expires_at"].as_str());
    assert_eq!(extend(json!({ "ttl": "2d" })).await.status, 400);
    assert_eq!(extend(json!({ "ttl": 0 })).await.status, 400);
    let gone = reaches(&backend, id(&short), "deleted").await;
    assert_eq!(gone["reason"], "ttl_expired");
    assert_eq!(listed(&backend).await, [id(&long)]);
    let answer = backend
        .post(&format!("/v1/sandboxes/{}/extend", id(&short)), &json!({}))
        .await;
    assert_eq!(answer.status, 409);
}
