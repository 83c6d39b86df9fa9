//! Svix: Standard Webhooks under its older names.
//!
//! `svix-signature`, `svix-timestamp` and `svix-id` are read and signed as [`super::standard_webhooks`] says
//! (docs.svix.com, *Verifying webhooks manually*). A customer of Svix that sends `webhook-…` headers is
//! `standard_webhooks` here: a route speaks one of the two.

use super::{
    Header,
    Role::{Signature, SignedId, Time},
    key,
    standard_webhooks::StandardWebhooks,
};

/// See the [module](self).
pub static SVIX: StandardWebhooks = StandardWebhooks {
    name: "svix",
    headers: &[
        Header::new("svix-signature", Signature),
        Header::new("svix-timestamp", Time),
        Header::new("svix-id", SignedId),
    ],
    secret: key::whsec,
};
