//! GitLab with a *secret token*.
//!
//! GitLab sends the token as it is, in `X-Gitlab-Token` (docs.gitlab.com, *Webhooks*). It proves who sends, not what:
//! nothing of the delivery is signed, and whoever sees one delivery knows the token. Where GitLab offers a signing
//! token, [`super::gitlab_signing`] is the better choice. The token is compared as a digest, in constant time. The event
//! is in `X-Gitlab-Event`; `Idempotency-Key` stays the same when GitLab repeats a delivery and so names it.

use super::{
    Header, Provider,
    Role::{Event, Id, Signature},
    claim::{self, Claim, Proof},
    key::{Key, KeyFault},
};
use crate::{
    denial::Reason,
    request_head::RequestHead,
    secret::{Secret, SecretDigest},
};

/// See the [module](self).
#[derive(Debug)]
pub struct GitLabToken;

static HEADERS: [Header; 3] = [
    Header::new("x-gitlab-token", Signature),
    Header::new("x-gitlab-event", Event),
    Header::new("idempotency-key", Id),
];

impl Provider for GitLabToken {
    fn name(&self) -> &'static str {
        "gitlab_token"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "the token itself"
    }

    fn key(&self, secret: &Secret) -> Result<Key, KeyFault> {
        Ok(Key::Token(secret.digest()))
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        let token = claim::signature(head, "x-gitlab-token")?;
        Ok(Proof::Token(SecretDigest::of(token)).into())
    }

    fn signed<'a>(&'a self, _claim: &'a Claim, _payload: &'a [u8]) -> Vec<&'a [u8]> {
        Vec::new()
    }

    fn written(&self, _tag: &[u8], given: &str) -> String {
        given.to_owned()
    }
}
