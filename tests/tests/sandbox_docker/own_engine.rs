//! What nobody may do to the machine's engine: stop it, kill it, halt it, use all its networks up.

use orket_tests::engine::OwnEngine;

use super::*;

/// An engine of the test's own, and a backend that works with it. `None` where that cannot be.
async fn places(test: u16, more: &str, arguments: &[String]) -> Option<(OwnEngine, Place)> {
    let addresses = format!("10.231.{}.0/27", test % 256);
    let own = OwnEngine::start(&addresses, arguments).await?;
    let more = format!(
        "{more}[sandboxes.docker]\nanswer_timeout = \"5s\"\nsocket = \"{}\"\n",
        own.socket().display()
    );
    let place = Place::on(own.engine().await, test, &more).await;
    // In this order: what is declared last goes first, and a place needs the engine for that.
    Some((own, place))
}

/// What lets an engine have two networks. Not for one that is begun again: with pools of its own it then
/// removes the machine's bridge.
fn two_networks(test: u16) -> [String; 2] {
    let pool = format!("base=10.231.{}.0/27,size=28", test % 256);
    ["--default-address-pool".to_owned(), pool]
}

macro_rules! places {
    ($($argument:expr),+) => {
        match places($($argument),+).await {
            Some(places) => places,
            None => return,
        }
    };
}

/// What is said to whoever wants a sandbox now.
async fn refused(place: &Place) -> Value {
    let body = json!({ "services": [place.api()] });
    let answer = place.backend.post("/v1/sandboxes", &body).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn a_start_waits_for_a_network_that_another_gives_back() {
    let (_own, mut place) = places!(34, "", &two_networks(34));
    let first = place.running(&[place.api()]).await;
    place.running(&[place.api()]).await;
    let third = place.create(&[place.api()]).await;
    eventually("the third finds no network", PATIENCE, || async {
        place.backend.output().contains("no_address_pool")
    })
    .await;
    assert_eq!(look(&place.backend, &third).await["state"], "creating");
    delete(&place.backend, id(&first)).await;
    reaches(&place.backend, &third, "running").await;
    place.nothing_left().await;
}

#[tokio::test]
async fn a_start_that_finds_no_network_in_time_says_so() {
    let (_own, mut place) = places!(109, "start_timeout = \"10s\"\n", &two_networks(109));
    place.running(&[place.api()]).await;
    place.running(&[place.api()]).await;
    let third = place.create(&[place.api()]).await;
    let failed = reaches(&place.backend, &third, "failed").await;
    assert_eq!(failed["reason"], "no_address_pool", "{failed}");
    let detail = failed["detail"].as_str().unwrap();
    assert!(detail.contains("address pool"), "{failed}");
    place.nothing_left().await;
}

#[tokio::test]
async fn what_a_stopped_engine_held_has_ended() {
    let (mut own, mut place) = places!(110, "", &[]);
    let sandbox = place.running(&[place.api()]).await;
    own.stop().await;
    reaches(&place.backend, id(&sandbox), "unhealthy").await;
    assert_eq!(refused(&place).await["reason"], "engine_unreachable");
    own.begin().await;
    let failed = reaches(&place.backend, id(&sandbox), "failed").await;
    assert_eq!(failed["reason"], "service_exited", "{failed}");
    // The same backend serves on.
    place.running(&[place.api()]).await;
    place.nothing_left().await;
}

#[tokio::test]
async fn what_a_killed_engine_held_has_ended_once_it_is_back() {
    let (mut own, mut place) = places!(120, "", &[]);
    let sandbox = place.running(&[place.api()]).await;
    own.kill().await;
    reaches(&place.backend, id(&sandbox), "unhealthy").await;
    // One that dies while nobody looks is deleted as well.
    assert_eq!(delete(&place.backend, id(&sandbox)).await.status, 202);
    own.begin().await;
    reaches(&place.backend, id(&sandbox), "deleted").await;
    place.running(&[place.api()]).await;
    place.nothing_left().await;
}

#[tokio::test]
async fn what_lives_on_without_its_engine_is_well_again_with_it() {
    let (mut own, mut place) = places!(121, "", &["--live-restore".to_owned()]);
    let sandbox = place.running(&[place.api()]).await;
    own.stop().await;
    let unwell = reaches(&place.backend, id(&sandbox), "unhealthy").await;
    assert_eq!(unwell["ended_at"], Value::Null, "it is not called ended");
    // The backend is restarted meanwhile, too.
    place.backend.kill().await;
    place.backend.restart().await;
    own.begin().await;
    let well = reaches(&place.backend, id(&sandbox), "running").await;
    assert_eq!(port(&well, 0), port(&sandbox, 0));
    place.nothing_left().await;
}

#[tokio::test]
async fn a_halted_engine_holds_nobody_up() {
    let (own, mut place) = places!(122, "", &[]);
    let sandbox = place.running(&[place.api()]).await;
    own.halt();
    reaches(&place.backend, id(&sandbox), "unhealthy").await;
    let said = refused(&place).await;
    let detail = said["detail"].as_str().unwrap();
    assert!(detail.contains("did not answer"), "{said}");
    // What does not need it goes on.
    let run = place
        .backend
        .post("/v1/runs", &json!({ "command": ["true"] }))
        .await;
    assert_eq!(run.status, 201);
    eventually("a run ends", PATIENCE, || async {
        orket_tests::convergence::active_tasks(&place.backend).await == 0
    })
    .await;
    own.resume();
    reaches(&place.backend, id(&sandbox), "running").await;
    place.nothing_left().await;
}
