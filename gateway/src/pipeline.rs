//! The whole order of checks, on one screen. Cheapest and least trusting first; proof before spending.
//!
//! * every route: address rules;
//! * key routes: key, then the key's budgets;
//! * webhook routes: the signature's form, then (body read by the caller) its MAC, then *already done?*,
//!   then the source's budget.
//!
//! A rule in shadow mode is judged like any other and refuses nothing. Nothing here does I/O or knows the connection. An [`Admitted`] is made here and nowhere else, and
//! without one nothing is forwarded.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use sha2::{Digest, Sha256};

use crate::{
    bodies::BodyPass,
    budget::{Budgets, Owner},
    connection::framing::Framing,
    denial::{Denial, Reason, SIGNATURE_REFUSED},
    guard::{self, Actor, Credential, Proof, webhook::Verified},
    hearing::{Hearing, Witness},
    limit::{Exceeded, Standing},
    policy::{
        Auth, BudgetOf, Mode, Policy, Route, Spooling, Upgrade, WebhookAuth,
        address::budget_address, keys::KeyRefused,
    },
    replay::ReplayMemory,
    request_head::RequestHead,
    route::Match,
    webhook::{Payload, claim::Claim},
};

/// What a request is judged by: one immutable policy with its budgets.
#[derive(Debug)]
pub struct Snapshot {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its budgets.
    pub budgets: Budgets,
}

impl Snapshot {
    /// The same, with budgets as they stand, of which nothing is spent.
    #[must_use]
    pub fn looking(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            budgets: self.budgets.looking(),
        }
    }
}

/// The source and event name of the test webhook.
pub const TEST_SOURCE: &str = "test";

/// What the head alone decides.
#[derive(Debug)]
pub enum Verdict {
    /// The gateway answers itself: it is alive.
    Health,
    /// It may go on.
    Admitted(Box<Admitted>),
    /// Its body has to prove it.
    Unproven(Box<Unproven>),
}

