//! A webhook's body, read whole: its proof, and what becomes of what is proven.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Unproven, no_room,
    permit::{Admitted, Body, Delivery, Pace, ProvenBody, admit},
    refuse, unique_key,
};
use crate::{
    denial::{Denial, Reason},
    guard::{self, Actor, webhook::Verified},
    hearing::{Hearing, Witness},
    policy::{Auth, WebhookAuth},
    replay::ReplayMemory,
    request_head::RequestHead,
    webhook::within,
};

/// What a proven webhook gets.
#[derive(Debug)]
pub enum Proven {
    /// It is forwarded.
    Admitted(Box<Admitted>),
    /// Its source is over its budget, and its route lets it wait in the spool.
    Deferred(Box<Admitted>),
    /// It was done before, or waits already: answered without asking the backend.
    Duplicate {
        /// Which secret proved it.
        secret: Option<Arc<str>>,
    },
}

impl Proven {
    /// Which secret proved it, as [`Delivery::secret`].
    pub fn secret(&self) -> Option<&Arc<str>> {
        match self {
            Self::Admitted(admitted) | Self::Deferred(admitted) => {
                admitted.delivery()?.secret.as_ref()
            }
            Self::Duplicate { secret } => secret.as_ref(),
        }
    }
}

/// Judges a webhook's body, read whole.
pub fn judge_body<W: Witness>(
    hearing: &mut Hearing<'_, W>,
    replay: &ReplayMemory,
    head: &RequestHead<'_>,
    unproven: Unproven,
    body: Bytes,
) -> Result<Proven, Denial> {
    let route = unproven.route.clone();
    prove_body(hearing, replay, head, unproven, body).map_err(|denial| denial.on(&route.id))
}

fn prove_body<W: Witness>(
    hearing: &mut Hearing<'_, W>,
    replay: &ReplayMemory,
    head: &RequestHead<'_>,
    unproven: Unproven,
    body: Bytes,
) -> Result<Proven, Denial> {
    let Unproven { route, claim, pass } = unproven;
    let Auth::Webhook(auth) = &route.auth else {
        return Err(Reason::Internal.into());
    };
    let exempt = route.addresses.exempt.contains(head.client);
    let length = body.len();
    hearing.passed("body", || {
        format!("{length} bytes, at most {} are taken", route.body_limit)
    });
    let proven = guard::webhook::verify(auth, head, claim, body, hearing.now);
    let verified = hearing
        .check("signature", proven, |verified| {
            format!("it fits the body and the secret {}", verified.secret())
        })
        .map_err(|reason| {
            hearing.snapshot.budgets.charge(&pass);
            refuse(hearing, head, exempt, reason)
        })?;
    let delivery = delivery(auth, head, &verified, hearing.request_id);
    let upstream = hearing
        .snapshot
        .policy
        .upstreams
        .get(route.upstream)
        .ok_or(Reason::Internal)?;
    if auth.replay && replay.knows(&delivery.source, &upstream.id, &delivery.key) {
        hearing.passed("repetition", || {
            format!("`{}` had it before: answered as known", delivery.source)
        });
        return Ok(Proven::Duplicate {
            secret: delivery.secret,
        });
    }
    hearing.passed("repetition", || {
        if auth.replay {
            format!("new to `{}`", delivery.source)
        } else {
            "not asked: the route forwards each as new".to_owned()
        }
    });
    // Before the budget, so that what finds no room has spent nothing.
    let pass = pass.prove(&delivery.source).map_err(|e| {
        let denial = no_room(e);
        hearing.refused("memory", denial.reason);
        denial
    })?;
    let body = ProvenBody {
        payload: verified.into_payload(),
        pass: Arc::new(pass),
    };
    let actor = Actor::Webhook(auth.source.clone());
    let admitted = admit(
        hearing,
        &route,
        head,
        actor.into(),
        Some(delivery),
        Body::Proven(body),
    )?;
    Ok(match admitted.pace() {
        Pace::Now => Proven::Admitted(Box::new(admitted)),
        Pace::Deferred => Proven::Deferred(Box::new(admitted)),
    })
}

/// What is stamped on a proven delivery. Its idempotency key is the message id where the scheme signs one, else
/// the SHA-256 of the payload as forwarded.
fn delivery(
    auth: &WebhookAuth,
    head: &RequestHead<'_>,
    verified: &Verified,
    request_id: &str,
) -> Delivery {
    let (signed_id, payload) = (verified.signed_id(), verified.payload().bytes());
    let key = match signed_id {
        Some(_) | None if !auth.replay => unique_key(request_id),
        Some(id) => id.to_owned(),
        None => hex::encode(Sha256::digest(payload)),
    };
    let provider = &auth.provider;
    // Where the proven body names it, no header does, also when the body's name is missing or could be read in two ways.
    let event = match provider.event_within() {
        [] => provider.event(head).map(str::to_owned),
        paths => within::first(payload, paths),
    };
    let id = match (signed_id, provider.id_within()) {
        (Some(id), _) => Some(id.to_owned()),
        (None, []) => provider.delivery(head).map(str::to_owned),
        (None, paths) => within::first(payload, paths),
    };
    Delivery {
        source: auth.source.clone(),
        provider: provider.name(),
        event,
        id,
        key,
        remember: auth.replay,
        secret: Some(verified.secret().clone()),
    }
}
