//! The permit to forward, and the last checks before it: this is the only place where one is made.

use std::sync::Arc;

use bytes::Bytes;

use super::exceeded;
use crate::{
    bodies::ProvenPass,
    budget::Owner,
    connection::framing::Framing,
    denial::{Denial, Reason},
    guard::{Actor, Credential, Proof},
    hearing::{Hearing, Witness},
    limit::Standing,
    policy::{BudgetOf, Mode, RateLimit, Route, Spooling, Upgrade, address::budget_address},
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
    let asked = asked(hearing, route, head, &proof.actor, delivery.as_ref())?;
    let budgets = &hearing.snapshot.budgets;
    // Looked at all before one is spent: what one of them refuses costs nothing of the others.
    let mut looked = Vec::new();
    if asked.len() > 1 {
        for ask in &asked {
            looked.push(
                budgets
                    .look(ask.index, &ask.owner)
                    .ok_or(Reason::Internal)?,
            );
        }
    }
    let waits = |ask: &Asked<'_>| {
        ask.spec.by == BudgetOf::Source
            && route.spool == Spooling::On
            && ask.spec.mode == Mode::Enforce
    };
    let mut pace = Pace::Now;
    for (ask, seen) in asked.iter().zip(&looked) {
        match seen {
            // Nothing of its source is spent now: it pays when it is handed over.
            Err(_) if waits(ask) => pace = Pace::Deferred,
            Err(over) if ask.spec.mode == Mode::Enforce => {
                let asked = Err(over.clone());
                hearing
                    .budget(ask.spec.mode, ask.reason, &route.id, asked)
                    .map_err(|e| exceeded(ask.reason, e))?;
            }
            Err(_) | Ok(_) => {}
        }
    }
    let mut standings = Vec::with_capacity(asked.len());
    for (n, ask) in asked.iter().enumerate() {
        let seen = match looked.get(n) {
            Some(seen) if pace == Pace::Deferred && ask.spec.by == BudgetOf::Source => seen.clone(),
            _ => budgets
                .spend(ask.index, &ask.owner)
                .ok_or(Reason::Internal)?,
        };
        match seen {
            Err(over) if waits(ask) => {
                hearing.passed("budget", || {
                    format!(
                        "`{}` is used up: it waits in the spool",
                        over.standing.policy
                    )
                });
                standings.push(over.standing);
                pace = Pace::Deferred;
            }
            seen => {
                let standing = hearing
                    .budget(ask.spec.mode, ask.reason, &route.id, seen)
                    .map_err(|e| exceeded(ask.reason, e))?;
                standings.extend(standing);
            }
        }
    }
    Ok(Admitted {
        route: route.clone(),
        proof,
        delivery: delivery.map(Box::new),
        body,
        standings,
        pace,
    })
}

/// One budget that a request is to spend of.
struct Asked<'p> {
    /// Its place in the policy.
    index: usize,
    spec: &'p RateLimit,
    owner: Owner,
    /// Why it is refused where nothing is left.
    reason: Reason,
}

fn asked<'p, W: Witness>(
    hearing: &Hearing<'p, W>,
    route: &Route,
    head: &RequestHead<'_>,
    actor: &Actor,
    delivery: Option<&Delivery>,
) -> Result<Vec<Asked<'p>>, Denial> {
    let limits = &hearing.snapshot.policy.rate_limits;
    let one = |index: &usize| {
        let spec = limits.get(*index).ok_or(Reason::Internal)?;
        let owner = match (spec.by, actor, delivery) {
            (BudgetOf::Address, ..) => Owner::Address(budget_address(head.client)),
            (BudgetOf::Route, ..) => Owner::Named(route.id.clone()),
            (BudgetOf::Key, Actor::Key(id), _) => Owner::Named(id.clone()),
            (BudgetOf::Source, _, Some(delivery)) => Owner::Named(delivery.source.clone()),
            // The bypass: nobody in particular shares one budget.
            (BudgetOf::Key | BudgetOf::Source, ..) => Owner::Named("anonymous".into()),
        };
        let reason = match spec.by {
            BudgetOf::Source => Reason::WebhookBudgetExceeded,
            BudgetOf::Key | BudgetOf::Address | BudgetOf::Route => Reason::RateLimitExceeded,
        };
        Ok(Asked {
            index: *index,
            spec,
            owner,
            reason,
        })
    };
    route.budgets.iter().map(one).collect()
}
