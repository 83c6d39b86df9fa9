//! Kills at any moment, and files that are not what they were: what was acknowledged is there, what is damaged is told.

use std::os::unix::fs::{PermissionsExt, symlink};

use orket_tests::gateway::WEBHOOK_SECRET;
use orket_tests::gitea::sha256;
use orket_tests::{DEADLINE, Delivery, Gateway, Upstream, eventually};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::{
    PATH, deliver, emptied, files, keys, logged, nowhere, spool, spooled, spooling, waiting,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let mut acknowledged = Vec::new();
    for round in 0..12 {
        let address = gateway.address().clone();
        let mut senders = JoinSet::new();
        for _ in 0..4 {
            let address = address.clone();
            senders.spawn(async move {
                let mut kept = Vec::new();
                loop {
                    let delivery = Delivery::fresh();
                    let bytes = delivery.signed(PATH, WEBHOOK_SECRET).bytes(&address);
                    let Ok(Ok(mut stream)) =
                        tokio::time::timeout(DEADLINE, address.connect()).await
                    else {
                        return kept;
                    };
                    let mut answer = vec![0; 12];
                    if stream.write_all(&bytes).await.is_err()
                        || stream.read_exact(&mut answer).await.is_err()
                    {
                        return kept;
                    }
                    assert_eq!(answer, b"HTTP/1.1 202");
                    kept.push(sha256(&delivery.body));
                }
            });
        }
        // Each round is cut off after another number of files.
        let spool = gateway.dir().join("state/spool/waiting");
        let goal = files(&spool).len() + 1 + round * 3;
        eventually("some are kept", DEADLINE, || async {
            files(&spool).len() >= goal
        })
        .await;
        gateway.program().kill().await;
        for kept in senders.join_all().await {
            acknowledged.extend(kept);
        }
        gateway.restart().await;
        assert!(
            !gateway.output().contains("spool_unreadable"),
            "{}",
            gateway.output()
        );
    }
    let upstream = Upstream::unix(dir.path());
    // Killed while it hands over, too.
    for _ in 0..3 {
        let before = upstream.count();
        upstream.arrived(before + 5).await;
        gateway.restart().await;
    }
    emptied(&gateway).await;
    let seen = keys(&upstream);
    assert!(!acknowledged.is_empty());
    for key in &acknowledged {
        assert!(seen.contains(key), "an acknowledged delivery is lost");
    }
}

#[tokio::test]
async fn what_is_damaged_is_set_aside_and_told_and_the_rest_goes_on() {
    let dir = TempDir::new().unwrap();
    let mut gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    let deliveries: Vec<_> = (0..5).map(|_| Delivery::fresh()).collect();
    for delivery in &deliveries {
        spooled(&deliver(&gateway, delivery).await);
    }
    gateway.program().kill().await;
    let place = gateway.dir().join("state/spool/waiting");
    let names = files(&place);
    // A torn one, one with a bit turned, one that others could have written, a link, and what is no entry at all.
    let first = std::fs::read(place.join(&names[0])).unwrap();
    std::fs::write(place.join(&names[0]), &first[..first.len() / 2]).unwrap();
    let mut second = std::fs::read(place.join(&names[1])).unwrap();
    let last = second.len() - 1;
    second[last] ^= 1;
    std::fs::write(place.join(&names[1]), &second).unwrap();
    std::fs::set_permissions(
        place.join(&names[2]),
        std::fs::Permissions::from_mode(0o666),
    )
    .unwrap();
    let target = gateway.dir().join("gateway.toml");
    symlink(&target, place.join("00000000000000000001-link.entry")).unwrap();
    std::fs::write(place.join("note"), "hello").unwrap();
    // An entry under the name of another, and what was being written when it was killed.
    std::fs::copy(
        place.join(&names[3]),
        place.join("00000000000000000777-X.entry"),
    )
    .unwrap();
    std::fs::write(gateway.dir().join("state/spool/new/half"), "half").unwrap();
    gateway.restart().await;
    assert_eq!(waiting(&gateway).await.len(), 2);
    let list = spool(&gateway, &["list"]).await.unwrap();
    assert_eq!(list["unreadable"], 6);
    logged(&gateway, "spool_unreadable", 6).await;
    assert!(files(&gateway.dir().join("state/spool/new")).is_empty());
    assert!(target.exists(), "what a link points to is left alone");
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    let expected: Vec<_> = deliveries[3..].iter().map(|d| sha256(&d.body)).collect();
    assert_eq!(keys(&upstream), expected);
    // What could not be read is not known: its sender can send it again.
    assert_eq!(deliver(&gateway, &deliveries[0]).await.status, 200);
}

#[tokio::test]
async fn what_is_damaged_while_it_waits_is_never_sent() {
    let dir = TempDir::new().unwrap();
    let gateway = Gateway::with_policy(&nowhere(dir.path()), &spooling()).await;
    spooled(&deliver(&gateway, &Delivery::fresh()).await);
    let good = Delivery::fresh();
    spooled(&deliver(&gateway, &good).await);
    let place = gateway.dir().join("state/spool/waiting");
    let name = &files(&place)[0];
    let mut bytes = std::fs::read(place.join(name)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(place.join(name), bytes).unwrap();
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    assert_eq!(upstream.only().body, good.body);
    assert_eq!(
        files(&gateway.dir().join("state/spool/unreadable")).len(),
        1
    );
}
