//! The record at the start, and one warning for each insecure switch.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::{DEADLINE, Gateway, Policy, Upstream, eventually};

/// The lines of the log that state the posture.
fn records(gateway: &Gateway) -> Vec<String> {
    gateway
        .output()
        .lines()
        .filter(|line| line.contains("\"event\":\"posture\""))
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

/// The warnings about the posture that name one of `words`.
fn warnings(gateway: &Gateway, words: &[&str]) -> Vec<String> {
    let output = gateway.output();
    output
        .lines()
        .filter(|line| line.contains("\"level\":\"WARN\""))
        .filter(|line| words.iter().any(|word| line.to_lowercase().contains(word)))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn one_warning_stands_for_each_insecure_switch() {
    const BYPASS: &[&str] = &["insecure"];
    const TEST_WEBHOOK: &[&str] = &["test webhook"];
    let upstream = Upstream::tcp().await;
    let env = [
        ("ORKET_ALLOW_INSECURE_NO_API_KEY", "true"),
        ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true"),
    ];
    let mut gateway = Gateway::builtin(upstream.address(), &env).await;
    gateway.program().terminate().await;
    for about in [BYPASS, TEST_WEBHOOK] {
        let found = warnings(&gateway, about);
        assert_eq!(found.len(), 1, "{about:?}: {found:#?}");
    }
    let mut gateway = Gateway::with_key_and_secret(upstream.address()).await;
    gateway.program().terminate().await;
    for about in [BYPASS, TEST_WEBHOOK] {
        assert_eq!(warnings(&gateway, about), Vec::<String>::new());
    }
}
