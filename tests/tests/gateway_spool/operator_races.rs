//! An operator acts while deliveries move: either the act comes first, or the operator is told that it does not.

use orket_tests::gateway::WEBHOOK_SECRET;
use orket_tests::gitea::sha256;
use orket_tests::{DEADLINE, Delivery, Gateway, Reaction, Upstream, eventually};
use tempfile::TempDir;

use super::disk::{Disk, private};
use super::{PATH, deliver, emptied, first_waits_because, keys, nowhere, spool, spooled, spooling};

fn times(upstream: &Upstream, delivery: &Delivery) -> usize {
    let key = sha256(&delivery.body);
    keys(upstream).iter().filter(|k| **k == key).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_dropped_is_not_sent_and_what_is_sent_was_not_dropped() {
    let upstream = Upstream::tcp().await;
    let policy = spooling().gitea("body_limit = \"8MiB\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let (mut dropped, mut in_hand) = (0, 0);
    for round in 0..8 {
        upstream.react(Reaction::Answer {
            status: 503,
            content_type: "application/json".into(),
            body: b"{}".to_vec(),
            headers: vec![("Retry-After".into(), "60".into())],
        });
        // Reading a large one takes its time; that is when an operator comes.
        let delivery = Delivery::new("push", vec![b'a' + round; 2_000_000]);
        let id = spooled(&deliver(&gateway, &delivery).await);
        eventually("it waits for another try", DEADLINE, || async {
            let list = spool(&gateway, &["list"]).await.unwrap();
            list["waiting"][0]["attempts"].as_u64() >= Some(2)
        })
        .await;
        let before = times(&upstream, &delivery);
        // Every second time the upstream has it already when the operator comes; else whoever is first is.
        let on_its_way = round % 2 == 1;
        upstream.react(if on_its_way {
            Reaction::Hold
        } else {
            Reaction::ok()
        });
        spool(&gateway, &["retry", &id]).await.unwrap();
        if on_its_way {
            eventually("the upstream has it", DEADLINE, || async {
                times(&upstream, &delivery) > before
            })
            .await;
            let told = spool(&gateway, &["drop", &id]).await.unwrap_err();
            assert!(told.contains("being handed over"), "{told}");
            upstream.react(Reaction::ok());
        }
        let mut outcome = spool(&gateway, &["drop", &id]).await;
        while let Err(told) = &outcome
            && told.contains("being handed over")
        {
            in_hand += 1;
            outcome = spool(&gateway, &["drop", &id]).await;
        }
        emptied(&gateway).await;
        // Whatever was on its way has arrived when a delivery behind it has.
        let behind = Delivery::fresh();
        assert_eq!(deliver(&gateway, &behind).await.status, 200);
        let sent = times(&upstream, &delivery) - before;
        match outcome {
            Ok(_) => {
                dropped += 1;
                assert_eq!(sent, 0, "round {round}: dropped, and sent all the same");
            }
            Err(told) => {
                assert!(told.contains("no such entry"), "{told}");
                assert_eq!(sent, 1, "round {round}");
            }
        }
        let list = spool(&gateway, &["list"]).await.unwrap();
        assert_eq!(list["unreadable"], 0, "a drop is no damage");
    }
    eprintln!("{dropped} dropped before, told {in_hand} times that it is being handed over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_hand_is_not_dropped_however_slow_the_disk_is() {
    let upstream = Upstream::tcp().await;
    let policy = spooling()
        .gitea("rate_limits = [\"few\"]")
        .rest("[[rate_limits]]\nid = \"few\"\nby = \"source\"\nrate = \"10/min\"\nburst = 1\n");
    let builder = Gateway::before(upstream.address()).standard(&policy);
    let Some(disk) = Disk::of_blocks(&builder.dir().join("state/spool")) else {
        return;
    };
    private(&builder.dir().join("state"));
    let gateway = builder.start().await;
    assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, 200);
    let delivery = Delivery::fresh();
    let id = spooled(&deliver(&gateway, &delivery).await);
    eventually("it waits for its budget", DEADLINE, || async {
        let list = spool(&gateway, &["list"]).await.unwrap();
        let first = &list["waiting"][0];
        first["why"] == "over_budget" && !first["next_attempt"].is_null()
    })
    .await;
    // That it is charged is written down first: there the hand-over stands still.
    let stopped = disk.stopped();
    first_waits_because(&gateway, "on_its_way").await;
    let told = spool(&gateway, &["drop", &id]).await.unwrap_err();
    assert!(told.contains("being handed over"), "{told}");
    drop(stopped);
    emptied(&gateway).await;
    assert_eq!(upstream.last().body, delivery.body);
    let list = spool(&gateway, &["list"]).await.unwrap();
    assert_eq!(list["unreadable"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_sender_has_sent_again_meanwhile_is_not_handed_over() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let delivery = Delivery::fresh();
    let id = spooled(&deliver(&gateway, &delivery).await);
    let upstream = Upstream::unix(dir.path());
    upstream.react(Reaction::json(422, "{}"));
    eventually("it is a dead letter", DEADLINE, || async {
        spool(&gateway, &["list"]).await.unwrap()["dead_total"] == 1
    })
    .await;
    // Its sender sends it again, and while that is on its way the operator takes the dead letter back.
    upstream.react(Reaction::Hold);
    let before = times(&upstream, &delivery);
    let (request, address) = (
        delivery.signed(PATH, WEBHOOK_SECRET),
        gateway.address().clone(),
    );
    let again = tokio::spawn(async move { request.send(&address).await });
    upstream.arrived(before + 1).await;
    spool(&gateway, &["retry", &id]).await.unwrap();
    upstream.react(Reaction::ok());
    let answer = again.await.unwrap();
    emptied(&gateway).await;
    // Only on a machine too slow to do all this within the first try is it not settled by that.
    if answer.status == 200 && answer.text().contains("reached") {
        assert_eq!(times(&upstream, &delivery), before + 1);
        super::logged(&gateway, "spool_done_before", 1).await;
    }
}
