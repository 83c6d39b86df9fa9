//! Senders of webhooks: what each signs, where it puts the signature, and how it names its events.
//!
//! Adding a sender is one file in `webhook/` and one line in [`PROVIDERS`]; `docs/guides/add-a-sender.md` walks
//! through it. Which scheme applies is decided by the policy, never by what a request claims. A sender only
//! *reads*: it never compares, never looks at the clock, and never sees a body before the head was in order.
//! [`crate::guard::webhook`] does the rest, the same for all.

pub mod bitbucket;
pub mod circleci;
pub mod claim;
pub mod discord;
pub mod form;
pub mod generic;
pub mod gitea;
pub mod github;
pub mod gitlab_signing;
pub mod gitlab_token;
pub mod key;
pub mod linear;
pub mod pagerduty;
pub mod sentry;
pub mod shopify;
pub mod slack;
pub mod standard_webhooks;
pub mod stripe;
pub mod svix;
pub mod within;

use std::{borrow::Cow, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;

use self::{
    claim::{Claim, SignedTime},
    generic::Generic,
    key::{Key, KeyFault},
};
use crate::{denial::Reason, request_head::RequestHead, secret::Secret};

/// Every sender whose scheme is fixed. [`generic`] is the one the policy describes.
pub static PROVIDERS: [&dyn Provider; 17] = [
    &gitea::GITEA,
    &gitea::FORGEJO,
    &gitea::GOGS,
    &github::GitHub,
    &gitlab_token::GitLabToken,
    &gitlab_signing::GITLAB_SIGNING,
    &standard_webhooks::STANDARD_WEBHOOKS,
    &svix::SVIX,
    &stripe::Stripe,
    &slack::Slack,
    &shopify::Shopify,
    &bitbucket::Bitbucket,
    &linear::Linear,
    &sentry::Sentry,
    &pagerduty::PagerDuty,
    &circleci::CircleCi,
    &discord::Discord,
];

/// The sender of this name, where its scheme is fixed.
pub fn provider(name: &str) -> Option<&'static dyn Provider> {
    PROVIDERS.iter().copied().find(|p| p.name() == name)
}

/// The names a policy may write, in the order of the table.
pub fn names() -> Vec<&'static str> {
    PROVIDERS
        .iter()
        .map(|p| p.name())
        .chain([generic::NAME])
        .collect()
}

/// How far a signed time may lie from ours, on both sides, unless a sender says otherwise.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// A kind of sender.
pub trait Provider: std::fmt::Debug + Sync + Send {
    /// Its name in a policy, and the value of `X-Orket-Webhook-Provider`.
    fn name(&self) -> &'static str;

    /// Headers that decide something for this sender; of those with one role the first that is there counts.
    /// None may stand there twice, none may be nominated by `Connection`.
    fn headers(&self) -> &[Header];

    /// How the sender writes a signature, for people: what stands in the header.
    fn form(&self) -> &str;

    /// What the configured text of a secret means to this sender. Judged when a policy loads.
    fn key(&self, secret: &Secret) -> Result<Key, KeyFault> {
        Ok(Key::Sha256(secret.clone()))
    }

    /// The least bytes of a key that the sender's documentation asks for.
    fn least_key_bytes(&self) -> Option<usize> {
        None
    }

    /// Reads what a head claims, strictly, before a byte of the body is read. It proves nothing yet.
    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason>;

    /// What of the body was signed and is forwarded.
    fn payload(&self, head: &RequestHead<'_>, body: Bytes) -> Result<Payload, Reason> {
        let _ = head;
        Ok(Payload::AsReceived(body))
    }

    /// Exactly the bytes that were signed, in their order.
    fn signed<'a>(&'a self, claim: &'a Claim, payload: &'a [u8]) -> Vec<&'a [u8]> {
        let _ = claim;
        vec![payload]
    }

    /// How far the signed time may lie from ours, on both sides.
    fn tolerance(&self) -> Duration {
        TOLERANCE
    }

    /// The time that was signed within the payload, for a sender that puts it there. Asked once the payload is
    /// proven; a time in the head stands in the [`Claim`].
    fn time_within(&self, payload: &[u8]) -> Result<Option<SignedTime>, Reason> {
        let _ = payload;
        Ok(None)
    }

    /// How the sender would write this tag where `given` stands: what `explain` tries when a form is off.
    fn written(&self, tag: &[u8], given: &str) -> String;

    /// Where within a JSON payload the event is named, the first that is there first. Such a name is signed with the
    /// body, so it comes before one in the head.
    fn event_within(&self) -> &[within::Path] {
        &[]
    }

    /// Where within a JSON payload the sender's own id of the delivery stands.
    fn id_within(&self) -> &[within::Path] {
        &[]
    }

    /// The event, as a header names it. Not signed, unless the sender signs its headers.
    fn event<'a>(&self, head: &RequestHead<'a>) -> Option<&'a str> {
        first_label(self.headers(), head, Role::Event)
    }

    /// The sender's own id of the delivery. Signed where the claim has it.
    fn delivery<'a>(&self, head: &RequestHead<'a>) -> Option<&'a str> {
        first_label(self.headers(), head, Role::SignedId)
            .or_else(|| first_label(self.headers(), head, Role::Id))
    }
}

fn first_label<'a>(headers: &[Header], head: &RequestHead<'a>, role: Role) -> Option<&'a str> {
    headers
        .iter()
        .filter(|h| h.role == role)
        .find_map(|h| head.label(&h.name))
}

/// A header that decides something for a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name, in lower case.
    pub name: Cow<'static, str>,
    /// What it decides.
    pub role: Role,
}

impl Header {
    /// A header of a fixed scheme.
    pub const fn new(name: &'static str, role: Role) -> Self {
        Self {
            name: Cow::Borrowed(name),
            role,
        }
    }
}

/// What a header decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It carries the signature, or the shared token.
    Signature,
    /// It carries the time that was signed.
    Time,
    /// It carries the message's id, which was signed.
    SignedId,
    /// It carries the delivery's id, which was not signed.
    Id,
    /// It names the event.
    Event,
}

impl Role {
    /// Whether the header is part of the proof: such a one stays at the edge, unless the route keeps it.
    pub const fn is_proof(self) -> bool {
        match self {
            Self::Signature | Self::Time | Self::SignedId => true,
            Self::Id | Self::Event => false,
        }
    }
}

/// The sender a route is for.
#[derive(Debug, Clone)]
pub enum Sender {
    /// One of the table.
    Known(&'static dyn Provider),
    /// The one the policy describes.
    Described(Arc<Generic>),
}

impl Deref for Sender {
    type Target = dyn Provider;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Known(provider) => *provider,
            Self::Described(generic) => generic.as_ref(),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_sender_has_a_name_of_its_own_and_puts_its_proof_in_one_header() {
        assert_eq!(
            names().iter().collect::<BTreeSet<_>>().len(),
            PROVIDERS.len() + 1
        );
        for provider in PROVIDERS {
            let of = |role| provider.headers().iter().filter(move |h| h.role == role);
            assert_eq!(of(Role::Signature).count(), 1, "{}", provider.name());
            assert!(of(Role::Time).count() <= 1 && of(Role::SignedId).count() <= 1);
            for header in provider.headers() {
                assert_eq!(*header.name, header.name.to_ascii_lowercase());
            }
        }
    }
}
