//! Sentry's integration platform.
//!
//! `Sentry-Hook-Signature` is the lower-case hex of HMAC-SHA256 over the JSON body, under the integration's client secret
//! (docs.sentry.io, *Integration platform*, *Webhooks*). The resource in `Sentry-Hook-Resource`, the id in `Request-ID`
//! and the time in `Sentry-Hook-Timestamp` are not signed; so the time is not judged: it would prove nothing.

use super::{
    Header, Provider,
    Role::{Event, Id, Signature},
    claim::{self, Claim},
    form,
};
use crate::{denial::Reason, request_head::RequestHead};

/// See the [module](self).
#[derive(Debug)]
pub struct Sentry;

static HEADERS: [Header; 3] = [
    Header::new("sentry-hook-signature", Signature),
    Header::new("sentry-hook-resource", Event),
    Header::new("request-id", Id),
];

impl Provider for Sentry {
    fn name(&self) -> &'static str {
        "sentry"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "bare lower-case hex, 64 digits"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        claim::tag(head, "sentry-hook-signature", b"", form::lower_hex).map(Claim::from)
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        hex::encode(tag)
    }
}
