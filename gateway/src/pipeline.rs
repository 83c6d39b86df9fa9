//! The whole order of checks, on one screen. Cheapest and least trusting first; proof before spending.
//!
//! * every route: address rules;
//! * key routes: key, then the key's budgets;
//! * webhook routes: the signature's form, then (body read by the caller) its MAC, then *already done?*,
//!   then the source's budget.
//!
//! A rule in shadow mode is judged like any other and refuses nothing. Nothing here does I/O or knows the connection. An
//! [`Admitted`] is made in `permit` and nowhere else, and without one nothing is forwarded. `proof` judges bodies, `dues` are the budgets.

mod dues;
mod permit;
mod proof;

use std::{sync::Arc, time::Duration};

use http::Method;

use self::permit::admit;
pub use self::{
    permit::{Admitted, Body, Delivery, ProvenBody},
    proof::{Proven, judge_body},
};
use crate::{
    bodies::{BodyPass, NoRoom},
    budget::Budgets,
    denial::{Denial, Reason, SIGNATURE_REFUSED},
    guard::{self, Actor, Proof},
    hearing::{Hearing, Witness},
    limit::Exceeded,
    policy::{Auth, Policy, Route, keys::KeyRefused},
    request_head::RequestHead,
    route::Match,
    webhook::claim::Claim,
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

/// When to come back where there is no room for a body: what holds it may end at any moment, and no figure of a budget
/// says when.
const NO_ROOM_RETRY: Duration = Duration::from_secs(1);

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

/// There is no room for a body now; there may be in a moment.
pub(crate) fn no_room(why: NoRoom) -> Denial {
    let reason = match why {
        NoRoom::All => Reason::WebhookMemoryFull,
        NoRoom::Share => Reason::WebhookShareExceeded,
        NoRoom::Slots => Reason::WebhookAllowanceExceeded,
    };
    Denial {
        retry_after: Some(NO_ROOM_RETRY),
        ..reason.into()
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

fn unique_key(request_id: &str) -> String {
    format!("request-{request_id}")
}
