//! Guards: one kind of proof each. A guard sees a [`RequestHead`](crate::request_head::RequestHead),
//! never the connection; it returns who was admitted or the reason why not, and writes no answer.

pub mod api_key;
pub mod insecure;
pub mod test_webhook;
pub mod webhook;

use std::sync::Arc;

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
