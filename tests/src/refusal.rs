//! What every refusal looks like, and a list of cases that names all that are wrong, not only
//! the first.

use crate::wire::{Address, Answer, Connection, Exchange};

/// The members a refusal has, and no other.
const MEMBERS: [&str; 6] = ["type", "title", "status", "detail", "reason", "request_id"];

/// Whether `answer` is a refusal with this status and `detail` (any, when it is empty), in the one
/// shape all refusals have: its `reason`, or what is wrong with it.
pub fn judge(answer: &Answer, status: u16, detail: &str) -> Result<String, String> {
    let shown = format!(
        "got {} {:?} {}",
        answer.status,
        answer.headers,
        answer.text()
    );
    let wrong = |what: &str| Err(format!("{status} {detail:?} expected: {what}: {shown}"));
    if answer.status != status {
        return wrong("status");
    }
    let values = |name: &str| -> Vec<&str> {
        answer
            .headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
            .collect()
    };
    if values("content-type") != ["application/problem+json"] {
        return wrong("Content-Type: application/problem+json");
    }
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(&answer.body) else {
        return wrong("a JSON body");
    };
    let Some(object) = body.as_object() else {
        return wrong("a JSON object");
    };
    if MEMBERS.iter().any(|member| !object.contains_key(*member)) || object.len() != MEMBERS.len() {
        return wrong("exactly the members type, title, status, detail, reason, request_id");
    }
    if body["type"] != "about:blank" || body["status"] != status {
        return wrong("type about:blank and the status repeated");
    }
    let text = |member: &str| body[member].as_str().unwrap_or_default().to_owned();
    if text("title").is_empty() {
        return wrong("a title");
    }
    if text("detail").is_empty() || (!detail.is_empty() && text("detail") != detail) {
        return wrong("detail");
    }
    if text("request_id").parse::<ulid::Ulid>().is_err()
        || values("x-request-id") != [text("request_id")]
    {
        return wrong("a request id, the same in X-Request-Id and in the body");
    }
    if matches!(status, 429 | 503) {
        match values("retry-after").as_slice() {
            [seconds] if seconds.parse::<u64>().is_ok_and(|seconds| seconds >= 1) => {}
            _ => return wrong("Retry-After in whole seconds, at least 1"),
        }
    }
    if status == 405 && values("allow").len() != 1 {
        return wrong("Allow");
    }
    let reason = text("reason");
    if reason.is_empty() || !reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return wrong("a reason of one word");
    }
    Ok(reason)
}

/// Fails the test unless [`judge`] is content; the refusal's `reason`.
pub fn assert_refused(answer: &Answer, status: u16, detail: &str) -> String {
    judge(answer, status, detail).unwrap_or_else(|wrong| panic!("{wrong}"))
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
    value
        .parse()
        .unwrap_or_else(|_| panic!("Retry-After in seconds: {value}"))
}

/// Cases of one rule. Every case is tried; [`Cases::finish`] names all that went wrong.
#[derive(Debug, Default)]
pub struct Cases {
    tried: usize,
    wrong: Vec<String>,
}

impl Cases {
    /// No case yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes one case.
    pub fn note<T>(&mut self, name: &str, outcome: Result<T, String>) {
        self.tried += 1;
        if let Err(wrong) = outcome {
            self.wrong.push(format!("* {name}\n  {wrong}"));
        }
    }

    /// Notes a case that holds or does not.
    pub fn holds(&mut self, name: &str, holds: bool, shown: impl FnOnce() -> String) {
        self.note(name, if holds { Ok(()) } else { Err(shown()) });
    }

    /// Sends `bytes` on a new connection and notes whether they were refused so.
    pub async fn refused(
        &mut self,
        name: &str,
        address: &Address,
        bytes: &[u8],
        status: u16,
        detail: &str,
    ) -> Option<Exchange> {
        eprintln!("case: {name}");
        let mut connection = Connection::open(address).await;
        connection.send(bytes).await;
        let method = if bytes.starts_with(b"HEAD ") {
            "HEAD"
        } else {
            "GET"
        };
        match connection.one_answer(method).await {
            None => {
                let wrong = format!("{status} {detail:?} expected: closed without an answer");
                self.note::<()>(name, Err(wrong));
                None
            }
            Some(answer) => {
                self.note(name, judge(&answer, status, detail));
                Some(connection.after(answer).await)
            }
        }
    }

    /// Fails the test if any case was wrong, naming all of them.
    pub fn finish(self) {
        assert!(self.tried > 0, "no case was tried");
        assert!(
            self.wrong.is_empty(),
            "{} of {} cases are wrong:\n{}",
            self.wrong.len(),
            self.tried,
            self.wrong.join("\n")
        );
    }
}
