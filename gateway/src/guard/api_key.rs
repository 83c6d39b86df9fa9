//! Proof by API key.

use jiff::Timestamp;

use super::{Actor, Credential, Proof, insecure};
use crate::{
    denial::{NamedKey, Reason},
    policy::{Bypass, Policy, keys::KeyRefused},
    request_head::{API_KEY, RequestHead},
};

/// Who presents a live key; or nobody, where the insecure bypass is open and the request does not come
/// from a browser.
pub fn prove(policy: &Policy, head: &RequestHead<'_>, now: Timestamp) -> Result<Proof, KeyRefused> {
    if policy.bypass == Bypass::Open {
        return Ok(insecure::prove(head)?.into());
    }
    let key = policy.keys.find(head.header(API_KEY), now)?;
    if !key.scopes.cover(head.method, head.path) {
        return Err(KeyRefused {
            reason: Reason::ScopeMissing,
            key: Some(Box::new(NamedKey::Known(key.id.clone()))),
        });
    }
    Ok(Proof {
        actor: Actor::Key(key.id.clone()),
        credential: Credential::Key(key.clone()),
    })
}
