//! `CircleCI`, outbound webhooks.
//!
//! `circleci-signature` is a list of versions and signatures, comma between them, of which `v1=` is the lower-case hex of
//! HMAC-SHA256 over the raw body (circleci.com/docs/outbound-webhooks). The event is in the body's `type`, and in
//! `circleci-event-type`, not signed; the id stands in the body. No time is signed.

use super::{
    Header, Provider,
    Role::{Event, Signature},
    claim::{self, Claim, Proof},
    form::{self, List},
    within::Path,
};
use crate::{denial::Reason, request_head::RequestHead};

/// See the [module](self).
#[derive(Debug)]
pub struct CircleCi;

static HEADERS: [Header; 2] = [
    Header::new("circleci-signature", Signature),
    Header::new("circleci-event-type", Event),
];

const LIST: List = List {
    between: b',',
    behind_version: b'=',
    version: b"v1",
};

impl Provider for CircleCi {
    fn name(&self) -> &'static str {
        "circleci"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "`v1=` and 64 lower-case hex digits"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        let text = claim::signature(head, "circleci-signature")?;
        Ok(Proof::Sha256(LIST.read(text, form::lower_hex)?).into())
    }

    fn event_within(&self) -> &[Path] {
        &[&["type"]]
    }

    fn id_within(&self) -> &[Path] {
        &[&["id"]]
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        format!("v1={}", hex::encode(tag))
    }
}
