//! Proof by API key.

use jiff::Timestamp;

use super::{Actor, insecure};
use crate::{
    denial::Reason,
    policy::{Bypass, Policy},
    request_head::{API_KEY, RequestHead},
};

/// Who presents a live key; or nobody, where the insecure bypass is open and the request does not come
/// from a browser.
pub fn prove(policy: &Policy, head: &RequestHead<'_>, now: Timestamp) -> Result<Actor, Reason> {
    if policy.bypass == Bypass::Open {
        return insecure::prove(head);
    }
    let key = policy.keys.find(head.header(API_KEY), now)?;
    if !key.scopes.cover(head.method, head.path) {
        return Err(Reason::ScopeMissing);
    }
    Ok(Actor::Key(key.id.clone()))
}
