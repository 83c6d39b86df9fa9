//! What every refusal looks like.

use crate::wire::Answer;

/// The members a refusal has, and no other.
const MEMBERS: [&str; 6] = ["type", "title", "status", "detail", "reason", "request_id"];

/// Fails the test unless `answer` is a refusal with this status and `detail`, in the one shape all
/// refusals have; returns its `reason`.
pub fn assert_refused(answer: &Answer, status: u16, detail: &str) -> String {
    let shown = format!("{} {:?}\n{}", answer.status, answer.headers, answer.text());
    assert_eq!(answer.status, status, "{detail}: {shown}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{shown}"
    );
    let body = answer.json();
    let members: Vec<&str> = body
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    for member in MEMBERS {
        assert!(members.contains(&member), "{member} is missing: {shown}");
    }
    assert_eq!(members.len(), MEMBERS.len(), "a member too many: {shown}");
    assert_eq!(body["type"], "about:blank", "{shown}");
    assert_eq!(body["status"], status, "{shown}");
    assert_eq!(body["detail"], detail, "{shown}");
    assert!(
        !body["title"].as_str().unwrap_or_default().is_empty(),
        "{shown}"
    );
    assert_request_id(answer);
    assert_eq!(
        body["request_id"].as_str(),
        answer.header("x-request-id"),
        "{shown}"
    );
    if matches!(status, 429 | 503) {
        retry_after(answer);
    }
    if status == 405 {
        assert!(
            answer.header("allow").is_some(),
            "405 without Allow: {shown}"
        );
    }
    let reason = body["reason"].as_str().unwrap_or_default().to_owned();
    assert!(
        !reason.is_empty() && reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
        "a reason is one word: {shown}"
    );
    reason
}

/// Fails the test unless the answer carries a request id of ours, and returns it.
pub fn assert_request_id(answer: &Answer) -> String {
    let id = answer.header("x-request-id").unwrap_or_else(|| {
        panic!(
            "{} without X-Request-Id: {:?}",
            answer.status, answer.headers
        )
    });
    assert!(
        id.parse::<ulid::Ulid>().is_ok(),
        "X-Request-Id is not a ULID: {id}"
    );
    id.to_owned()
}

/// The seconds of `Retry-After`; fails the test when there are none.
pub fn retry_after(answer: &Answer) -> u64 {
    let value = answer.header("retry-after").unwrap_or_else(|| {
        panic!(
            "{} without Retry-After: {:?}",
            answer.status, answer.headers
        )
    });
    let seconds = value
        .parse()
        .unwrap_or_else(|_| panic!("Retry-After in seconds: {value}"));
    assert!(seconds >= 1, "Retry-After of nothing");
    seconds
}
