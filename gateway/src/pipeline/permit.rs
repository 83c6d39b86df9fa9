//! The permit to forward, and the last checks before it: this is the only place where one is made.

use std::sync::Arc;

use bytes::Bytes;

use super::dues::{Dues, Paid};
use crate::{
    bodies::ProvenPass,
    connection::framing::Framing,
    denial::{Denial, Reason},
    guard::{Actor, Credential, Proof},
    hearing::{Hearing, Witness},
    limit::Standing,
    policy::{Route, Upgrade},
    request_head::RequestHead,
    webhook::Payload,
};

/// The permit to forward one request. Only this file makes one.
#[derive(Debug)]
pub struct Admitted {
    route: Arc<Route>,
    proof: Proof,
    delivery: Option<Box<Delivery>>,
    body: Body,
    standings: Vec<Standing>,
    pace: Pace,
}

/// When an admitted request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Now,
    /// Its source's budget is used up: once the source has some again.
    Deferred,
}

/// What is stamped on a proven delivery.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// `X-Orket-Webhook-Source`
    pub source: Arc<str>,
    /// `X-Orket-Webhook-Provider`
    pub provider: &'static str,
    /// `X-Orket-Webhook-Event`
    pub event: Option<String>,
    /// `X-Orket-Webhook-Delivery`
    pub id: Option<String>,
    /// `X-Orket-Webhook-Key`
    pub key: String,
    /// Whether it is remembered once it is done.
    pub remember: bool,
    /// Which secret proved it; none for the test webhook.
    pub secret: Option<Arc<str>>,
}

/// What body is sent upstream.
#[derive(Debug, Clone)]
pub enum Body {
    /// As it comes, up to so many bytes.
    Stream {
        /// The route's limit.
        limit: usize,
    },
    /// These proven bytes.
    Proven(ProvenBody),
}

/// A proven payload, and its place in the memory for bodies: given back once nobody holds it any more.
#[derive(Debug, Clone)]
pub struct ProvenBody {
    pub(super) payload: Payload,
    pub(super) pass: Arc<ProvenPass>,
}

impl ProvenBody {
    /// What was proven.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        self.payload.bytes()
    }

    /// Its place in the memory for bodies. Whoever keeps the bytes for longer than the request keeps this as well.
    pub fn pass(&self) -> &Arc<ProvenPass> {
        &self.pass
    }
}

impl Admitted {
    /// The route it was admitted by.
    pub fn route(&self) -> &Route {
        &self.route
    }
    /// Who was admitted.
    pub fn actor(&self) -> &Actor {
        &self.proof.actor
    }
    /// By what it was admitted.
    pub fn credential(&self) -> &Credential {
        &self.proof.credential
    }
    /// What is stamped on it, for a delivery.
    pub fn delivery(&self) -> Option<&Delivery> {
        self.delivery.as_deref()
    }
    /// What body is sent.
    pub fn body(&self) -> &Body {
        &self.body
    }
    /// When it may be sent.
    pub(super) fn pace(&self) -> Pace {
        self.pace
    }
    /// How its budgets stand.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }
}

/// The last checks, the same for all, and the only place an [`Admitted`] is made.
pub(super) fn admit<W: Witness>(
    hearing: &mut Hearing<'_, W>,
    route: &Arc<Route>,
    head: &RequestHead<'_>,
    proof: Proof,
    delivery: Option<Delivery>,
    body: Body,
) -> Result<Admitted, Denial> {
    fits(hearing, route, head)?;
    let dues = Dues::of(hearing, route, head, &proof.actor, delivery.as_ref())?;
    let Paid { standings, pace } = dues.pay(hearing, route)?;
    Ok(Admitted {
        route: route.clone(),
        proof,
        delivery: delivery.map(Box::new),
        body,
        standings,
        pace,
    })
}

/// Whether the route takes what the head announces.
fn fits<W: Witness>(
    hearing: &mut Hearing<'_, W>,
    route: &Route,
    head: &RequestHead<'_>,
) -> Result<(), Denial> {
    // A WebSocket handshake has no body (RFC 6455, section 4.1): what followed would be read as frames.
    if head.websocket {
        if route.upgrade == Upgrade::None || head.framing != Framing::None {
            hearing.refused("upgrade", Reason::UpgradeRefused);
            return Err(Reason::UpgradeRefused.into());
        }
        hearing.passed("upgrade", || "to a WebSocket".to_owned());
    }
    if matches!(head.framing, Framing::Length(n) if n > route.body_limit as u64) {
        hearing.refused("body", Reason::BodyTooLarge);
        return Err(Reason::BodyTooLarge.into());
    }
    Ok(())
}
