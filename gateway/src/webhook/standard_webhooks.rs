//! Standard Webhooks, as many senders speak it.
//!
//! `webhook-signature` is a list, separated by spaces, of `v1,` and base64 of HMAC-SHA256 over
//! `{webhook-id}.{webhook-timestamp}.{body}`. The key is the base64 behind `whsec_`, of 24 to 64 bytes. The time is in
//! seconds and may be five minutes off, on both sides; the id is the same when a message is sent again and is meant as
//! idempotency key (the specification at github.com/standard-webhooks, *Signature scheme*). An id with a `.` in it
//! is refused: where it ends would be in doubt. Other versions (`v1a` is Ed25519) are passed over. There is no header
//! for the event; the specification wants it in the body, as `type`.

use super::{
    Header, Provider,
    Role::{Event, Signature, SignedId, Time},
    claim::{self, Claim, Proof, SignedTime},
    form::{self, List},
    key::{self, Key, KeyFault},
    within::Path,
};
use crate::{denial::Reason, request_head::RequestHead, secret::Secret};

/// A sender of this scheme; its header names and what its secrets look like are all that differs.
#[derive(Debug)]
pub struct StandardWebhooks {
    pub(super) name: &'static str,
    /// Signature, time, id, and the event's where there is one.
    pub(super) headers: &'static [Header],
    pub(super) secret: fn(&Secret) -> Result<Secret, KeyFault>,
}

/// The scheme under its own names.
pub static STANDARD_WEBHOOKS: StandardWebhooks = StandardWebhooks {
    name: "standard_webhooks",
    headers: &[
        Header::new("webhook-signature", Signature),
        Header::new("webhook-timestamp", Time),
        Header::new("webhook-id", SignedId),
    ],
    secret: key::whsec,
};

const LIST: List = List {
    between: b' ',
    behind_version: b',',
    version: b"v1",
};

impl StandardWebhooks {
    fn header(&self, role: super::Role) -> &'static str {
        debug_assert!(role != Event);
        self.headers
            .iter()
            .find(|h| h.role == role)
            .map_or("", |h| &h.name)
    }
}

impl Provider for StandardWebhooks {
    fn name(&self) -> &'static str {
        self.name
    }

    fn headers(&self) -> &[Header] {
        self.headers
    }

    fn form(&self) -> &'static str {
        "`v1,` and 44 characters of base64, several of them with a space between"
    }

    fn key(&self, secret: &Secret) -> Result<Key, KeyFault> {
        (self.secret)(secret).map(Key::Sha256)
    }

    fn least_key_bytes(&self) -> Option<usize> {
        Some(24)
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        let text = claim::signature(head, self.header(Signature))?;
        let proof = Proof::Sha256(LIST.read(text, form::base64)?);
        let time = SignedTime::in_header(head, self.header(Time))?;
        let is_free = |b: u8| b.is_ascii_graphic() && b != b'.';
        let id = claim::message_id(head, self.header(SignedId), is_free)?;
        Ok(Claim {
            proof,
            time: Some(time),
            id: Some(id),
        })
    }

    fn signed<'a>(&'a self, claim: &'a Claim, payload: &'a [u8]) -> Vec<&'a [u8]> {
        let id = claim.id.as_deref().unwrap_or_default();
        let time = claim.time.as_ref().map_or("", SignedTime::text);
        vec![id.as_bytes(), b".", time.as_bytes(), b".", payload]
    }

    fn event_within(&self) -> &[Path] {
        if self.headers.iter().any(|h| h.role == Event) {
            &[]
        } else {
            &[&["type"]]
        }
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        format!("v1,{}", STANDARD.encode(tag))
    }
}
