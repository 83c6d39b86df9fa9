//! The whole order of checks, on one screen. Cheapest and least trusting first; proof before spending.
//!
//! * every route: address rules;
//! * key routes: key, then the key's budgets;
//! * webhook routes: the signature's form, then (body read by the caller) its MAC, then *already done?*,
//!   then the source's budget.
//!
//! Nothing here does I/O or knows the connection. An [`Admitted`] is made here and nowhere else, and
//! without one nothing is forwarded.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::{
    bodies::BodyPass,
    budget::{Budgets, Owner},
    connection::framing::Framing,
    denial::{Denial, Reason, SIGNATURE_REFUSED},
    guard::{self, Actor},
    limit::{Exceeded, Standing},
    policy::{Auth, BudgetOf, Policy, Route, Upgrade, WebhookAuth, address::budget_address},
    replay::ReplayMemory,
    request_head::RequestHead,
    route::Match,
    webhook::{Payload, Signature},
};

/// What a request is judged by: one immutable policy with its budgets.
#[derive(Debug)]
pub struct Snapshot {
    /// The policy.
    pub policy: Policy,
    /// Its budgets.
    pub budgets: Budgets,
}

/// The source and event name of the test webhook.
pub const TEST_SOURCE: &str = "test";

/// What the head alone decides.
#[derive(Debug)]
pub enum Verdict {
    /// The gateway answers itself: it is alive.
    Health,
    /// It may go on.
    Admitted(Admitted),
    /// Its body has to prove it.
    Unproven(Box<Unproven>),
}

/// A webhook whose head is in order and whose body is still to be read.
#[derive(Debug)]
pub struct Unproven {
    route: Arc<Route>,
    signature: Signature,
    pass: BodyPass,
}

impl Unproven {
    /// Most bytes its body may have.
    pub fn body_limit(&self) -> usize {
        self.route.body_limit
    }

    /// The right to read its body.
    pub fn pass(&self) -> &BodyPass {
        &self.pass
    }

    /// Its body did not come: the allowance is charged all the same.
    pub fn abandon(self, snapshot: &Snapshot) {
        snapshot.budgets.charge(&self.pass);
    }

    /// The route's id.
    pub fn route_id(&self) -> &Arc<str> {
        &self.route.id
    }
}

/// What a proven webhook gets.
#[derive(Debug)]
pub enum Proven {
    /// It is forwarded.
    Admitted(Box<Admitted>),
    /// It was done before: answered without asking the backend.
    Duplicate,
}

/// The permit to forward one request. Only this module makes one.
#[derive(Debug)]
pub struct Admitted {
    route: Arc<Route>,
    actor: Actor,
    delivery: Option<Delivery>,
    body: Body,
    standings: Vec<Standing>,
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
    Proven(Payload),
}

impl Admitted {
    /// The route it was admitted by.
    pub fn route(&self) -> &Route {
        &self.route
    }
    /// Who was admitted.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }
    /// What is stamped on it, for a delivery.
    pub fn delivery(&self) -> Option<&Delivery> {
        self.delivery.as_ref()
    }
    /// What body is sent.
    pub fn body(&self) -> &Body {
        &self.body
    }
    /// How its budgets stand.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }
}

/// Judges a head.
pub fn judge_head(
    snapshot: &Snapshot,
    head: &RequestHead<'_>,
    request_id: &str,
    now: Timestamp,
) -> Result<Verdict, Denial> {
    let policy = &snapshot.policy;
    if policy.health && head.path == "/health" {
        return judge_health(head);
    }
    let route = match policy.routes.find(head.method, head.path) {
        Match::Route(route) => route,
        Match::MethodNotAllowed { allow, guarded } => {
            guard_unrouted(snapshot, head, guarded, now)?;
            return Err(Denial {
                allow: Some(allow),
                ..Reason::MethodNotAllowed.into()
            });
        }
        Match::NotFound { guarded } => {
            guard_unrouted(snapshot, head, guarded, now)?;
            return Err(Reason::RouteNotFound.into());
        }
    };
    judge_route(snapshot, route, head, request_id, now).map_err(|denial| denial.on(&route.id))
}

/// Judges a head against the route that takes it.
fn judge_route(
    snapshot: &Snapshot,
    route: &Arc<Route>,
    head: &RequestHead<'_>,
    request_id: &str,
    now: Timestamp,
) -> Result<Verdict, Denial> {
    let policy = &snapshot.policy;
    if !route.addresses.admits(head.client) {
        return Err(Reason::AddressDenied.into());
    }
    let exempt = route.addresses.exempt.contains(head.client);
    let failed = |reason: Reason| refuse(snapshot, head, exempt, reason);
    match &route.auth {
        Auth::ApiKey => {
            let actor = guard::api_key::prove(policy, head, now).map_err(failed)?;
            admit(snapshot, route, head, actor, None, stream(route)).map(Verdict::Admitted)
        }
        Auth::None => admit(snapshot, route, head, Actor::Anonymous, None, stream(route))
            .map(Verdict::Admitted),
        Auth::TestWebhook(auth) => {
            let actor = guard::test_webhook::prove(policy, auth, head, now).map_err(failed)?;
            let delivery = Delivery {
                source: TEST_SOURCE.into(),
                provider: TEST_SOURCE,
                event: None,
                id: None,
                key: unique_key(request_id),
                remember: false,
            };
            admit(snapshot, route, head, actor, Some(delivery), stream(route))
                .map(Verdict::Admitted)
        }
        Auth::Webhook(auth) => {
            let signature =
                guard::webhook::check_head(auth, head, route.body_limit).map_err(failed)?;
            let over = |e| exceeded(Reason::WebhookAllowanceExceeded, e);
            let pass = snapshot
                .budgets
                .enter_body(head.client, exempt)
                .map_err(over)?;
            Ok(Verdict::Unproven(Box::new(Unproven {
                route: route.clone(),
                signature,
                pass,
            })))
        }
    }
}

