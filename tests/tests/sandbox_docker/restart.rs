//! Kills of the backend between the steps of making and unmaking, and what is found afterwards.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest};
use bollard::query_parameters::{CreateContainerOptions, StartContainerOptions};

use orket_backend::crash_point::CrashPoint;
use orket_tests::disk::Disk;

use super::*;
use wrapper::Wrapper;

/// Where the wrapper around the compose command kills the backend.
const POINTS: [&str; 4] = ["before-up", "after-up", "before-down", "after-down"];

async fn killed_at(point: &str, test: u16) {
    let mut place = place!(test, Wrapper::CONFIG);
    let wrapper = Wrapper::lay(&place);
    let is_up = point.ends_with("up");
    let id = if is_up {
        wrapper.kill_at(&place, point);
        place.create(&[place.api()]).await
    } else {
        let sandbox = place.running(&[place.api()]).await;
        wrapper.kill_at(&place, point);
        delete(&place.backend, id(&sandbox)).await;
        id(&sandbox).to_owned()
    };
    place.killed().await;
    place.backend.restart().await;
    if is_up {
        let failed = reaches(&place.backend, &id, "failed").await;
        assert_eq!(failed["reason"], "interrupted", "{point}");
        eventually("nothing of it runs", PATIENCE, || async {
            look(&place.backend, &id).await["ended_at"].is_string() && is_free(place.base)
        })
        .await;
    } else {
        reaches(&place.backend, &id, "deleted").await;
    }
    place.nothing_left().await;
}

/// Killed where the backend itself is between two steps.
async fn killed_between(point: CrashPoint, test: u16) {
    let mut place = place!(test);
    place.backend.restart_to_crash(point.name()).await;
    let body = json!({ "services": [place.api()] });
    let created = place.backend.attempt("/v1/sandboxes", &body).await;
    let id = match created.filter(|answer| answer.status == 201) {
        Some(created) => id(&created.json()).to_owned(),
        None => place.only_record(),
    };
    if !matches!(
        point,
        CrashPoint::SandboxRecorded | CrashPoint::SandboxStarted
    ) {
        reaches(&place.backend, &id, "running").await;
        delete(&place.backend, &id).await;
    }
    place.backend.crashed().await;
    place.backend.restart().await;
    if point == CrashPoint::SandboxRecorded {
        // Nothing had been made of it.
        reaches(&place.backend, &id, "running").await;
    } else if point == CrashPoint::SandboxStarted {
        let failed = reaches(&place.backend, &id, "failed").await;
        assert_eq!(failed["reason"], "interrupted", "{failed}");
    } else {
        reaches(&place.backend, &id, "deleted").await;
    }
    place.nothing_left().await;
}

/// Killed when the engine holds nothing any more, and the directory is there.
async fn killed_before_its_directory_goes(test: u16) {
    let mut place = place!(test);
    let sandbox = place.running(&[place.api()]).await;
    let id = id(&sandbox);
    // A directory on which something is mounted cannot be removed.
    let Some(held) = Disk::small(&folder(&place.backend, id).join("held"), "1m") else {
        return place.nothing_left().await;
    };
    delete(&place.backend, id).await;
    eventually("the engine holds nothing", PATIENCE, || async {
        place.backend.output().contains("cannot be removed yet")
            && place.engine.holds(&Place::mark(id)).await == [0, 0, 0]
    })
    .await;
    assert_ne!(look(&place.backend, id).await["state"], "deleted");
    place.backend.kill().await;
    drop(held);
    place.backend.restart().await;
    reaches(&place.backend, id, "deleted").await;
    assert!(!folder(&place.backend, id).exists());
    place.nothing_left().await;
}

#[tokio::test]
async fn a_kill_before_it_is_made_leaves_nothing() {
    killed_at(POINTS[0], 83).await;
    killed_between(CrashPoint::SandboxRecorded, 83).await;
}

#[tokio::test]
async fn a_kill_after_it_is_made_leaves_nothing() {
    killed_at(POINTS[1], 84).await;
    killed_between(CrashPoint::SandboxStarted, 84).await;
}

