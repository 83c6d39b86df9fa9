//! Deliveries as Gitea makes and signs them.
//!
//! Written from Gitea's own behaviour, not from the gateway's code: it must not share a mistake
//! with what it tests.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::wire::Request;

/// HMAC-SHA256 of `body` under `secret`, in lower-case hex: the value of `X-Gitea-Signature`.
pub fn signature(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length of key serves");
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// SHA-256 in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// One delivery of a Gitea webhook.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// `X-Gitea-Event`.
    pub event: String,
    /// `X-Gitea-Event-Type`.
    pub event_type: String,
    /// `X-Gitea-Delivery`.
    pub id: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Delivery {
    /// A delivery of `event` with this body and an id of its own.
    pub fn new(event: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            event: event.to_owned(),
            event_type: event.to_owned(),
            id: format!("{:032x}", rand::random::<u128>()),
            body: body.into(),
        }
    }

    /// A push that differs from every other one, so that none is a repetition.
    pub fn fresh() -> Self {
        let body = serde_json::json!({
            "ref": "refs/heads/main",
            "after": format!("{:040x}", rand::random::<u128>()),
            "repository": { "full_name": "lab/example" },
        });
        Self::new("push", body.to_string())
    }

    /// *Pull request opened* with this title, for `repository`, differing from every other one.
    pub fn pull_request_opened(repository: &str, title: &str) -> Self {
        let number = rand::random_range(1..1_000_000);
        let body = serde_json::json!({
            "action": "opened",
            "number": number,
            "pull_request": {
                "id": number, "number": number, "title": title, "state": "open",
                "user": { "login": "author" },
                "head": { "ref": "topic", "sha": format!("{:040x}", rand::random::<u128>()) },
                "base": { "ref": "main", "sha": "0000000000000000000000000000000000000000" },
            },
            "repository": { "full_name": repository, "default_branch": "main" },
            "sender": { "login": "author" },
        });
        Self::new("pull_request", body.to_string())
    }

    /// The request without any signature.
    pub fn unsigned(&self, target: &str) -> Request {
        Request::new("POST", target)
            .header("Content-Type", "application/json")
            .header("User-Agent", "Go-http-client/1.1")
            .header("X-Gitea-Delivery", &self.id)
            .header("X-Gitea-Event", &self.event)
            .header("X-Gitea-Event-Type", &self.event_type)
            .body(self.body.clone())
    }

    /// The request as Gitea sends it, signed with `secret`.
    pub fn signed(&self, target: &str, secret: &str) -> Request {
        let signature = signature(secret.as_bytes(), &self.body);
        self.unsigned(target)
            .header("X-Gitea-Signature", &signature)
            .header("X-Hub-Signature-256", &format!("sha256={signature}"))
    }

    /// The request with a well-formed signature that is wrong.
    pub fn forged(&self, target: &str) -> Request {
        self.unsigned(target).header(
            "X-Gitea-Signature",
            &signature(b"not the secret", &self.body),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_the_published_case_of_rfc_4231_says() {
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
