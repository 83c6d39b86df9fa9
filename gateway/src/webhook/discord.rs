//! Discord: interactions and webhook events.
//!
//! `X-Signature-Ed25519` is the lower-case hex of an Ed25519 signature over `{time}{body}`, the time in seconds from
//! `X-Signature-Timestamp`, by the application's key, whose public half is named under `secret` (docs.discord.com,
//! *Interactions overview* and *Webhook events*). Nothing stands between time and body; as the time is canonical and
//! near, no digit can move from one to the other. A `PING` is forwarded like any other body: the answer is the
//! upstream's. A webhook event names itself in `event.type`;
//! an interaction has a number and no name.

use super::{
    Header, Provider,
    Role::{Signature, Time},
    claim::{self, Claim, Proof, SignedTime},
    form,
    key::{self, Key, KeyFault},
    within::Path,
};
use crate::{denial::Reason, request_head::RequestHead, secret::Secret};

/// See the [module](self).
#[derive(Debug)]
pub struct Discord;

static HEADERS: [Header; 2] = [
    Header::new("x-signature-ed25519", Signature),
    Header::new("x-signature-timestamp", Time),
];

impl Provider for Discord {
    fn name(&self) -> &'static str {
        "discord"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "128 lower-case hex digits"
    }

    fn key(&self, secret: &Secret) -> Result<Key, KeyFault> {
        key::ed25519(secret).map(Key::Ed25519)
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        let text = claim::signature(head, "x-signature-ed25519")?;
        let signature = form::lower_hex::<64>(text).ok_or(Reason::SignatureMalformed)?;
        Ok(Claim {
            proof: Proof::Ed25519(Box::new(signature)),
            time: Some(SignedTime::in_header(head, "x-signature-timestamp")?),
            id: None,
        })
    }

    fn signed<'a>(&'a self, claim: &'a Claim, payload: &'a [u8]) -> Vec<&'a [u8]> {
        let time = claim.time.as_ref().map_or("", SignedTime::text);
        vec![time.as_bytes(), payload]
    }

    fn event_within(&self) -> &[Path] {
        &[&["event", "type"]]
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        hex::encode(tag)
    }
}
