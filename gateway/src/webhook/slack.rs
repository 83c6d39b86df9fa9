//! Slack: events, commands and interactions.
//!
//! `X-Slack-Signature` is `v0=` and the lower-case hex of HMAC-SHA256 over `v0:{time}:{body}`, the time in seconds from
//! `X-Slack-Request-Timestamp`; older than five minutes is to be refused (docs.slack.dev, *Verifying requests from
//! Slack*). The body is signed and forwarded as it is, be it JSON or a form. So is `url_verification`: its challenge
//! is the upstream's to answer. Event and id stand in
//! the body where that is JSON: `event.type` (else `type`) and `event_id`; commands and interactions are forms and have none.

use super::{
    Header, Provider,
    Role::{Signature, Time},
    claim::{self, Claim, SignedTime},
    form,
    within::Path,
};
use crate::{denial::Reason, request_head::RequestHead};

/// See the [module](self).
#[derive(Debug)]
pub struct Slack;

static HEADERS: [Header; 2] = [
    Header::new("x-slack-signature", Signature),
    Header::new("x-slack-request-timestamp", Time),
];

impl Provider for Slack {
    fn name(&self) -> &'static str {
        "slack"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "`v0=` and 64 lower-case hex digits"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        let proof = claim::tag(head, "x-slack-signature", b"v0=", form::lower_hex)?;
        Ok(Claim {
            time: Some(SignedTime::in_header(head, "x-slack-request-timestamp")?),
            ..proof.into()
        })
    }

    fn signed<'a>(&'a self, claim: &'a Claim, payload: &'a [u8]) -> Vec<&'a [u8]> {
        let time = claim.time.as_ref().map_or("", SignedTime::text);
        vec![b"v0:", time.as_bytes(), b":", payload]
    }

    fn event_within(&self) -> &[Path] {
        &[&["event", "type"], &["type"]]
    }

    fn id_within(&self) -> &[Path] {
        &[&["event_id"]]
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        format!("v0={}", hex::encode(tag))
    }
}
