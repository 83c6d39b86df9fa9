//! Stripe.
//!
//! `Stripe-Signature` is a list of `t=` (the time, in seconds) and `v1=` (lower-case hex of HMAC-SHA256 over
//! `{t}.{body}`), comma between them; `v1` stands there several times while a secret is rolled, and test deliveries
//! carry a `v0` that is passed over. Five minutes of tolerance (docs.stripe.com, *Webhooks*, *Verify webhook signatures
//! manually*). The endpoint's secret begins with `whsec_`, and that is part of the key: it is not base64 as with
//! Standard Webhooks. Event (`type`) and id stand in the body, not in the head.

use super::{
    Header, Provider,
    Role::Signature,
    claim::{self, Claim, Proof, SignedTime},
    form::{self, List},
    within::Path,
};
use crate::{denial::Reason, request_head::RequestHead};

/// See the [module](self).
#[derive(Debug)]
pub struct Stripe;

static HEADERS: [Header; 1] = [Header::new("stripe-signature", Signature)];

const LIST: List = List {
    between: b',',
    behind_version: b'=',
    version: b"v1",
};

impl Provider for Stripe {
    fn name(&self) -> &'static str {
        "stripe"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "`t=` and the time, then `,v1=` and 64 lower-case hex digits"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        let text = claim::signature(head, "stripe-signature")?;
        let mut time = None;
        for item in LIST.items(text)? {
            let (name, value) = item?;
            // Two times: which of them was signed?
            if name == b"t" && time.replace(value).is_some() {
                return Err(Reason::SignatureMalformed);
            }
        }
        let proof = Proof::Sha256(LIST.read(text, form::lower_hex)?);
        let time = time
            .filter(|text| !text.is_empty())
            .ok_or(Reason::TimestampMissing)?;
        Ok(Claim {
            proof,
            time: Some(SignedTime::of_seconds(time)?),
            id: None,
        })
    }

    fn signed<'a>(&'a self, claim: &'a Claim, payload: &'a [u8]) -> Vec<&'a [u8]> {
        let time = claim.time.as_ref().map_or("", SignedTime::text);
        vec![time.as_bytes(), b".", payload]
    }

    fn event_within(&self) -> &[Path] {
        &[&["type"]]
    }

    fn id_within(&self) -> &[Path] {
        &[&["id"]]
    }

    fn written(&self, tag: &[u8], given: &str) -> String {
        let time = given.split(',').find(|item| item.starts_with("t="));
        format!("{},v1={}", time.unwrap_or("t="), hex::encode(tag))
    }
}
