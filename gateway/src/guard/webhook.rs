//! Proof by a sender's signature: its form before the body is read, its MAC over the raw bytes after.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use jiff::Timestamp;

use crate::{
    connection::framing::Framing,
    denial::Reason,
    policy::WebhookAuth,
    request_head::RequestHead,
    webhook::{Payload, claim::Claim},
};

/// The largest chunked webhook: above it a `Content-Length` is asked for. No forge sends one.
pub const MAX_CHUNKED_BYTES: usize = 64 * 1024;

/// Whether so much of a chunked body may have come, where `limit` bytes are taken of any.
pub fn chunked_within(bytes: usize, limit: usize) -> Result<(), Reason> {
    if bytes <= limit.min(MAX_CHUNKED_BYTES) {
        Ok(())
    } else if limit <= MAX_CHUNKED_BYTES {
        Err(Reason::BodyTooLarge)
    } else {
        Err(Reason::LengthRequired)
    }
}

/// What can be told from the head: the form of what it claims, that it is of now, and that the body may be read at all.
pub fn check_head(
    auth: &WebhookAuth,
    head: &RequestHead<'_>,
    body_limit: usize,
    now: Timestamp,
) -> Result<Claim, Reason> {
    for header in auth.provider.headers() {
        head.at_most_one(&header.name)?;
        head.not_nominated(&header.name)?;
    }
    // The type decides what was signed.
    head.at_most_one(header::CONTENT_TYPE.as_str())?;
    if auth.secrets.is_empty() {
        return Err(Reason::WebhookSecretNotConfigured);
    }
    let claim = auth.provider.claim(head)?;
    if let Some(time) = &claim.time {
        time.check(now, auth.provider.tolerance())?;
    }
    if head.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Reason::ContentEncodingRefused);
    }
    match head.framing {
        Framing::Length(n) if n > body_limit as u64 => Err(Reason::BodyTooLarge),
        Framing::None | Framing::Length(_) | Framing::Chunked => Ok(claim),
    }
}

/// A payload whose signature fits a live secret. Only [`verify`] makes one.
#[derive(Debug)]
pub struct Verified {
    payload: Payload,
    claim: Claim,
    secret: Arc<str>,
}

impl Verified {
    /// The proven payload.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The message id that was signed.
    pub fn signed_id(&self) -> Option<&str> {
        self.claim.id.as_deref()
    }

    /// Which of the route's secrets fitted, by its list and its place there.
    pub fn secret(&self) -> &Arc<str> {
        &self.secret
    }

    /// The proven payload.
    pub fn into_payload(self) -> Payload {
        self.payload
    }
}

/// Checks the signature over exactly what was signed. Every live secret is tried, whichever fits.
pub fn verify(
    auth: &WebhookAuth,
    head: &RequestHead<'_>,
    claim: Claim,
    body: Bytes,
    now: Timestamp,
) -> Result<Verified, Reason> {
    let provider = &auth.provider;
    let payload = provider.payload(head, body)?;
    let signed = provider.signed(&claim, payload.bytes());
    let fitting = auth
        .secrets
        .iter()
        .filter(|s| s.expires.is_none_or(|end| now < end))
        .fold(None, |fitting, live| {
            let fits = live.key.proves(&claim.proof, &signed);
            fitting.or(fits.then_some(live))
        });
    let secret = fitting.ok_or(Reason::SignatureWrong)?.label.clone();
    drop(signed);
    if let Some(time) = provider.time_within(payload.bytes())? {
        time.check(now, provider.tolerance())?;
    }
    Ok(Verified {
        payload,
        claim,
        secret,
    })
}
