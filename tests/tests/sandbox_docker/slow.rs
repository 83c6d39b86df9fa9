//! Starts that wait for a service that others depend on.

use std::time::Instant;

use super::*;

/// How long the compose command may take by itself.
const ALONE: Duration = Duration::from_secs(110);

/// A stack whose `db` is checked and never found well, so that `api` is not even made.
fn lay(place: &Place, check: &str) -> Value {
    let repository = place.backend.workspace().join("shop");
    std::fs::create_dir_all(&repository).unwrap();
    let image = &place.image;
    let file = format!(
        "services:\n  api:\n    image: {image}\n    ports: [\"8080:80\"]\n    depends_on: {{db: {{condition: service_healthy}}}}\n  db:\n    image: {image}\n    command: [sleep]\n    healthcheck: {{test: [CMD, /service, say, ill, \"1\"], interval: 1s, {check}}}\n"
    );
    std::fs::write(repository.join("compose.yaml"), file).unwrap();
    let own = "[services.api]\nrole = \"api\"\n";
    std::fs::write(repository.join(".orket.toml"), own).unwrap();
    json!({ "stack": { "repository": "shop" } })
}

pub(super) async fn a_dependency_that_is_never_well(test: u16) {
    // It is still in its time of grace when that of the start is over.
    let mut place = place!(test, "start_timeout = \"20s\"");
    let body = lay(&place, "start_period: 10m");
    let begun = Instant::now();
    let created = create(&place.backend, &body).await;
    let failed = reaches(&place.backend, id(&created), "failed").await;
    assert_eq!(failed["reason"], "not_healthy_in_time", "{failed}");
    let detail = failed["detail"].as_str().unwrap();
    assert!(
        detail.contains("`db`") && detail.contains("health check"),
        "{detail}"
    );
    assert!(begun.elapsed() < ALONE, "{:?}", begun.elapsed());
    delete(&place.backend, id(&created)).await;
    reaches(&place.backend, id(&created), "deleted").await;

    // It is found ill before.
    let body = lay(&place, "retries: 1");
    let created = create(&place.backend, &body).await;
    let failed = reaches(&place.backend, id(&created), "failed").await;
    assert_eq!(failed["reason"], "not_healthy_in_time", "{failed}");
    assert!(
        failed["detail"].as_str().unwrap().contains("`db`"),
        "{failed}"
    );
    place.nothing_left().await;

    // Nobody wants it any more while it is being started.
    let mut place = place!(test, "start_timeout = \"10m\"");
    let body = lay(&place, "start_period: 10m");
    for end in ["deleted", "stopped"] {
        let created = create(&place.backend, &body).await;
        let id = id(&created);
        eventually("its first container runs", PATIENCE, || async {
            place.engine.holds(&Place::mark(id)).await[0] > 0
        })
        .await;
        let begun = Instant::now();
        match end {
            "deleted" => assert_eq!(delete(&place.backend, id).await.status, 202),
            _ => assert_eq!(post(&place.backend, id, "stop").await.status, 202),
        }
        let ended = reaches(&place.backend, id, end).await;
        assert!(begun.elapsed() < ALONE, "{:?}: {ended}", begun.elapsed());
        assert_ne!(ended["reason"], "engine_unreachable", "{ended}");
    }
    place.nothing_left().await;
}
