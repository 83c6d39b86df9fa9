//! Waiting for a condition, never for a time.

use std::time::Duration;

use tokio::time::Instant;

/// How long anything a test waits for may take before the test fails. Generous: it bounds a hang
/// on a busy machine and asserts nothing about speed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks `condition` again and again until it holds; panics with `what` when the deadline passed.
pub async fn eventually<F, C>(what: &str, deadline: Duration, mut condition: F)
where
    F: FnMut() -> C,
    C: Future<Output = bool>,
{
    let end = Instant::now() + deadline;
    while !condition().await {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As [`eventually`], for a condition that yields what the test goes on with.
pub async fn obtain<F, C, T>(what: &str, deadline: Duration, mut attempt: F) -> T
where
    F: FnMut() -> C,
    C: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