/// Judges a webhook's body, read whole.
pub fn judge_body(
    snapshot: &Snapshot,
    replay: &ReplayMemory,
    head: &RequestHead<'_>,
    unproven: Unproven,
    body: Bytes,
    request_id: &str,
    now: Timestamp,
) -> Result<Proven, Denial> {
    let route = unproven.route.clone();
    prove_body(snapshot, replay, head, unproven, body, request_id, now)
        .map_err(|denial| denial.on(&route.id))
}

fn prove_body(
    snapshot: &Snapshot,
    replay: &ReplayMemory,
    head: &RequestHead<'_>,
    unproven: Unproven,
    body: Bytes,
    request_id: &str,
    now: Timestamp,
) -> Result<Proven, Denial> {
    let Unproven {
        route,
        signature,
        pass,
    } = unproven;
    let Auth::Webhook(auth) = &route.auth else {
        return Err(Reason::Internal.into());
    };
    let exempt = route.addresses.exempt.contains(head.client);
    let verified = guard::webhook::verify(auth, head, signature, body, now).map_err(|reason| {
        snapshot.budgets.charge(&pass);
        refuse(snapshot, head, exempt, reason)
    })?;
    drop(pass);
    let payload = verified.into_payload();
    let delivery = delivery(auth, head, &payload, request_id);
    if auth.replay && replay.is_done(&delivery.source, &delivery.key) {
        return Ok(Proven::Duplicate);
    }
    let actor = Actor::Webhook(auth.source.clone());
    admit(
        snapshot,
        &route,
        head,
        actor,
        Some(delivery),
        Body::Proven(payload),
    )
    .map(|admitted| Proven::Admitted(Box::new(admitted)))
}

/// The last checks, the same for all, and the only place an [`Admitted`] is made.
fn admit(
    snapshot: &Snapshot,
    route: &Arc<Route>,
    head: &RequestHead<'_>,
    actor: Actor,
    delivery: Option<Delivery>,
    body: Body,
) -> Result<Admitted, Denial> {
    // A WebSocket handshake has no body (RFC 6455, section 4.1): what followed would be read as frames.
    if head.websocket && (route.upgrade == Upgrade::None || head.framing != Framing::None) {
        return Err(Reason::UpgradeRefused.into());
    }
    if matches!(head.framing, Framing::Length(n) if n > route.body_limit as u64) {
        return Err(Reason::BodyTooLarge.into());
    }
    let mut standings = Vec::with_capacity(route.budgets.len());
    for index in &route.budgets {
        let spec = snapshot
            .policy
            .rate_limits
            .get(*index)
            .ok_or(Reason::Internal)?;
        let limiter = snapshot
            .budgets
            .named()
            .get(*index)
            .ok_or(Reason::Internal)?
            .limiter();
        let owner = match (spec.by, &actor, &delivery) {
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
        standings.push(limiter.spend(&owner).map_err(|e| exceeded(reason, e))?);
    }
    Ok(Admitted {
        route: route.clone(),
        actor,
        delivery,
        body,
        standings,
    })
}

fn judge_health(head: &RequestHead<'_>) -> Result<Verdict, Denial> {
    if matches!(*head.method, Method::GET | Method::HEAD) {
        Ok(Verdict::Health)
    } else {
        Err(Denial {
            allow: Some("GET, HEAD".into()),
            ..Reason::MethodNotAllowed.into()
        })
    }
}

/// Under the prefix of a key route nothing may be told apart without a key.
fn guard_unrouted(
    snapshot: &Snapshot,
    head: &RequestHead<'_>,
    guarded: bool,
    now: Timestamp,
) -> Result<(), Denial> {
    if guarded {
        guard::api_key::prove(&snapshot.policy, head, now)
            .map_err(|reason| refuse(snapshot, head, false, reason))?;
    }
    Ok(())
}

/// Turns a reason into a refusal. A failed proof counts against the address; over its budget it gets 429,
/// save for signatures: a forge's hooks share one address, and each is told what is wrong with it.
fn refuse(snapshot: &Snapshot, head: &RequestHead<'_>, exempt: bool, reason: Reason) -> Denial {
    let facts = reason.facts();
    if !facts.failed_proof || exempt {
        return reason.into();
    }
    match snapshot.budgets.count_failure(head.client) {
        Err(e) if facts.public != SIGNATURE_REFUSED => exceeded(Reason::FailureBudgetExceeded, e),
        Err(_) | Ok(()) => reason.into(),
    }
}

pub(crate) fn exceeded(reason: Reason, e: Exceeded) -> Denial {
    Denial {
        retry_after: Some(e.retry_after),
        standing: Some(e.standing),
        ..reason.into()
    }
}

fn stream(route: &Route) -> Body {
    Body::Stream {
        limit: route.body_limit,
    }
}

/// What is stamped on a proven delivery. No scheme of the Gitea family signs a message id, so the
/// idempotency key is the SHA-256 of the payload as forwarded.
fn delivery(
    auth: &WebhookAuth,
    head: &RequestHead<'_>,
    payload: &Payload,
    request_id: &str,
) -> Delivery {
    let key = if auth.replay {
        hex::encode(Sha256::digest(payload.bytes()))
    } else {
        unique_key(request_id)
    };
    Delivery {
        source: auth.source.clone(),
        provider: auth.provider.name(),
        event: auth.provider.event(head).map(str::to_owned),
        id: auth.provider.delivery(head).map(str::to_owned),
        key,
        remember: auth.replay,
    }
}

fn unique_key(request_id: &str) -> String {
    format!("request-{request_id}")
}
