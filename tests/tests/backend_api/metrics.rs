//! What the backend counts.

use orket_backend::metrics::Metrics;
use orket_tests::{Backend, DEADLINE, convergence, eventually};
use serde_json::json;

#[tokio::test]
async fn work_is_counted_state_by_state_and_the_store_and_the_memory_agree() {
    let mut backend = Backend::start("[runs]\nconcurrency = 1\n").await;
    let answer = backend.get("/metrics").await;
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(answer.text().ends_with("# EOF\n"), "{}", answer.text());

    let holds = json!({ "id": "planted-id", "command": ["sh", "-c", "while [ ! -e go ]; do sleep 0.02; done"] });
    assert_eq!(backend.post("/v1/runs", &holds).await.status, 201);
    crate::backend_runs::reaches(&backend, "planted-id", "running").await;
    for command in ["true", "false"] {
        let body =
            json!({ "command": [command], "retries": 1, "bounds": { "retry_delay": "1ms" } });
        assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
    }
    eventually("what runs and what waits is shown", DEADLINE, || async {
        let page = backend.metrics().await;
        [
            "runs_active 1",
            "attempts_followed 1",
            "runs_unfinished{queue=\"default\",state=\"queued\"} 2",
            "runs_unfinished{queue=\"default\",state=\"active\"} 1",
            "queue_oldest_seconds{queue=\"default\"} ",
            "runs_submitted_total 3",
        ]
        .iter()
        .all(|line| page.contains(&format!("\norket_backend_{line}")))
    })
    .await;
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    convergence::settled(&mut backend).await;
    eventually("every end is counted", DEADLINE, || async {
        backend.metric("attempts_followed").await == 0
            && backend
                .metric("attempts_ended_total{outcome=\"exited\"}")
                .await
                == 4
    })
    .await;
    let page = backend.metrics().await;
    for line in [
        "runs_active 0",
        "runs_ended_total{state=\"succeeded\"} 2",
        "runs_ended_total{state=\"failed\"} 1",
        "run_retries_total 1",
        "run_state_seconds_count{state=\"running\"} 4",
        "run_state_seconds_count{state=\"scheduled\"} 1",
        "run_state_seconds_count{state=\"queued\"} 4",
        "store_commits_failed_total 0",
        "store_readable 1",
        "readers_cut_off_total 0",
        "build_info{version=",
    ] {
        assert!(
            page.contains(&format!("\norket_backend_{line}")),
            "{line}: {page}"
        );
    }
    for name in [
        "store_commit_seconds_count",
        "store_batch_requests_count",
        "store_bytes",
    ] {
        assert!(backend.metric(name).await > 0, "{name}: {page}");
    }
    // Whatever is shown is declared, and so stands in the reference; nothing that was sent is shown.
    for family in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let family = family.split(' ').next().unwrap();
        assert!(
            Metrics::TABLE.iter().any(|d| d.family() == family),
            "{family}"
        );
    }
    assert!(!page.contains("planted"), "{page}");
}
