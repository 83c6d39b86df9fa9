//! What is told of a sandbox's life, and in which order.

use orket_tests::{Backend, Told, Watch};

use super::*;

/// Events of sandboxes until one of this kind.
async fn until(watch: &mut Watch, kind: &str) -> Vec<Told> {
    let mut seen = Vec::new();
    loop {
        let told = watch.next().await.expect("an open stream");
        let is_last = told.kind == kind;
        if told.kind.starts_with("sandbox.") {
            seen.push(told);
        }
        if is_last {
            return seen;
        }
    }
}

/// Kinds and reasons of what was told of a sandbox.
fn told(events: &[Told], id: &str) -> Vec<(String, Option<String>)> {
    let mut last = 0;
    let of_it = events
        .iter()
        .filter(|told| told.data.to_string().contains(id));
    of_it
        .map(|told| {
            let number = told.id.unwrap();
            assert!(number > last, "in order");
            last = number;
            let reason = told.data["data"]["reason"].as_str();
            (told.kind.clone(), reason.map(str::to_owned))
        })
        .collect()
}

fn expected(life: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    life.iter()
        .map(|(kind, reason)| (format!("sandbox.{kind}"), reason.map(str::to_owned)))
        .collect()
}

#[tokio::test]
async fn a_life_is_told_in_its_order_with_its_reasons() {
    let backend = Backend::start(&config(32)).await;
    let mut watch = Watch::open(backend.address(), "/v1/events", None).await;
    let services = |command: &[&str]| json!({ "services": [{ "name": "a", "command": command }] });
    let created = create(&backend, &services(&["sleep", "1000"])).await;
    let (first, mut events) = (id(&created), until(&mut watch, "sandbox.running").await);
    post(&backend, first, "stop").await;
    events.extend(until(&mut watch, "sandbox.stopped").await);
    delete(&backend, first).await;
    events.extend(until(&mut watch, "sandbox.deleted").await);
    let stop = Some("stop_requested");
    assert_eq!(
        told(&events, first),
        expected(&[
            ("creating", None),
            ("running", None),
            ("stopping", stop),
            ("stopped", stop),
            ("deleted", stop)
        ])
    );

    let created = create(&backend, &services(&["no-such-command-anywhere"])).await;
    let mut events = until(&mut watch, "sandbox.failed").await;
    delete(&backend, id(&created)).await;
    events.extend(until(&mut watch, "sandbox.deleted").await);
    let why = Some("command_not_found");
    let life = told(&events, id(&created));
    let life: Vec<_> = life
        .iter()
        .filter(|(kind, _)| kind != "sandbox.running")
        .cloned()
        .collect();
    assert_eq!(
        life,
        expected(&[("creating", None), ("failed", why), ("deleted", why)])
    );

    let created = create(&backend, &services(&["sleep", "1000"])).await;
    until(&mut watch, "sandbox.running").await;
    delete(&backend, id(&created)).await;
    let events = until(&mut watch, "sandbox.deleted").await;
    let why = Some("delete_requested");
    let life = [("stopping", why), ("stopped", why), ("deleted", why)];
    assert_eq!(told(&events, id(&created)), expected(&life));
}
