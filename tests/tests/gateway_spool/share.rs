//! Each source has its share of the spool: whoever has one source's secret does not fill it for the others.

use orket_tests::gateway::{self, WEBHOOK_SECRET};
use orket_tests::{Delivery, Gateway, Policy, Upstream, assert_refused};
use tempfile::TempDir;

use super::{deliver, emptied, logged, metric, nowhere, spool, spooled, spooling, waiting};

/// A second source on `/webhook/other`, to the same upstream, and these bounds.
fn with_other(bounds: &str) -> Policy {
    spooling().rest(&format!(
        r#"[[routes]]
id = "other"
path = "/webhook/other"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
spool = true
upstream = "backend"
[spool]
{bounds}
"#
    ))
}

/// Sends as the first source until it is refused: how many were kept.
async fn fill(gateway: &Gateway) -> usize {
    for kept in 0..20 {
        let answer = deliver(gateway, &Delivery::fresh()).await;
        if answer.status != 202 {
            assert_refused(&answer, 503, "Try again later");
            assert!(answer.header("retry-after").is_some());
            return kept;
        }
    }
    panic!("one source fills the spool")
}

async fn deliver_as_other(gateway: &Gateway) -> String {
    let delivery = Delivery::fresh().signed("/webhook/other", WEBHOOK_SECRET);
    spooled(&delivery.send(gateway.address()).await)
}

#[tokio::test]
async fn a_signed_flooder_leaves_the_others_their_part() {
    for (bounds, share) in [
        ("entries = 10", 5),
        ("entries = 10\nsource_share = 20", 2),
        // A fresh delivery takes about 800 bytes of these.
        ("bytes = \"6KiB\"", 3),
    ] {
        let dir = TempDir::new().unwrap();
        let gateway = Gateway::with_policy(&nowhere(dir.path()), &with_other(bounds)).await;
        assert_eq!(fill(&gateway).await, share, "{bounds}");
        logged(&gateway, "spool_share_full", 1).await;
        for _ in 0..2 {
            deliver_as_other(&gateway).await;
        }
        assert_eq!(waiting(&gateway).await.len(), share + 2);
        let upstream = Upstream::unix(dir.path());
        emptied(&gateway).await;
        assert_eq!(upstream.count(), share + 2);
        assert_eq!(deliver(&gateway, &Delivery::fresh()).await.status, 200);
    }
}

#[tokio::test]
async fn the_share_holds_for_what_a_start_finds_and_for_what_is_taken_back() {
    let dir = TempDir::new().unwrap();
    let mut gateway = Gateway::with_policy(&nowhere(dir.path()), &with_other("entries = 4")).await;
    assert_eq!(fill(&gateway).await, 2);
    gateway.restart().await;
    assert_eq!(fill(&gateway).await, 0);
    let upstream = Upstream::unix(dir.path());
    upstream.react(orket_tests::Reaction::json(422, "{}"));
    emptied(&gateway).await;
    drop(upstream);
    std::fs::remove_file(dir.path().join("upstream.sock")).unwrap();
    assert_eq!(fill(&gateway).await, 2);
    let told = spool(&gateway, &["retry", "--all"]).await.unwrap_err();
    assert!(told.contains("source_share"), "{told}");
    let dead = metric(&gateway, "orket_gateway_spool_dead ", "").await;
    assert_eq!(dead, Some(2.0), "what finds no room stays where it is");
}

#[tokio::test]
async fn a_share_is_a_part_of_a_hundred() {
    let dir = TempDir::new().unwrap();
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    std::fs::write(dir.path().join(name), bytes).unwrap();
    for (share, fine) in [
        (0, false),
        (1, true),
        (100, true),
        (101, false),
        (300, false),
    ] {
        let policy = with_other(&format!("source_share = {share}"));
        let ended = gateway::check(dir.path(), &policy.to_string()).await;
        assert_eq!(ended.status.success(), fine, "{share}: {}", ended.output());
        if !fine {
            assert!(ended.output().contains("1 to 100"), "{}", ended.output());
        }
    }
}
