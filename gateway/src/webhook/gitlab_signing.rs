//! GitLab with a *signing token*.
//!
//! The scheme is that of Standard Webhooks: `webhook-signature` is `v1,` and base64 of HMAC-SHA256 over
//! `{webhook-id}.{webhook-timestamp}.{body}`. A signing token is `whsec_` and the base64 of exactly 32 bytes;
//! `webhook-id` is the value of `Idempotency-Key` and stays the same when GitLab repeats a delivery (docs.gitlab.com,
//! *Webhooks*; gitlab-org/gitlab, merge requests 230944 and 231325). The event is in `X-Gitlab-Event`, not signed.

use super::{
    Header,
    Role::{Event, Signature, SignedId, Time},
    key,
    standard_webhooks::StandardWebhooks,
};

/// See the [module](self).
pub static GITLAB_SIGNING: StandardWebhooks = StandardWebhooks {
    name: "gitlab_signing",
    headers: &[
        Header::new("webhook-signature", Signature),
        Header::new("webhook-timestamp", Time),
        Header::new("webhook-id", SignedId),
        Header::new("x-gitlab-event", Event),
    ],
    secret: key::whsec_32,
};
