//! The gate of the test webhook: off by default; a token opens it, or, without one, an API key.

use jiff::Timestamp;

use super::Actor;
use crate::{
    denial::Reason,
    policy::{Policy, TestWebhookAuth},
    request_head::{API_KEY, RequestHead, TEST_TOKEN},
    secret::SecretDigest,
};

/// Whether the gate is open for this request.
pub fn prove(
    policy: &Policy,
    auth: &TestWebhookAuth,
    head: &RequestHead<'_>,
    now: Timestamp,
) -> Result<Actor, Reason> {
    match auth {
        TestWebhookAuth::Disabled => Err(Reason::TestWebhookDisabled),
        TestWebhookAuth::NotConfigured => Err(Reason::TestWebhookNotConfigured),
        TestWebhookAuth::Token(tokens) => {
            let presented = head
                .header(TEST_TOKEN)
                .filter(|t| !t.is_empty())
                .ok_or(Reason::TestTokenRefused)?;
            let presented = SecretDigest::of(presented);
            // Every token is compared, so that the time does not tell which one came close.
            let known = tokens.iter().fold(false, |known, (token, expires)| {
                let live = expires.is_none_or(|end| now < end);
                let same = *token == presented;
                known || (live && same)
            });
            if known {
                Ok(Actor::TestWebhook)
            } else {
                Err(Reason::TestTokenRefused)
            }
        }
        TestWebhookAuth::ApiKey => {
            let key = policy
                .keys
                .find(head.header(API_KEY), now)
                .map_err(|_| Reason::TestKeyRefused)?;
            if key.scopes.cover(head.method, head.path) {
                Ok(Actor::TestWebhook)
            } else {
                Err(Reason::ScopeMissing)
            }
        }
    }
}
