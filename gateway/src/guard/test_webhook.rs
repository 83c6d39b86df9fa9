//! The gate of the test webhook: off by default; a token opens it, or, without one, an API key.

use jiff::Timestamp;

use super::{Actor, Credential, Proof, Token};
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
) -> Result<Proof, Reason> {
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
            let known = tokens.iter().fold(None, |known, (token, expires)| {
                let live = expires.is_none_or(|end| now < end);
                let same = *token == presented;
                if live && same { Some(*expires) } else { known }
            });
            let expires = known.ok_or(Reason::TestTokenRefused)?;
            Ok(Proof {
                actor: Actor::TestWebhook,
                credential: Credential::Token(Box::new(Token {
                    digest: presented,
                    expires,
                })),
            })
        }
        TestWebhookAuth::ApiKey => {
            let key = policy
                .keys
                .find(head.header(API_KEY), now)
                .map_err(|_| Reason::TestKeyRefused)?;
            if key.scopes.cover(head.method, head.path) {
                Ok(Proof {
                    actor: Actor::TestWebhook,
                    credential: Credential::Key(key.clone()),
                })
            } else {
                Err(Reason::ScopeMissing)
            }
        }
    }
}
