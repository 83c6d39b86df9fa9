//! A proven delivery into what it shall cause. Pure: it reads bytes and settings, and decides.
//!
//! It must never follow anything a payload points to. A sender is one file in `webhook/` and one
//! line in [`PROVIDERS`].

use serde_json::Value;

use crate::{settings::Review, store::deliveries::Intent};

mod gitea;

/// Reads the deliveries of one kind of sender.
type Read = fn(event: &str, payload: &Value, review: &Review) -> Intent;

/// Every kind of sender whose deliveries cause something.
const PROVIDERS: &[(&str, Read)] = &[
    ("gitea", gitea::read),
    ("forgejo", gitea::read),
    ("gogs", gitea::read),
    ("test", gitea::read),
];

/// Whether deliveries of this kind of sender are read at all. Those of others are kept as they are, JSON or not.
pub fn is_read(provider: &str) -> bool {
    PROVIDERS.iter().any(|(name, _)| *name == provider)
}

/// What a delivery shall cause.
pub fn intent(provider: &str, event: &str, payload: &Value, review: &Review) -> Intent {
    match PROVIDERS.iter().find(|(name, _)| *name == provider) {
        Some((_, read)) => read(event, payload, review),
        None => Intent::Ignore(format!("Deliveries of {provider} cause nothing here.")),
    }
}
