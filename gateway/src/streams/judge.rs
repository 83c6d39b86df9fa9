//! Whether a running answer would still be admitted. Budgets were spent when it began and are not spent again; a delivery's
//! proof is of its body and stays good as long as its route takes deliveries of its source.

use jiff::Timestamp;

use super::{Claim, Kind};
use crate::{
    denial::Reason,
    guard::{Actor, Credential},
    policy::{Auth, Bypass, Mode, Policy, TestWebhookAuth, Upgrade},
    route::Match,
};

/// When the credential ends by this policy, where it does.
pub(super) fn still_admitted(
    policy: &Policy,
    claim: &Claim,
    now: Timestamp,
) -> Result<Option<Timestamp>, Reason> {
    let route = match policy.routes.find(&claim.method, &claim.path) {
        Match::Route(route) => route,
        Match::MethodNotAllowed { .. } => return Err(Reason::MethodNotAllowed),
        Match::NotFound { .. } => return Err(Reason::RouteNotFound),
    };
    let rules = &route.addresses;
    if rules.mode == Mode::Enforce && !rules.admits(claim.client) {
        return Err(Reason::AddressDenied);
    }
    if claim.kind == Kind::Tunnel && route.upgrade == Upgrade::None {
        return Err(Reason::UpgradeRefused);
    }
    // Whatever the route wants now: a key that is gone closes what it opened.
    let end = key_is_good(policy, claim, now)?;
    match &route.auth {
        Auth::None => Ok(end),
        Auth::ApiKey => match (&claim.actor, policy.bypass) {
            (Actor::Key(_), _) | (Actor::Anonymous, Bypass::Open) => Ok(end),
            (Actor::Anonymous | Actor::TestWebhook | Actor::Webhook(_), _) => {
                Err(Reason::ApiKeyMissing)
            }
        },
        Auth::Webhook(auth) => match &claim.actor {
            Actor::Webhook(source) if *source == auth.source => Ok(end),
            Actor::Webhook(_) | Actor::Key(_) | Actor::Anonymous | Actor::TestWebhook => {
                Err(Reason::SignatureMissing)
            }
        },
        Auth::TestWebhook(auth) => test_webhook_is_open(auth, claim, now, end),
    }
}

fn key_is_good(
    policy: &Policy,
    claim: &Claim,
    now: Timestamp,
) -> Result<Option<Timestamp>, Reason> {
    let Credential::Key(key) = &claim.credential else {
        return Ok(claim.credential.expires());
    };
    let found = policy.keys.live(&key.digest, now).map_err(|r| r.reason)?;
    if found.id != key.id {
        // The secret is another key's now: the inside was told of this one.
        return Err(Reason::ApiKeyUnknown);
    }
    if !found.scopes.cover(&claim.method, &claim.path) {
        return Err(Reason::ScopeMissing);
    }
    Ok(found.expires)
}

fn test_webhook_is_open(
    auth: &TestWebhookAuth,
    claim: &Claim,
    now: Timestamp,
    key_end: Option<Timestamp>,
) -> Result<Option<Timestamp>, Reason> {
    match (auth, &claim.credential) {
        (TestWebhookAuth::Disabled, _) => Err(Reason::TestWebhookDisabled),
        (TestWebhookAuth::NotConfigured, _) => Err(Reason::TestWebhookNotConfigured),
        (TestWebhookAuth::ApiKey, Credential::Key(_)) => Ok(key_end),
        (TestWebhookAuth::ApiKey, Credential::None | Credential::Token(_)) => {
            Err(Reason::TestKeyRefused)
        }
        (TestWebhookAuth::Token(tokens), Credential::Token(presented)) => tokens
            .iter()
            .find(|(token, end)| *token == presented.digest && end.is_none_or(|end| now < end))
            .map(|(_, end)| *end)
            .ok_or(Reason::TestTokenRefused),
        (TestWebhookAuth::Token(_), Credential::None | Credential::Key(_)) => {
            Err(Reason::TestTokenRefused)
        }
    }
}
