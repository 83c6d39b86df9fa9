//! The stacks that are built in, each really started: what stands in for their images listens where
//! they would, and answers their health checks.

use bollard::models::ContainerInspectResponse;
use orket_backend::sandbox::stack::template::TEMPLATES;

use super::*;

/// The containers of a sandbox by service.
async fn containers(place: &Place, id: &str) -> Vec<(String, ContainerInspectResponse)> {
    let mut found = Vec::new();
    for container in place.engine.containers(&Place::mark(id)).await {
        let seen = place.engine.api().inspect_container(&container, None).await;
        let seen = seen.unwrap();
        let labels = seen.config.as_ref().unwrap().labels.clone().unwrap();
        found.push((labels["io.orket.service"].clone(), seen));
    }
    found
}

async fn started(name: &str, test: u16) {
    let mut place = place!(
        test,
        "start_timeout = \"3m\"\n[sandboxes.docker]\npull = false"
    );
    let image = place.engine.stand_in().await;
    let template = TEMPLATES.iter().find(|template| template.name == name);
    let text = template.unwrap().text;
    let services: Vec<_> = ["api", "frontend", "db", "admin"]
        .into_iter()
        .filter(|service| text.contains(&format!("\n  {service}:\n")))
        .collect();
    let images: serde_json::Map<_, _> = services
        .iter()
        .map(|service| ((*service).to_owned(), json!(image)))
        .collect();
    let stack = json!({ "template": { "name": name, "images": images } });
    let created = create(&place.backend, &json!({ "stack": stack })).await;
    let id = id(&created);
    let sandbox = reaches(&place.backend, id, "running").await;

    for service in sandbox["services"].as_array().unwrap() {
        let published = service["port"]
            .as_u64()
            .map(|port| u16::try_from(port).unwrap());
        assert_eq!(published.is_none(), service["name"] == "db", "{service}");
        if let Some(port) = published {
            assert!(ask(port, "/").await.is_some(), "{service}");
        }
    }
    // The database is reached by whom it is for, and has its credential.
    let at = |name: &str| {
        let services = sandbox["services"].as_array().unwrap();
        let service = services.iter().position(|service| service["name"] == name);
        service.map(|service| port(&sandbox, service))
    };
    let api = at("api").unwrap();
    assert_eq!(ask(api, "/reach/db/5432").await.as_deref(), Some("reached"));
    let secret = ask(api, "/file/run/secrets/db_password").await.unwrap();
    assert!(secret.starts_with("600 ") && secret.len() > 30);
    if let Some(frontend) = at("frontend") {
        assert_ne!(
            ask(frontend, "/reach/db/5432").await.as_deref(),
            Some("reached")
        );
        let none = ask(frontend, "/file/run/secrets/db_password")
            .await
            .unwrap();
        assert!(!none.starts_with("600 "), "{none}");
    }
    let containers = containers(&place, id).await;
    assert_eq!(containers.len(), services.len());
    for (service, seen) in containers {
        let host = seen.host_config.unwrap();
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]), "{service}");
        assert!(
            host.memory.is_some_and(|memory| memory == 64 << 20),
            "{service}"
        );
        assert_eq!(host.pids_limit, Some(512), "{service}");
        let ports = host.port_bindings.unwrap_or_default();
        let outside = ports.values().flatten().flatten();
        for binding in outside {
            assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"), "{service}");
        }
        let networks = seen.network_settings.unwrap().networks.unwrap();
        if service == "db" {
            let health = seen.state.unwrap().health.unwrap().status;
            assert_eq!(health.unwrap().to_string(), "healthy");
            assert_eq!(host.readonly_rootfs, Some(true));
            assert_eq!(networks.len(), 1);
            let network = networks.keys().next().unwrap();
            let network = place.engine.api().inspect_network(network, None).await;
            assert_eq!(network.unwrap().internal, Some(true));
        }
    }
    place.nothing_left().await;
}

#[tokio::test]
async fn fastapi_react_postgres_is_started() {
    started("fastapi-react-postgres", 112).await;
}

#[tokio::test]
async fn fastapi_vue_mongo_is_started() {
    started("fastapi-vue-mongo", 113).await;
}

#[tokio::test]
async fn csharp_razor_ef_is_started() {
    started("csharp-razor-ef", 114).await;
}

#[tokio::test]
async fn node_react_postgres_is_started() {
    started("node-react-postgres", 115).await;
}

#[tokio::test]
async fn django_react_postgres_is_started() {
    started("django-react-postgres", 35).await;
}

#[test]
fn every_template_is_started_here() {
    let source = orket_tests::repository::read(&orket_tests::repository::root().join(file!()));
    for template in TEMPLATES {
        let call = format!("started(\"{}\",", template.name);
        assert!(source.contains(&call), "{}", template.name);
    }
}
