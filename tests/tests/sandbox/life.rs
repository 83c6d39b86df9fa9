//! From the record to nothing left.

use std::os::unix::fs::PermissionsExt as _;

use orket_tests::{Backend, DEADLINE, eventually, program::no_process_left, wire::Request};
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_sandbox_lives_answers_stops_and_goes() {
    let backend = Backend::start(&config(0)).await;
    let web = json!({ "name": "web", "command": server(), "role": "frontend" });
    let created = create(
        &backend,
        &json!({ "name": "try it", "services": [api(), web] }),
    )
    .await;
    assert_eq!(created["state"], "creating");
    assert_eq!(created["isolation"], "group");
    assert_eq!((port(&created, 0), port(&created, 1)), (20_000, 20_010));

    let id = id(&created);
    let running = reaches(&backend, id, "running").await;
    assert_eq!(running["services"][0]["state"], "healthy");
    assert_eq!(listed(&backend).await, [id]);
    let pid: u32 = ask(20_000, "/").await.unwrap().parse().unwrap();
    assert!(ask(20_010, "/").await.is_some());

    let all = logs(&backend, id, "service=api").await;
    assert!(
        all.contains("listening on 20000\n") && all.contains("a word on stderr\n"),
        "{all}"
    );
    assert!(
        logs(&backend, id, "service=web")
            .await
            .contains("listening on 20010")
    );
    assert_eq!(
        logs(&backend, id, "service=api&tail=1")
            .await
            .lines()
            .count(),
        1
    );

    let metrics = backend.get("/v1/system/metrics").await.json();
    assert_eq!(metrics["sandboxes"], json!({ "running": 1 }));

    for _ in 0..2 {
        let answer = post(&backend, id, "stop").await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    let stopped = reaches(&backend, id, "stopped").await;
    assert_eq!(stopped["reason"], "stop_requested");
    assert_eq!(stopped["services"][0]["state"], "ended");
    assert!(is_free(20_000) && is_free(20_010));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(
        post(&backend, id, "stop").await.status,
        202,
        "repeating a stop is fine"
    );
    assert_eq!(listed(&backend).await, [id], "stopped is not deleted");
    assert!(
        logs(&backend, id, "service=api")
            .await
            .contains("listening"),
        "logs stay"
    );

    assert_eq!(delete(&backend, id).await.status, 202);
    let deleted = reaches(&backend, id, "deleted").await;
    assert_eq!(
        deleted["reason"], "stop_requested",
        "the first reason stays"
    );
    assert!(listed(&backend).await.is_empty());
    assert!(!folder(&backend, id).exists());
    assert_eq!(
        delete(&backend, id).await.status,
        202,
        "repeating a deletion is fine"
    );
    assert_eq!(post(&backend, id, "stop").await.status, 409);
    assert_eq!(
        backend
            .get(&format!("/v1/sandboxes/{id}/logs?service=api"))
            .await
            .status,
        409
    );
}

#[tokio::test]
async fn the_list_holds_exactly_what_is_not_deleted() {
    let backend = Backend::start(&config(1)).await;
    let mut kept = Vec::new();
    for n in 0..6 {
        let sandbox = create(&backend, &json!({ "services": [api()] })).await;
        reaches(&backend, id(&sandbox), "running").await;
        match n % 3 {
            0 => kept.push(id(&sandbox).to_owned()),
            1 => {
                assert_eq!(post(&backend, id(&sandbox), "stop").await.status, 202);
                reaches(&backend, id(&sandbox), "stopped").await;
                kept.push(id(&sandbox).to_owned());
            }
            _ => {
                assert_eq!(delete(&backend, id(&sandbox)).await.status, 202);
                reaches(&backend, id(&sandbox), "deleted").await;
            }
        }
    }
    kept.reverse();
    assert_eq!(listed(&backend).await, kept, "newest first");
}

#[tokio::test]
async fn ports_are_kept_apart_from_strangers_and_each_other() {
    let backend = Backend::start(&config_with(2, "limit = 12")).await;
    let stranger = TcpListener::bind("127.0.0.1:20200").unwrap();
    let first = create(&backend, &json!({ "services": [api()] })).await;
    assert_eq!(port(&first, 0), 20_201);
    let taken = json!({ "services": [{ "name": "a", "command": server(), "port": 20_200 }] });
    let answer = backend.post("/v1/sandboxes", &taken).await;
    assert_eq!(
        (answer.status, answer.json()["reason"].as_str()),
        (409, Some("port_taken"))
    );
    let held = json!({ "services": [{ "name": "a", "command": server(), "port": 20_201 }] });
    assert_eq!(backend.post("/v1/sandboxes", &held).await.status, 409);
    let outside = json!({ "services": [{ "name": "a", "command": server(), "port": 9 }] });
    assert_eq!(backend.post("/v1/sandboxes", &outside).await.status, 400);

    let many: Vec<_> = (0..8)
        .map(|n| json!({ "name": format!("s{n}"), "command": server(), "role": "api" }))
        .collect();
    let many = create(&backend, &json!({ "services": many })).await;
    let answer = backend
        .post("/v1/sandboxes", &json!({ "services": [api()] }))
        .await;
    assert_eq!(
        (answer.status, answer.json()["reason"].as_str()),
        (503, Some("no_free_port"))
    );
    assert!(answer.header("retry-after").is_some());
    assert_eq!(
        listed(&backend).await.len(),
        2,
        "nothing of the refused ones was recorded"
    );

    drop(stranger);
    assert_eq!(delete(&backend, id(&many)).await.status, 202);
    reaches(&backend, id(&many), "deleted").await;
    let exactly = json!({ "services": [{ "name": "a", "command": server(), "port": 20_200 }] });
    assert_eq!(port(&create(&backend, &exactly).await, 0), 20_200);
}

#[tokio::test]
async fn a_released_port_cools_down() {
    let config = config(3).replace("cool_down = \"0s\"", "cool_down = \"1h\"");
    let backend = Backend::start(&config).await;
    let first = create(&backend, &json!({ "services": [api()] })).await;
    assert_eq!(port(&first, 0), 20_300);
    delete(&backend, id(&first)).await;
    reaches(&backend, id(&first), "deleted").await;
    assert_eq!(
        port(&create(&backend, &json!({ "services": [api()] })).await, 0),
        20_301
    );
}

#[tokio::test]
async fn many_created_at_once_share_no_port() {
    let backend = Backend::start(&config(4)).await;
    let body =
        json!({ "services": [{ "name": "a", "command": ["sleep", "1000"], "role": "api" }] });
    let all = futures_util::future::join_all((0..10).map(|_| create(&backend, &body))).await;
    let mut ports: Vec<_> = all.iter().map(|sandbox| port(sandbox, 0)).collect();
    ports.sort_unstable();
    assert_eq!(ports, (20_400..20_410).collect::<Vec<_>>());
}

#[tokio::test]
async fn credentials_are_random_private_and_named_by_path_only() {
    let mut backend = Backend::start(&config(5)).await;
    let body = json!({ "services": [api()], "credentials": ["db_password", "admin_password"] });
    let created = create(&backend, &body).await;
    let id = id(&created).to_owned();
    reaches(&backend, &id, "running").await;
    let env = ask(20_500, "/env").await.unwrap();
    let mut secrets = Vec::new();
    for name in ["db_password", "admin_password"] {
        let variable = format!("{}_FILE=", name.to_uppercase());
        let path = env
            .lines()
            .find_map(|line| line.strip_prefix(&variable))
            .unwrap();
        assert_eq!(
            std::fs::metadata(path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        let secret = std::fs::read_to_string(path).unwrap();
        assert!(secret.len() >= 32, "{secret}");
        secrets.push(secret);
    }
    assert_ne!(secrets[0], secrets[1]);
    assert!(
        env.contains("ORKET_PORT_API=20500\n") && env.contains(&format!("ORKET_SANDBOX_ID={id}\n"))
    );
    let answers = [
        backend.get(&format!("/v1/sandboxes/{id}")).await.text(),
        backend.get("/v1/sandboxes").await.text(),
        logs(&backend, &id, "").await,
    ];
    delete(&backend, &id).await;
    reaches(&backend, &id, "deleted").await;
    backend.terminate().await;
    let store = std::fs::read(backend.database()).unwrap();
    for secret in secrets {
        assert!(!env.contains(&secret));
        assert!(answers.iter().all(|answer| !answer.contains(&secret)));
        assert!(
            !store
                .windows(secret.len())
                .any(|window| window == secret.as_bytes())
        );
    }
}

#[tokio::test]
async fn values_of_the_environment_are_not_answered() {
    let backend = Backend::start(&config(6)).await;
    let mut service = api();
    service["env"] = json!({ "TOKEN": "planted-value" });
    let created = create(&backend, &json!({ "services": [service] })).await;
    reaches(&backend, id(&created), "running").await;
    assert!(
        ask(20_600, "/env")
            .await
            .unwrap()
            .contains("TOKEN=planted-value\n")
    );
    let answer = backend
        .get(&format!("/v1/sandboxes/{}", id(&created)))
        .await
        .text();
    assert!(
        answer.contains("\"TOKEN\"") && !answer.contains("planted-value"),
        "{answer}"
    );
    assert!(!backend.output().contains("planted-value"));
}

#[tokio::test]
async fn logs_can_be_followed_to_the_end() {
    let backend = Backend::start(&config(7)).await;
    let script = "while [ ! -e go ]; do sleep 0.02; done; echo later; while :; do sleep 1000; done";
    let body = json!({ "services": [{ "name": "a", "command": ["sh", "-c", format!("echo early; {script}")] }] });
    let created = create(&backend, &body).await;
    let id = id(&created);
    reaches(&backend, id, "running").await;
    let target = format!("/v1/sandboxes/{id}/logs?follow=true");
    let follow = Request::get(&target);
    let follow = follow.send(backend.address());
    let rest = async {
        std::fs::write(folder(&backend, id).join("work/go"), "").unwrap();
        eventually("the later line", DEADLINE, || async {
            logs(&backend, id, "").await.contains("later")
        })
        .await;
        post(&backend, id, "stop").await;
    };
    let (answer, ()) = tokio::join!(follow, rest);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let text = answer.text();
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(
        at("early") < at("later") && at("later") < at("event: end"),
        "{text}"
    );
    assert!(at("\"stopped\"") > at("event: end"));
}

#[tokio::test]
async fn nothing_is_left_of_many() {
    let backend = Backend::start(&config(8)).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(id(&create(&backend, &json!({ "services": [api()] })).await).to_owned());
    }
    for id in &ids {
        delete(&backend, id).await;
    }
    for id in &ids {
        reaches(&backend, id, "deleted").await;
    }
    assert!((20_800..20_810).all(is_free));
    let mut backend = backend;
    backend.terminate().await;
    no_process_left(backend.dir()).await;
    for sub in ["boxes", "attempts"] {
        assert_eq!(
            std::fs::read_dir(backend.state_dir().join("sandboxes").join(sub))
                .unwrap()
                .count(),
            0,
            "{sub}"
        );
    }
}
