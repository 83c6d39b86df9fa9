//! The record at the start, and one warning for each insecure switch.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{DEADLINE, Gateway, Policy, Upstream, eventually};

/// The lines of the log that state the posture.
fn records(gateway: &Gateway) -> Vec<String> {
    gateway
        .output()
        .lines()
        .filter(|line| line.contains("posture"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn one_record_states_the_posture_of_the_built_in_policy() {
    let upstream = Upstream::tcp().await;
    let env = [
        ("ORKET_API_KEY", API_KEY),
        ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("ORKET_ENV", "production"),
    ];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    eventually("the posture is stated", DEADLINE, || async {
        !records(&gateway).is_empty()
    })
    .await;
    let records = records(&gateway);
    assert_eq!(records.len(), 1, "{records:?}");
    assert!(records[0].contains("production"), "{records:?}");
    assert!(!records[0].contains(API_KEY) && !records[0].contains(WEBHOOK_SECRET));
}

#[tokio::test]
async fn one_record_states_the_posture_of_a_policy_file() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    eventually("the posture is stated", DEADLINE, || async {
        !records(&gateway).is_empty()
    })
    .await;
    assert_eq!(records(&gateway).len(), 1);
    assert!(!gateway.output().contains(WEBHOOK_SECRET));
}

fn warnings(gateway: &Gateway, about: &str) -> usize {
    let about = about.to_lowercase();
    let output = gateway.output().to_lowercase();
    output
        .lines()
        .filter(|line| line.contains("warn") && line.contains(&about))
        .count()
}

#[tokio::test]
async fn one_warning_stands_for_each_insecure_switch() {
    let upstream = Upstream::tcp().await;
    let insecure = ("ORKET_ALLOW_INSECURE_NO_API_KEY", "true");
    let test = ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true");
    let gateway = Gateway::builtin(upstream.address(), &[insecure, test]).await;
    for (variable, _) in [insecure, test] {
        eventually(variable, DEADLINE, || async {
            warnings(&gateway, variable) > 0
        })
        .await;
        assert_eq!(warnings(&gateway, variable), 1, "{}", gateway.output());
    }
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for (variable, _) in [insecure, test] {
        assert_eq!(warnings(&gateway, variable), 0, "{}", gateway.output());
    }
}
