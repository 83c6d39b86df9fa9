//! Engines that are not there, come later, are cut off or hang; images and ports that are not to be had.

use orket_tests::engine::{Relay, Way, program};

use super::*;
use wrapper::Wrapper;

/// `POST /v1/sandboxes` is refused so.
async fn refused(place: &Place, status: u16, reason: &str) -> String {
    let body = json!({ "services": [place.api()] });
    let answer = place.backend.post("/v1/sandboxes", &body).await;
    let said = answer.json();
    assert_eq!(
        (answer.status, said["reason"].as_str()),
        (status, Some(reason)),
        "{said}"
    );
    said["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_engine_that_comes_later_is_found() {
    let more = "[sandboxes.docker]\nsocket = \"{dir}/engine.sock\"\nanswer_timeout = \"5s\"";
    let mut place = place!(92, more);
    let detail = refused(&place, 503, "engine_unreachable").await;
    assert!(detail.contains("engine.sock"), "{detail}");
    assert!(
        listed(&place.backend).await.is_empty(),
        "no record is made in vain"
    );
    assert!(place.backend.output().contains("sandbox_engine_missing"));
    let relay = Relay::open(place.backend.dir());
    assert!(relay.socket().exists());
    let sandbox = place.running(&[place.api()]).await;
    let id = id(&sandbox);

    // Cut off: it is not called ended, and not called well.
    relay.turn(Way::Cut);
    reaches(&place.backend, id, "unhealthy").await;
    assert!(ask(place.base, "/").await.is_some(), "it lives on");
    refused(&place, 503, "engine_unreachable").await;
    relay.turn(Way::Open);
    reaches(&place.backend, id, "running").await;

    // Hung: the same, within bounds.
    relay.turn(Way::Hung);
    reaches(&place.backend, id, "unhealthy").await;
    let detail = refused(&place, 503, "engine_unreachable").await;
    assert!(detail.contains("did not answer"), "{detail}");

    // Nothing is called gone that cannot be seen.
    assert_eq!(delete(&place.backend, id).await.status, 202);
    let metrics = orket_tests::wait::obtain("the fault is told", PATIENCE, || async {
        let metrics = place.backend.get("/v1/system/metrics").await.json();
        metrics["sandbox_driver"]["fault"]
            .is_string()
            .then_some(metrics)
    })
    .await;
    assert_eq!(metrics["sandboxes"], json!({ "stopping": 1 }));
    assert!(ask(place.base, "/").await.is_some());

    // What happened while nobody could look is found out.
    relay.turn(Way::Open);
    reaches(&place.backend, id, "deleted").await;
    place.nothing_left().await;
    super::logs::while_the_engine_is_away(92).await;
}

#[tokio::test]
async fn a_sandbox_that_vanishes_while_the_engine_is_cut_off_is_noticed() {
    let more = "[sandboxes.docker]\nsocket = \"{dir}/engine.sock\"";
    let mut place = place!(93, more);
    let relay = Relay::open(place.backend.dir());
    let sandbox = place.running(&[place.api()]).await;
    relay.turn(Way::Cut);
    reaches(&place.backend, id(&sandbox), "unhealthy").await;
    let container = place.engine.containers(&Place::mark(id(&sandbox))).await;
    place.engine.remove(&container[0]).await;
    assert_eq!(
        look(&place.backend, id(&sandbox)).await["state"],
        "unhealthy"
    );
    relay.turn(Way::Open);
    let failed = reaches(&place.backend, id(&sandbox), "failed").await;
    assert_eq!(failed["reason"], "service_vanished");
    place.nothing_left().await;
    what_nobody_was_told_of_is_looked_for(93).await;
}

/// Something that only a comparison finds, which is due in hours: the loss of the engine's events is what brings
/// it about.
async fn what_nobody_was_told_of_is_looked_for(test: u16) {
    let more = "reconcile = \"10h\"\n[sandboxes.docker]\nsocket = \"{dir}/engine.sock\"";
    let mut place = place!(test, more);
    let relay = Relay::open(place.backend.dir());
    let sandbox = place.running(&[place.api()]).await;
    let id = id(&sandbox);
    delete(&place.backend, id).await;
    reaches(&place.backend, id, "deleted").await;
    let reclaimed = || async {
        let metrics = place.backend.get("/v1/system/metrics").await.json();
        metrics["sandbox_driver"]["leaks_reclaimed"].clone()
    };
    for round in 1..=2 {
        relay.turn(Way::Cut);
        let name = format!("orket-test-late-{}-{round}", id.to_lowercase());
        let instance = place.label().split_once('=').unwrap().1.to_owned();
        let marks = [(INSTANCE, instance.as_str()), ("io.orket.sandbox", id)];
        super::restart::network(&place, &name, &marks).await;
        relay.turn(Way::Open);
        eventually("it is found", PATIENCE, || async {
            reclaimed().await == round
        })
        .await;
        assert_eq!(place.engine.holds(&place.label()).await, [0, 0, 0]);
    }
    place.nothing_left().await;
}

#[tokio::test]
async fn auto_takes_the_engine_for_images_and_serves_commands_without_one() {
    let process = json!({ "name": "api", "command": [program()], "role": "api" });
    let mut place = place!(94, "driver = \"auto\"");
    let metrics = place.backend.get("/v1/system/metrics").await.json();
    assert_eq!(metrics["sandbox_driver"]["name"], "docker", "{metrics}");
    assert!(
        metrics["sandbox_driver"]["compose"]
            .as_str()
            .unwrap()
            .contains("compose")
    );
    assert!(metrics["sandbox_driver"]["engine_version"].is_string());
    assert!(
        place
            .backend
            .output()
            .contains("sandboxes are served by the `docker` driver")
    );
    let contained = place.running(&[place.api()]).await;
    let plain = place.running(std::slice::from_ref(&process)).await;
    assert_eq!(
        (&contained["driver"], &plain["driver"]),
        (&json!("docker"), &json!("process"))
    );
    let mixed = json!({ "services": [place.api(), { "name": "b", "command": ["true"] }] });
    assert_eq!(
        place.backend.post("/v1/sandboxes", &mixed).await.status,
        400
    );
    place.nothing_left().await;

    let more = "driver = \"auto\"\n[sandboxes.docker]\nsocket = \"{dir}/none.sock\"";
    let mut place = place!(95, more);
    let metrics = place.backend.get("/v1/system/metrics").await.json();
    assert_eq!(metrics["sandbox_driver"]["name"], "process", "{metrics}");
    place.running(&[process]).await;
    refused(&place, 503, "engine_unreachable").await;
    place.nothing_left().await;
}

#[tokio::test]
async fn a_driver_that_is_not_asked_for_is_not_used() {
    let mut place = place!(96, "driver = \"process\"");
    let detail = refused(&place, 400, "invalid_request").await;
    assert!(detail.contains("driver"), "{detail}");
    place.nothing_left().await;
    let mut place = place!(97);
    let body = json!({ "services": [{ "name": "a", "command": ["true"] }] });
    assert_eq!(place.backend.post("/v1/sandboxes", &body).await.status, 400);
    place.nothing_left().await;
}

#[tokio::test]
async fn without_a_compose_command_it_is_said_what_to_do() {
    let mut place = place!(98, "[sandboxes.docker]\ncompose = [\"/nowhere/compose\"]");
    let detail = refused(&place, 503, "compose_missing").await;
    assert!(
        detail.contains("/nowhere/compose version") && detail.contains("install"),
        "{detail}"
    );
    place.nothing_left().await;
}

#[tokio::test]
async fn an_image_that_is_not_there_is_named() {
    let mut place = place!(99, "[sandboxes.docker]\npull = false");
    let service = json!({ "name": "a", "image": "orket-test-nowhere:1" });
    let id = place.create(&[service]).await;
    let failed = reaches(&place.backend, &id, "failed").await;
    assert_eq!(failed["reason"], "image_not_found", "{failed}");
    assert!(
        failed["detail"]
            .as_str()
            .unwrap()
            .contains("orket-test-nowhere:1")
    );
    place.nothing_left().await;
}

#[tokio::test]
async fn a_port_that_is_taken_at_the_last_moment_is_exchanged() {
    let mut place = place!(100, Wrapper::CONFIG);
    let wrapper = Wrapper::lay(&place);
    // Somebody takes the port after it was found free and before the engine binds it.
    let thief = format!(
        "HOST=127.0.0.1 PORT={} {} >'{}' &\nuntil [ -s '{}' ]; do sleep 0.02; done\n",
        place.base,
        program().display(),
        place.backend.dir().join("thief").display(),
        place.backend.dir().join("thief").display(),
    );
    wrapper.at("before-up", &thief);
    let sandbox = place.running(&[place.api()]).await;
    assert_eq!(port(&sandbox, 0), place.base + 1, "{sandbox}");
    assert!(place.backend.output().contains("port_conflict"));
    delete(&place.backend, id(&sandbox)).await;
    reaches(&place.backend, id(&sandbox), "deleted").await;

    std::fs::remove_file(place.backend.dir().join("thief")).unwrap();
    wrapper.at("before-up", &thief);
    let mut exactly = place.api();
    exactly["port"] = json!(place.base);
    exactly.as_object_mut().unwrap().remove("role");
    let id = place.create(&[exactly]).await;
    let failed = reaches(&place.backend, &id, "failed").await;
    assert_eq!(failed["reason"], "port_conflict", "{failed}");
    place.nothing_left().await;
}

#[tokio::test]
async fn time_is_up_for_containers_unless_it_is_extended() {
    let mut place = place!(111);
    let body = |ttl: &str| json!({ "ttl": ttl, "services": [place.api()] });
    let short = create(&place.backend, &body("1s")).await;
    let long = create(&place.backend, &body("10m")).await;
    let target = format!("/v1/sandboxes/{}/extend", id(&long));
    let extended = place
        .backend
        .post(&target, &json!({ "ttl": "1h" }))
        .await
        .json();
    assert!(
        extended["expires_at"].as_str() > long["expires_at"].as_str(),
        "{extended}"
    );
    let gone = reaches(&place.backend, id(&short), "deleted").await;
    assert_eq!(gone["reason"], "ttl_expired", "{gone}");
    assert_eq!(
        place.engine.holds(&Place::mark(id(&short))).await,
        [0, 0, 0]
    );
    reaches(&place.backend, id(&long), "running").await;
    place.nothing_left().await;
}
