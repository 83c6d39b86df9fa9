//! Proof by a sender's signature: its form before the body is read, its MAC over the raw bytes after.

use bytes::Bytes;
use http::header;
use jiff::Timestamp;

use crate::{
    connection::framing::Framing,
    denial::Reason,
    policy::WebhookAuth,
    request_head::RequestHead,
    webhook::{Payload, Signature},
};

/// The largest chunked webhook: above it a `Content-Length` is asked for. No forge sends one.
pub const MAX_CHUNKED_BYTES: usize = 64 * 1024;

/// What can be told from the head: the signature's form, and that the body may be read at all.
pub fn check_head(
    auth: &WebhookAuth,
    head: &RequestHead<'_>,
    body_limit: usize,
) -> Result<Signature, Reason> {
    for name in auth.provider.security_headers() {
        head.at_most_one(name)?;
    }
    // The type decides what was signed.
    head.at_most_one(header::CONTENT_TYPE.as_str())?;
    if auth.secrets.is_empty() {
        return Err(Reason::WebhookSecretNotConfigured);
    }
    let signature = auth.provider.signature(head)?;
    if head.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Reason::ContentEncodingRefused);
    }
    match head.framing {
        Framing::Length(n) if n > body_limit as u64 => Err(Reason::BodyTooLarge),
        Framing::None | Framing::Length(_) | Framing::Chunked => Ok(signature),
    }
}

/// A payload whose signature fits a live secret. Only [`verify`] makes one.
#[derive(Debug)]
pub struct Verified {
    payload: Payload,
}

impl Verified {
    /// The proven payload.
    pub fn into_payload(self) -> Payload {
        self.payload
    }
}

/// Checks the MAC over the raw bytes. Every live secret is tried, whichever fits.
pub fn verify(
    auth: &WebhookAuth,
    head: &RequestHead<'_>,
    signature: Signature,
    body: Bytes,
    now: Timestamp,
) -> Result<Verified, Reason> {
    let payload = auth.provider.payload(head, body)?;
    let fits = auth
        .secrets
        .iter()
        .filter(|s| s.expires.is_none_or(|end| now < end))
        .fold(false, |fits, live| {
            fits | live.secret.verifies_sha256(payload.bytes(), &signature.0)
        });
    if fits {
        Ok(Verified { payload })
    } else {
        Err(Reason::SignatureWrong)
    }
}
