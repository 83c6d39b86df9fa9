//! Shopify.
//!
//! `X-Shopify-Hmac-SHA256` is the base64 of HMAC-SHA256 over the raw body, under the app's client secret (shopify.dev,
//! *Verify webhooks*). Topic and delivery id (`X-Shopify-Topic`, `X-Shopify-Webhook-Id`) are not signed, and no time is.

use super::{
    Header, Provider,
    Role::{Event, Id, Signature},
    claim::{self, Claim},
    form,
};
use crate::{denial::Reason, request_head::RequestHead};

/// See the [module](self).
#[derive(Debug)]
pub struct Shopify;

static HEADERS: [Header; 3] = [
    Header::new("x-shopify-hmac-sha256", Signature),
    Header::new("x-shopify-topic", Event),
    Header::new("x-shopify-webhook-id", Id),
];

impl Provider for Shopify {
    fn name(&self) -> &'static str {
        "shopify"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "44 characters of base64"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        claim::tag(head, "x-shopify-hmac-sha256", b"", form::base64).map(Claim::from)
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        STANDARD.encode(tag)
    }
}
