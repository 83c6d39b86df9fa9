//! Sandboxes of stacks: what a repository's own file asks for, on the engine.

use super::*;

#[tokio::test]
async fn a_repositorys_own_stack_is_run_as_it_was_read() {
    let mut place = place!(101);
    let repository = place.backend.workspace().join("shop");
    std::fs::create_dir_all(&repository).unwrap();
    let image = &place.image;
    let file = format!(
        "services:\n  api:\n    image: {image}\n    user: \"1234:1234\"\n    ports: [\"8080:80\"]\n    networks: [default, back]\n    secrets: [key]\n    environment: {{PRICE: \"5$$\"}}\n    tmpfs: [/scratch]\n    read_only: true\n    mem_limit: 32m\n    depends_on: [inner]\n  inner:\n    image: {image}\n    environment: {{PORT: \"9000\", HOST: 0.0.0.0}}\n    networks: [back]\n    volumes: [\"kept:/kept\"]\nnetworks:\n  back: {{internal: true}}\nvolumes:\n  kept:\nsecrets:\n  key:\n  other:\n"
    );
    std::fs::write(repository.join("compose.yaml"), &file).unwrap();
    std::fs::write(
        repository.join(".orket.toml"),
        "[services.api]\nrole = \"frontend\"\nhealth = \"/health\"\n",
    )
    .unwrap();
    let body = json!({ "stack": { "repository": "shop" } });
    let created = create(&place.backend, &body).await;
    let id = id(&created).to_owned();
    // What was read is the sandbox: the repository may change.
    std::fs::remove_dir_all(&repository).unwrap();
    reaches(&place.backend, &id, "running").await;
    let mark = Place::mark(&id);
    assert_eq!(place.engine.holds(&mark).await, [2, 2, 1]);
    let port = place.base + 20;
    let asked = |path: &'static str| async move { ask(port, path).await.unwrap() };
    assert!(asked("/env").await.contains("PRICE=5$\n"));
    assert!(asked("/file/run/secrets/key").await.starts_with("600 "));
    assert!(!asked("/file/run/secrets/other").await.starts_with("600 "));
    assert_eq!(ask(port, "/write/scratch/x").await.as_deref(), Some(""));
    assert_ne!(ask(port, "/write/x").await.as_deref(), Some(""));
    for container in place.engine.containers(&mark).await {
        let seen = place.engine.api().inspect_container(&container, None).await;
        let seen = seen.unwrap();
        let labels = seen.config.unwrap().labels.unwrap();
        let host = seen.host_config.unwrap();
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        let ports = host.port_bindings.unwrap_or_default();
        let is_api = labels["io.orket.service"] == "api";
        assert_eq!(ports.len(), usize::from(is_api));
        assert_eq!(host.memory, Some(if is_api { 32 << 20 } else { 64 << 20 }));
        assert_eq!(host.readonly_rootfs, Some(is_api));
    }
    place.nothing_left().await;
}

#[tokio::test]
async fn a_stack_that_is_refused_is_told_with_its_lines_and_leaves_nothing() {
    let mut place = place!(102);
    let repository = place.backend.workspace().join("shop");
    std::fs::create_dir_all(&repository).unwrap();
    let file = "services:\n  web:\n    image: nginx:1.27.2\n    privileged: true\n";
    std::fs::write(repository.join("compose.yaml"), file).unwrap();
    for (stack, words) in [
        (
            json!({ "repository": "shop" }),
            "compose.yaml:4:5: error: [privilege]",
        ),
        (
            json!({ "repository": "../shop" }),
            "leads out of the workspace",
        ),
        (json!({ "repository": "nowhere" }), "not a directory"),
        (
            json!({ "template": { "name": "lamp" } }),
            "there is no stack `lamp`",
        ),
        (
            json!({ "template": { "name": "csharp-razor-ef" } }),
            "`api` is missing",
        ),
        (
            json!({ "template": { "name": "csharp-razor-ef", "images": { "api": "nginx" } } }),
            "other than `latest`",
        ),
    ] {
        let answer = place
            .backend
            .post("/v1/sandboxes", &json!({ "stack": stack }))
            .await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{detail}");
    }
    let both = json!({ "stack": { "repository": "shop" }, "credentials": ["a"] });
    assert_eq!(place.backend.post("/v1/sandboxes", &both).await.status, 400);
    place.nothing_left().await;
}
