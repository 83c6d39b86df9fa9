//! Output that never pauses, and output while the engine is away.

use orket_tests::{
    Watch,
    engine::{Relay, Way},
};

use super::*;

/// Numbers of the lines that a service with `tick` has written.
fn ticks(text: &str) -> Vec<u64> {
    let numbers = text.split("tick ").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit());
        rest[..end.unwrap_or(rest.len())].parse().unwrap()
    });
    numbers.collect()
}

/// Follows to the end, and says what is said there.
async fn to_end(watch: &mut Watch, followed: &mut Vec<u64>) -> Value {
    loop {
        let told = watch.must_next().await;
        if told.kind == "end" {
            return told.data;
        }
        followed.extend(ticks(told.data["text"].as_str().unwrap_or_default()));
    }
}

/// Whoever writes without a pause is read as well, to its present end and on.
pub(super) async fn without_a_pause(test: u16) {
    let mut place = place!(test);
    let sandbox = place
        .running(&[place.service("busy", &["tick", "2"])])
        .await;
    let id = id(&sandbox);
    let seen = obtain("some output", PATIENCE, || async {
        let seen = ticks(&logs(&place.backend, id, "tail=50").await);
        (seen.len() == 50).then_some(seen)
    })
    .await;
    let later = ticks(&logs(&place.backend, id, "tail=50").await);
    assert!(later.last() > seen.last(), "it goes on: {later:?}");

    let target = format!("/v1/sandboxes/{id}/logs?follow=true&tail=5");
    let mut watch = Watch::open(place.backend.address(), &target, None).await;
    let mut followed = Vec::new();
    while followed.len() < 500 {
        let told = watch.next().await.expect("a stream that goes on");
        followed.extend(ticks(told.data["text"].as_str().unwrap()));
    }
    post(&place.backend, id, "stop").await;
    let end = to_end(&mut watch, &mut followed).await;
    assert_eq!(end["state"], "stopped");
    let first = followed[0];
    let expected: Vec<_> = (first..first + followed.len() as u64).collect();
    assert_eq!(followed, expected, "each line once, in order");
    place.nothing_left().await;
}

/// While the engine is away it is said so, and who follows goes on afterwards.
pub(super) async fn while_the_engine_is_away(test: u16) {
    let more = "[sandboxes.docker]\nsocket = \"{dir}/engine.sock\"\nanswer_timeout = \"5s\"";
    let mut place = place!(test, more);
    let relay = Relay::open(place.backend.dir());
    let sandbox = place
        .running(&[place.service("slow", &["tick", "100"])])
        .await;
    let id = id(&sandbox);
    let target = format!("/v1/sandboxes/{id}/logs?follow=true");
    let mut watch = Watch::open(place.backend.address(), &target, None).await;
    // It has begun before anything breaks.
    let first = watch.must_next().await;
    let mut followed = ticks(first.data["text"].as_str().unwrap());
    for way in [Way::Cut, Way::Hung] {
        let count = ticks(&logs(&place.backend, id, "").await).len();
        relay.turn(way);
        reaches(&place.backend, id, "unhealthy").await;
        let answer = place.backend.get(&format!("/v1/sandboxes/{id}/logs")).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.json()["reason"], "engine_unreachable");
        assert!(answer.header("retry-after").is_some());
        relay.turn(Way::Open);
        reaches(&place.backend, id, "running").await;
        eventually("there is more", PATIENCE, || async {
            ticks(&logs(&place.backend, id, "").await).len() > count + 10
        })
        .await;
    }
    post(&place.backend, id, "stop").await;
    to_end(&mut watch, &mut followed).await;
    let expected: Vec<_> = (0..followed.len() as u64).collect();
    assert_eq!(followed, expected, "each line once, in order");
    place.nothing_left().await;
}

/// Who follows from the beginning hears the last words of a service that ends at once.
#[tokio::test]
async fn last_words_are_heard_by_who_follows() {
    let mut place = place!(36);
    for _ in 0..5 {
        let service = place.service("fatal", &["say", "last words", "3"]);
        let id = place.create(&[service]).await;
        let target = format!("/v1/sandboxes/{id}/logs?follow=true");
        let mut watch = Watch::open(place.backend.address(), &target, None).await;
        let mut heard = String::new();
        loop {
            let told = watch.must_next().await;
            if told.kind == "end" {
                assert_eq!(told.data["state"], "failed", "{}", told.data);
                break;
            }
            heard.push_str(told.data["text"].as_str().unwrap());
        }
        assert_eq!(heard.matches("last words").count(), 1, "{heard:?}");
    }
    place.nothing_left().await;
}
