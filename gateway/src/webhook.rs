//! Senders of webhooks: what each signs, where it puts the signature, and how it names its events.
//!
//! Adding a sender is one file in `webhook/` and one line in [`PROVIDERS`]. Which scheme applies is
//! decided by the policy, never by what a request claims.

pub mod gitea;

use bytes::Bytes;

use crate::{denial::Reason, request_head::RequestHead};

/// Every sender there is.
pub static PROVIDERS: [&dyn Provider; 3] = [&gitea::GITEA, &gitea::FORGEJO, &gitea::GOGS];

/// The sender of this name.
pub fn provider(name: &str) -> Option<&'static dyn Provider> {
    PROVIDERS.iter().copied().find(|p| p.name() == name)
}

/// A kind of sender.
pub trait Provider: std::fmt::Debug + Sync + Send {
    /// Its name in a policy, and the value of `X-Orket-Webhook-Provider`.
    fn name(&self) -> &'static str;

    /// Headers that decide something for this sender, its signature first. None may stand there twice.
    fn security_headers(&self) -> &'static [&'static str];

    /// Reads the signature's form, before a byte of the body is read.
    fn signature(&self, head: &RequestHead<'_>) -> Result<Signature, Reason>;

    /// What of the body was signed and is forwarded.
    fn payload(&self, head: &RequestHead<'_>, body: Bytes) -> Result<Payload, Reason>;

    /// The event, as the sender names it.
    fn event<'a>(&self, head: &RequestHead<'a>) -> Option<&'a str>;

    /// The sender's own id of the delivery. Not signed.
    fn delivery<'a>(&self, head: &RequestHead<'a>) -> Option<&'a str>;
}

/// A well-formed signature that proves nothing yet: HMAC-SHA256, 32 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Signature(pub [u8; 32]);

/// The bytes that were signed, as they are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The body as it came.
    AsReceived(Bytes),
    /// JSON text that stood inside something else; its type and length have to be corrected.
    Json(Bytes),
}

impl Payload {
    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::AsReceived(b) | Self::Json(b) => b,
        }
    }
}