#[tokio::test]
async fn a_kill_before_it_is_unmade_leaves_nothing() {
    killed_at(POINTS[2], 85).await;
    killed_between(CrashPoint::SandboxEnded, 85).await;
}

#[tokio::test]
async fn a_kill_after_it_is_unmade_leaves_nothing() {
    killed_at(POINTS[3], 86).await;
    killed_before_its_directory_goes(86).await;
    killed_between(CrashPoint::SandboxCleared, 86).await;
}

#[tokio::test]
async fn kills_at_any_moment_leave_nothing() {
    let mut place = place!(87);
    for round in 0..6_u64 {
        let id = place.create(&[place.api()]).await;
        if round % 2 == 1 {
            delete(&place.backend, &id).await;
        }
        // Not a wait for something: the kill shall fall somewhere else each time.
        tokio::time::sleep(Duration::from_millis(round * round * 60)).await;
        place.backend.kill_and_restart().await;
    }
    place.nothing_left().await;
}

#[tokio::test]
async fn a_living_sandbox_is_taken_over() {
    let mut place = place!(88);
    let sandbox = place.running(&[place.api()]).await;
    let id = id(&sandbox);
    let before = place.engine.containers(&Place::mark(id)).await;
    place.backend.kill_and_restart().await;
    assert_eq!(look(&place.backend, id).await["state"], "running");
    ask(place.base, "/sicken").await;
    reaches(&place.backend, id, "unhealthy").await;
    ask(place.base, "/heal").await;
    reaches(&place.backend, id, "running").await;
    assert_eq!(place.engine.containers(&Place::mark(id)).await, before);
    let next = place.running(&[place.api()]).await;
    assert_eq!(port(&next, 0), place.base + 1, "its port is still its own");

    // One that went while nobody looked is noticed.
    place.backend.kill().await;
    place.engine.remove(&before[0]).await;
    // Nor is one what it was that somebody made again and did not start.
    let next = super::id(&next);
    let old = place.engine.containers(&Place::mark(next)).await;
    let seen = place.engine.api().inspect_container(&old[0], None).await;
    let labels = seen.unwrap().config.unwrap().labels.unwrap();
    place.engine.remove(&old[0]).await;
    made(&place, &format!("again-{}", next.to_lowercase()), labels).await;
    place.backend.restart().await;
    for id in [id, next] {
        let failed = reaches(&place.backend, id, "failed").await;
        assert_eq!(failed["reason"], "service_vanished", "{failed}");
    }
    place.nothing_left().await;
}

/// A network that carries these labels.
pub(super) async fn network(place: &Place, name: &str, labels: &[(&str, &str)]) {
    let labels = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        labels: Some(labels.collect()),
        ..NetworkCreateRequest::default()
    };
    place.engine.api().create_network(request).await.unwrap();
}

/// A running container of that name that carries these labels.
async fn container(place: &Place, name: &str, labels: HashMap<String, String>) -> String {
    let made = made(place, name, labels).await;
    let start = None::<StartContainerOptions>;
    let api = place.engine.api();
    api.start_container(&made, start).await.unwrap();
    made
}

