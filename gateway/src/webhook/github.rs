//! GitHub.
//!
//! `X-Hub-Signature-256` is `sha256=` and the lower-case hex of HMAC-SHA256 over the raw body
//! (docs.github.com, *Validating webhook deliveries*). That holds for the content type *form* as well: there the body is
//! `payload=` and the JSON in percent-encoding, signed and forwarded as it came. The event is in `X-GitHub-Event`, the
//! delivery's id in `X-GitHub-Delivery`; neither is signed, and no time is. The older `X-Hub-Signature` (SHA-1) is
//! not read.

use super::{
    Header, Provider,
    Role::{Event, Id, Signature},
    claim::{self, Claim},
    form,
};
use crate::{denial::Reason, request_head::RequestHead};

/// See the [module](self).
#[derive(Debug)]
pub struct GitHub;

static HEADERS: [Header; 3] = [
    Header::new("x-hub-signature-256", Signature),
    Header::new("x-github-event", Event),
    Header::new("x-github-delivery", Id),
];

impl Provider for GitHub {
    fn name(&self) -> &'static str {
        "github"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "`sha256=` and 64 lower-case hex digits"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        claim::tag(head, "x-hub-signature-256", b"sha256=", form::lower_hex).map(Claim::from)
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        format!("sha256={}", hex::encode(tag))
    }
}
