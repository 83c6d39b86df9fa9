//! `PagerDuty`, webhooks v3.
//!
//! `X-PagerDuty-Signature` is a list of `v1=` and the lower-case hex of HMAC-SHA256 over the raw body, comma between
//! them: one for each secret while one is rolled (developer.pagerduty.com, *Verifying signatures*). The subscription's
//! id is in `X-Webhook-Id`; event and delivery id stand in the body, as `event.event_type` and `event.id`. No time is signed.

use super::{
    Header, Provider,
    Role::Signature,
    claim::{self, Claim, Proof},
    form::{self, List},
    within::Path,
};
use crate::{denial::Reason, request_head::RequestHead};

/// See the [module](self).
#[derive(Debug)]
pub struct PagerDuty;

static HEADERS: [Header; 1] = [Header::new("x-pagerduty-signature", Signature)];

const LIST: List = List {
    between: b',',
    behind_version: b'=',
    version: b"v1",
};

impl Provider for PagerDuty {
    fn name(&self) -> &'static str {
        "pagerduty"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "`v1=` and 64 lower-case hex digits, several of them with a comma between"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        let text = claim::signature(head, "x-pagerduty-signature")?;
        Ok(Proof::Sha256(LIST.read(text, form::lower_hex)?).into())
    }

    fn event_within(&self) -> &[Path] {
        &[&["event", "event_type"]]
    }

    fn id_within(&self) -> &[Path] {
        &[&["event", "id"]]
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        format!("v1={}", hex::encode(tag))
    }
}
