//! Guards: one kind of proof each. A guard sees a [`RequestHead`](crate::request_head::RequestHead),
//! never the connection; it returns who was admitted or the reason why not, and writes no answer.

pub mod api_key;
pub mod insecure;
pub mod test_webhook;
pub mod webhook;

use std::sync::Arc;

use jiff::Timestamp;

use crate::{policy::keys::ApiKey, secret::SecretDigest};

/// Who was admitted, and by what.
#[derive(Debug)]
pub struct Proof {
    /// Who.
    pub actor: Actor,
    /// By what.
    pub credential: Credential,
}

/// What may be taken away again while an answer is running.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Nothing of that kind: none was asked for, or the request's own body proved it.
    None,
    /// An API key.
    Key(Arc<ApiKey>),
    /// A token of the test webhook.
    Token(Box<Token>),
}

/// A token of the test webhook that was presented.
#[derive(Debug, Clone)]
pub struct Token {
    /// Its digest.
    pub digest: SecretDigest,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

impl Credential {
    /// When it ends by itself.
    pub fn expires(&self) -> Option<Timestamp> {
        match self {
            Self::None => None,
            Self::Key(key) => key.expires,
            Self::Token(token) => token.expires,
        }
    }
}

impl From<Actor> for Proof {
    /// By nothing that could be taken away.
    fn from(actor: Actor) -> Self {
        Self {
            actor,
            credential: Credential::None,
        }
    }
}

/// Who was admitted: what `X-Orket-Actor` says, and whose budget is spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// An API key, by its id.
    Key(Arc<str>),
    /// A proven webhook source.
    Webhook(Arc<str>),
    /// The test webhook.
    TestWebhook,
    /// Nobody in particular, where the policy wants no proof.
    Anonymous,
}

impl Actor {
    /// What kind of actor it is, for the metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Webhook(_) => "webhook",
            Self::TestWebhook => "test-webhook",
            Self::Anonymous => "anonymous",
        }
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Webhook(source) => write!(f, "webhook:{source}"),
            Self::TestWebhook => f.write_str("test-webhook"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}