/// A webhook whose head is in order and whose body is still to be read.
#[derive(Debug)]
pub struct Unproven {
    route: Arc<Route>,
    claim: Claim,
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

/// The permit to forward one request. Only this module makes one.
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
enum Pace {
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
    Proven(Payload),
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
    /// How its budgets stand.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }
}

/// Judges a head.
pub fn judge_head<W: Witness>(
    hearing: &mut Hearing<'_, W>,
    head: &RequestHead<'_>,
) -> Result<Verdict, Denial> {
    let policy = &hearing.snapshot.policy;
    if policy.health && head.path == "/health" {
        hearing.passed("route", || "the gateway's own `/health`".to_owned());
        return judge_health(head);
    }
    let (denial, guarded) = match policy.routes.find(head.method, head.path) {
        Match::Route(route) => {
            hearing.passed("route", || format!("`{}` has {}", route.id, route.path));
            return judge_route(hearing, route, head).map_err(|denial| denial.on(&route.id));
        }
        Match::MethodNotAllowed { allow, guarded } => {
            let denial = Denial {
                allow: Some(allow),
                ..Reason::MethodNotAllowed.into()
            };
            (denial, guarded)
        }
        Match::NotFound { guarded } => (Reason::RouteNotFound.into(), guarded),
    };
    if guarded {
        hearing.passed("route", || {
            "none, but under the prefix of a key route: the key is judged first".to_owned()
        });
        prove_key(hearing, head, false)?;
    }
    hearing.refused("route", denial.reason);
    Err(denial)
}

/// Judges a head against the route that takes it.
fn judge_route<W: Witness>(
    hearing: &mut Hearing<'_, W>,
    route: &Arc<Route>,
    head: &RequestHead<'_>,
) -> Result<Verdict, Denial> {
    let rules = &route.addresses;
    if rules.admits(head.client) {
        hearing.passed("address", || format!("{} may ask", head.client));
    } else {
        hearing.enforce("address", rules.mode, Reason::AddressDenied, &route.id)?;
    }
    let exempt = rules.exempt.contains(head.client);
    match &route.auth {
        Auth::ApiKey => {
            let proof = prove_key(hearing, head, exempt)?;
            admit(hearing, route, head, proof, None, stream(route)).map(go_on)
        }
        Auth::None => {
            hearing.passed("proof", || "none is asked for".to_owned());
            let nobody = Actor::Anonymous.into();
            admit(hearing, route, head, nobody, None, stream(route)).map(go_on)
        }
        Auth::TestWebhook(auth) => {
            let proven =
                guard::test_webhook::prove(&hearing.snapshot.policy, auth, head, hearing.now);
            let proof = hearing
                .check("token", proven, |_| "it opens the test webhook".to_owned())
                .map_err(|reason| refuse(hearing, head, exempt, reason))?;
            let delivery = Delivery {
                source: TEST_SOURCE.into(),
                provider: TEST_SOURCE,
                event: None,
                id: None,
                key: unique_key(hearing.request_id),
                remember: false,
                secret: None,
            };
            admit(hearing, route, head, proof, Some(delivery), stream(route)).map(go_on)
        }
        Auth::Webhook(auth) => {
            let form = guard::webhook::check_head(auth, head, route.body_limit, hearing.now);
            let claim = hearing
                .check("signature form", form, |_| {
                    format!(
                        "as {} writes it; it proves nothing yet",
                        auth.provider.name()
                    )
                })
                .map_err(|reason| refuse(hearing, head, exempt, reason))?;
            let pass = match hearing.snapshot.budgets.enter_body(head.client, exempt) {
                Ok(pass) => pass,
                Err(e) => {
                    hearing.refused("body", Reason::WebhookAllowanceExceeded);
                    return Err(exceeded(Reason::WebhookAllowanceExceeded, e));
                }
            };
            Ok(Verdict::Unproven(Box::new(Unproven {
                route: route.clone(),
                claim,
                pass,
            })))
        }
    }
}

/// Proof by key, and whether its scopes cover the request.
fn prove_key<W: Witness>(
    hearing: &mut Hearing<'_, W>,
    head: &RequestHead<'_>,
    exempt: bool,
) -> Result<Proof, Denial> {
    match guard::api_key::prove(&hearing.snapshot.policy, head, hearing.now) {
        Ok(proof) => {
            hearing.passed("key", || proof.actor.to_string());
            hearing.passed("scope", || format!("covers {} {}", head.method, head.path));
            Ok(proof)
        }
        Err(KeyRefused { reason, key }) => {
            if reason == Reason::ScopeMissing {
                hearing.passed("key", || "a live one".to_owned());
                hearing.refused("scope", reason);
            } else {
                hearing.refused("key", reason);
            }
            Err(Denial {
                key,
                ..refuse(hearing, head, exempt, reason)
            })
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
    drop(pass);
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
    let payload = verified.into_payload();
    let actor = Actor::Webhook(auth.source.clone());
    let admitted = admit(
        hearing,
        &route,
        head,
        actor.into(),
        Some(delivery),
        Body::Proven(payload),
    )?;
    Ok(match admitted.pace {
        Pace::Now => Proven::Admitted(Box::new(admitted)),
        Pace::Deferred => Proven::Deferred(Box::new(admitted)),
    })
}

/// The last checks, the same for all, and the only place an [`Admitted`] is made.
fn admit<W: Witness>(
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
    let mut standings = Vec::with_capacity(route.budgets.len());
    let mut pace = Pace::Now;
    for index in &route.budgets {
        let (policy, budgets) = (&hearing.snapshot.policy, &hearing.snapshot.budgets);
        let spec = policy.rate_limits.get(*index).ok_or(Reason::Internal)?;
        let owner = match (spec.by, &proof.actor, &delivery) {
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
        let asked = budgets.spend(*index, &owner).ok_or(Reason::Internal)?;
        match asked {
            Err(over)
                if spec.by == BudgetOf::Source
                    && route.spool == Spooling::On
                    && spec.mode == Mode::Enforce =>
            {
                hearing.passed("budget", || {
                    format!(
                        "`{}` is used up: it waits in the spool",
                        over.standing.policy
                    )
                });
                standings.push(over.standing);
                pace = Pace::Deferred;
            }
            asked => {
                let standing = hearing
                    .budget(spec.mode, reason, &route.id, asked)
                    .map_err(|e| exceeded(reason, e))?;
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

/// Turns a reason into a refusal. A failed proof counts against the address; over its budget it gets 429,
/// save for signatures: a forge's hooks share one address, and each is told what is wrong with it.
fn refuse<W: Witness>(
    hearing: &mut Hearing<'_, W>,
    head: &RequestHead<'_>,
    exempt: bool,
    reason: Reason,
) -> Denial {
    let facts = reason.facts();
    if !facts.failed_proof || exempt {
        return reason.into();
    }
    match hearing.snapshot.budgets.count_failure(head.client) {
        Err(e) if facts.public != SIGNATURE_REFUSED => {
            hearing.refused("failures", Reason::FailureBudgetExceeded);
            exceeded(Reason::FailureBudgetExceeded, e)
        }
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

fn go_on(admitted: Admitted) -> Verdict {
    Verdict::Admitted(Box::new(admitted))
}

fn stream(route: &Route) -> Body {
    Body::Stream {
        limit: route.body_limit,
    }
}

/// What is stamped on a proven delivery. Its idempotency key is the message id where the scheme signs one, else
/// the SHA-256 of the payload as forwarded.
fn delivery(
    auth: &WebhookAuth,
    head: &RequestHead<'_>,
    verified: &Verified,
    request_id: &str,
) -> Delivery {
    let signed_id = verified.signed_id();
    let key = match signed_id {
        Some(_) | None if !auth.replay => unique_key(request_id),
        Some(id) => id.to_owned(),
        None => hex::encode(Sha256::digest(verified.payload().bytes())),
    };
    Delivery {
        source: auth.source.clone(),
        provider: auth.provider.name(),
        event: auth.provider.event(head).map(str::to_owned),
        id: signed_id
            .or_else(|| auth.provider.delivery(head))
            .map(str::to_owned),
        key,
        remember: auth.replay,
        secret: Some(verified.secret().clone()),
    }
}

fn unique_key(request_id: &str) -> String {
    format!("request-{request_id}")
}