/// The same, not started.
async fn made(place: &Place, name: &str, labels: HashMap<String, String>) -> String {
    let options = CreateContainerOptions {
        name: Some(name.to_owned()),
        ..CreateContainerOptions::default()
    };
    let body = ContainerCreateBody {
        image: Some(place.image.clone()),
        cmd: Some(vec!["sleep".to_owned()]),
        labels: Some(labels),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let made = place
        .engine
        .api()
        .create_container(Some(options), body)
        .await
        .unwrap();
    made.id
}

#[tokio::test]
async fn leaks_are_reclaimed_what_is_unclear_is_left_and_strangers_are_not_touched() {
    let mut place = place!(89);
    let sandbox = place.running(&[place.api()]).await;
    let id = id(&sandbox).to_owned();
    let project = format!("orket-{}", id[4..].to_lowercase());
    let instance = place.label().split_once('=').unwrap().1.to_owned();

    // A stranger's, of nearly the same name, in the same compose project, with the sandbox's mark
    // and another store's.
    let strange = [
        ("com.docker.compose.project", project.as_str()),
        ("io.orket.sandbox", id.as_str()),
        (INSTANCE, "01AAAAAAAAAAAAAAAAAAAAAAAA"),
    ];
    let strange = strange.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let name = format!("{project}_api_2");
    let stranger = container(&place, &name, strange.into()).await;

    delete(&place.backend, &id).await;
    reaches(&place.backend, &id, "deleted").await;
    assert_eq!(place.engine.holds(&place.label()).await, [0, 0, 0]);

    // What an engine makes late, after its record was closed, is a leak.
    let late = format!("{project}_late");
    network(
        &place,
        &late,
        &[(INSTANCE, &instance), ("io.orket.sandbox", &id)],
    )
    .await;
    // What no record is about is not.
    let unknown = "sbx_01J00000000000000000000000";
    let unclear = format!("orket-test-unclear-{instance}");
    network(
        &place,
        &unclear,
        &[(INSTANCE, &instance), ("io.orket.sandbox", unknown)],
    )
    .await;
    let metrics = orket_tests::wait::obtain("both are seen", PATIENCE, || async {
        let metrics = place.backend.get("/v1/system/metrics").await.json();
        let driver = metrics["sandbox_driver"].clone();
        (driver["leaks_reclaimed"] == 1 && driver["quarantined"] == json!([unknown]))
            .then_some(driver)
    })
    .await;
    assert_eq!(metrics["name"], "docker");
    let left = place.engine.networks(&place.label()).await;
    assert_eq!(left, [unclear.as_str()]);
    let output = place.backend.output();
    assert!(
        output.contains("sandbox_leak_reclaimed") && output.contains("sandbox_quarantined"),
        "{output}"
    );
    place.engine.api().remove_network(&unclear).await.unwrap();

    let seen = place
        .engine
        .api()
        .inspect_container(&stranger, None)
        .await
        .unwrap();
    assert_eq!(seen.state.unwrap().running, Some(true));
    place.engine.remove(&stranger).await;
    place.nothing_left().await;
}

#[tokio::test]
async fn what_somebody_starts_by_hand_is_ended_again() {
    let mut place = place!(90);
    let sandbox = place.running(&[place.api()]).await;
    let id = id(&sandbox);
    post(&place.backend, id, "stop").await;
    reaches(&place.backend, id, "stopped").await;
    let container = &place.engine.containers(&Place::mark(id)).await[0];
    let start = None::<StartContainerOptions>;
    place
        .engine
        .api()
        .start_container(container, start)
        .await
        .unwrap();
    eventually("it is ended again", PATIENCE, || async {
        let seen = place
            .engine
            .api()
            .inspect_container(container, None)
            .await
            .unwrap();
        seen.state.unwrap().running == Some(false) && is_free(place.base)
    })
    .await;
    place.nothing_left().await;
}

#[tokio::test]
async fn a_stranger_who_has_a_name_that_is_needed_is_left_alone() {
    let mut place = place!(91, "running = 1");
    let first = place.running(&[place.api()]).await;
    let waiting = place.create(&[place.api()]).await;
    let project = format!("orket-{}", waiting[4..].to_lowercase());
    let name = format!("{project}_api_1");
    let stranger = container(&place, &name, HashMap::new()).await;
    delete(&place.backend, id(&first)).await;
    let failed = reaches(&place.backend, &waiting, "failed").await;
    assert_eq!(failed["reason"], "name_conflict", "{failed}");
    assert!(
        failed["detail"].as_str().unwrap().contains(&name),
        "{failed}"
    );
    place.nothing_left().await;
    assert!(
        place
            .engine
            .api()
            .inspect_container(&stranger, None)
            .await
            .is_ok()
    );
    place.engine.remove(&stranger).await;
}
