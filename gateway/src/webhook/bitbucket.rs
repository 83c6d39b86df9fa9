//! Bitbucket, Cloud and Data Center.
//!
//! `X-Hub-Signature` is `sha256=` and the lower-case hex of HMAC-SHA256 over the raw body (support.atlassian.com, *Manage
//! webhooks*): the header that GitHub uses for SHA-1 carries SHA-256 here. The event is in `X-Event-Key`, the
//! request's id in `X-Request-UUID` (Cloud); neither is signed, and no time is.

use super::{
    Header, Provider,
    Role::{Event, Id, Signature},
    claim::{self, Claim},
    form,
};
use crate::{denial::Reason, request_head::RequestHead};

/// See the [module](self).
#[derive(Debug)]
pub struct Bitbucket;

static HEADERS: [Header; 3] = [
    Header::new("x-hub-signature", Signature),
    Header::new("x-event-key", Event),
    Header::new("x-request-uuid", Id),
];

impl Provider for Bitbucket {
    fn name(&self) -> &'static str {
        "bitbucket"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "`sha256=` and 64 lower-case hex digits"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        claim::tag(head, "x-hub-signature", b"sha256=", form::lower_hex).map(Claim::from)
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        format!("sha256={}", hex::encode(tag))
    }
}
