//! The contract of a driver as one story, told on each of them.

use orket_tests::engine::program;

use super::*;

/// What differs between the drivers: how a service is named, and where it finds its credential.
enum Kind {
    Process,
    Docker { image: String },
}

impl Kind {
    fn service(&self, name: &str, role: &str) -> Value {
        let health = json!({ "path": "/health" });
        match self {
            Self::Process => {
                json!({ "name": name, "command": [program()], "role": role, "health": health })
            }
            Self::Docker { image } => {
                json!({ "name": name, "image": image, "role": role, "health": health })
            }
        }
    }
}

async fn story(backend: &Backend, kind: &Kind, base: u16) {
    let services = [kind.service("api", "api"), kind.service("web", "frontend")];
    let body = json!({ "name": "a story", "build_id": "build-1", "services": services });
    let created = create(backend, &body).await;
    assert_eq!(
        (&created["state"], &created["build_id"]),
        (&json!("creating"), &json!("build-1"))
    );
    assert_eq!((port(&created, 0), port(&created, 1)), (base, base + 20));
    let id = id(&created);

    let running = reaches(backend, id, "running").await;
    assert_eq!(running["services"][0]["state"], "healthy");
    assert!(running["reason"].is_null());
    assert_eq!(listed(backend).await, [id]);

    // The services see where they are, and each other.
    let env = ask(base, "/env").await.unwrap();
    let value = |name: &str| {
        let line = env
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{name}: {env}")).to_owned()
    };
    assert_eq!(value("ORKET_SANDBOX_ID"), id);
    let web = format!(
        "/reach/{}/{}",
        value("ORKET_HOST_WEB"),
        value("ORKET_PORT_WEB")
    );
    assert_eq!(ask(base, &web).await.as_deref(), Some("reached"));
    let secret = ask(base, &format!("/file{}", value("PASSWORD_FILE")))
        .await
        .unwrap();
    let (mode, secret) = secret.split_once(' ').unwrap();
    assert_eq!((mode, secret.len() >= 32), ("600", true), "{secret}");
    assert!(!env.contains(secret));

    assert!(
        logs(backend, id, "service=api")
            .await
            .contains("listening on")
    );
    let both = logs(backend, id, "service=web&tail=1").await;
    assert_eq!(both.lines().count(), 1, "{both}");
    let metrics = backend.get("/v1/system/metrics").await.json();
    assert_eq!(metrics["sandboxes"], json!({ "running": 1 }));

    // Falls ill, and recovers.
    ask(base + 20, "/sicken").await.unwrap();
    let ill = reaches(backend, id, "unhealthy").await;
    assert_eq!(ill["services"][1]["state"], "unhealthy");
    assert_eq!(ill["services"][0]["state"], "healthy");
    ask(base + 20, "/heal").await.unwrap();
    reaches(backend, id, "running").await;

    // Ends, asked twice.
    for _ in 0..2 {
        assert_eq!(post(backend, id, "stop").await.status, 202);
    }
    let stopped = reaches(backend, id, "stopped").await;
    assert_eq!(stopped["reason"], "stop_requested");
    assert_eq!(stopped["services"][0]["state"], "ended");
    assert!(is_free(base) && is_free(base + 20));
    assert_eq!(post(backend, id, "stop").await.status, 202);
    assert_eq!(listed(backend).await, [id]);
    let said = logs(backend, id, "service=api").await;
    assert!(
        said.contains("listening on") && said.contains("ended by TERM"),
        "{said}"
    );

    assert_eq!(delete(backend, id).await.status, 202);
    let deleted = reaches(backend, id, "deleted").await;
    assert_eq!(deleted["reason"], "stop_requested");
    assert!(listed(backend).await.is_empty());
    assert!(!folder(backend, id).exists());
    assert_eq!(delete(backend, id).await.status, 202);
    assert_eq!(post(backend, id, "stop").await.status, 409);
    let gone = backend
        .get(&format!("/v1/sandboxes/{id}/logs?service=api"))
        .await;
    assert_eq!(gone.status, 409);
    fails(backend, kind, base).await;
}

/// One that ends by itself fails, and the others with it; one is deleted while it lives.
async fn fails(backend: &Backend, kind: &Kind, base: u16) {
    let services = [kind.service("api", "api"), kind.service("web", "frontend")];
    let created = create(backend, &json!({ "services": services })).await;
    let id = super::id(&created);
    reaches(backend, id, "running").await;
    ask(base, "/exit").await;
    let failed = reaches(backend, id, "failed").await;
    assert_eq!(failed["reason"], "service_exited");
    let detail = failed["detail"].as_str().unwrap();
    assert!(
        detail.contains("`api`") && detail.contains("exit code 101"),
        "{detail}"
    );
    eventually(
        "the others ended and both ports are free",
        PATIENCE,
        || async {
            let sandbox = look(backend, id).await;
            sandbox["ended_at"].is_string() && is_free(base) && is_free(base + 20)
        },
    )
    .await;
    assert!(
        logs(backend, id, "service=api")
            .await
            .contains("asked to end")
    );
    assert_eq!(delete(backend, id).await.status, 202);
    reaches(backend, id, "deleted").await;

    // Deleted while it lives.
    let created = create(
        backend,
        &json!({ "services": [kind.service("api", "api")] }),
    )
    .await;
    let id = super::id(&created);
    reaches(backend, id, "running").await;
    assert_eq!(delete(backend, id).await.status, 202);
    let deleted = reaches(backend, id, "deleted").await;
    assert_eq!(deleted["reason"], "delete_requested");
    assert!(is_free(base) && !folder(backend, id).exists());
}

#[tokio::test]
async fn it_is_true_of_processes() {
    let more = "driver = \"process\"";
    let backend = Backend::start(&config(70, more)).await;
    story(&backend, &Kind::Process, base(70)).await;
}

#[tokio::test]
async fn it_is_true_of_containers() {
    let mut place = place!(71);
    let kind = Kind::Docker {
        image: place.image.clone(),
    };
    story(&place.backend, &kind, place.base).await;
    place.nothing_left().await;
}
