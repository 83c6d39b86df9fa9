//! Requests that are judged without a connection, by the very pipeline that judges live ones: the
//! `[[tests]]` of a policy.
//!
//! A rehearsal spends budgets of its own, or only looks at those of a running gateway; it remembers nothing and
//! sends nothing. It judges a request that is sent whole and well: what only a connection can do wrong (bytes that come
//! slowly, broken chunks, trailers, HTTP/1.0) it knows nothing of. `gateway_explain::differential` holds it against the real thing.

mod forwarding;
mod raw;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;

pub use self::forwarding::{Forwarding, Sent};
pub(crate) use self::raw::parse;
use crate::{
    budget::Budgets,
    config::{Test, diagnostic::Diagnostics},
    connection::{Scheme, framing::Framing},
    denial::{Denial, Reason},
    guard::webhook::chunked_within,
    hearing::{Hearing, ShadowDenial, Witness},
    pipeline::{self, Proven, Snapshot, Verdict},
    policy::{
        Listen,
        address::{client_address, plain},
        load::Loaded,
    },
    replay::ReplayMemory,
    request_head::{Arrival, RequestHead},
};

/// What stands where a live request has an id of its own.
const REQUEST_ID: &str = "rehearsal";

/// A request, as a person writes it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Header fields, in their order. `Host` and `Content-Length` are added where they are not given.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// The peer's address.
    pub peer: IpAddr,
    /// The moment it is judged at: signed times and expiries count from it.
    pub now: Timestamp,
}

/// What would become of it.
#[derive(Debug)]
pub enum Outcome {
    /// It would be forwarded.
    Forwarded(Box<Forwarding>),
    /// The gateway would answer 200 itself.
    Answered,
    /// It would be refused.
    Refused(Denial),
}

/// By which door a request comes in. A running gateway listens where it began to: new addresses need a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entrance {
    /// Whether only processes of this machine can come in.
    pub loopback: bool,
    /// What is spoken there.
    pub scheme: Scheme,
}

impl Entrance {
    /// The door that a policy describes.
    pub fn of(listen: &Listen) -> Self {
        Self {
            loopback: listen.is_loopback(),
            scheme: listen.scheme(),
        }
    }
}

/// By what a request is judged besides a policy and its budgets.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// What was done before.
    pub replay: &'a ReplayMemory,
    /// The door it comes in by.
    pub entrance: Entrance,
}

/// Judges a request by a snapshot of its own: nothing is remembered, and nobody looks on.
pub fn rehearse(snapshot: &Snapshot, request: &Request) -> Outcome {
    let mut nobody: Vec<ShadowDenial> = Vec::new();
    let surroundings = Surroundings {
        replay: &ReplayMemory::new(1),
        entrance: Entrance::of(&snapshot.policy.listen),
    };
    rehearse_before(snapshot, surroundings, request, &mut nobody)
}

/// Judges a request before a witness. Looks into the memory of what was done, and remembers nothing.
pub fn rehearse_before<W: Witness>(
    snapshot: &Snapshot,
    surroundings: Surroundings<'_>,
    request: &Request,
    witness: &mut W,
) -> Outcome {
    let mut hearing = Hearing {
        snapshot,
        request_id: REQUEST_ID,
        now: request.now,
        witness,
    };
    judge(&mut hearing, surroundings, request).unwrap_or_else(Outcome::Refused)
}

fn judge<W: Witness>(
    hearing: &mut Hearing<'_, W>,
    surroundings: Surroundings<'_>,
    request: &Request,
) -> Result<Outcome, Denial> {
    let Surroundings { replay, entrance } = surroundings;
    let policy = &hearing.snapshot.policy;
    let framed = raw::judge(&policy.limits, request);
    let (header, framing) = hearing.check("lines", framed, |(header, framing)| {
        let count = header.headers.len();
        match framing {
            Framing::None => format!("well-formed, {count} header lines, no body"),
            Framing::Length(n) => format!("well-formed, {count} header lines, a body of {n} bytes"),
            Framing::Chunked => format!("well-formed, {count} header lines, a chunked body"),
        }
    })?;
    let client = client_address(request.peer, &header.headers, &policy.trusted_proxies);
    hearing.passed("client", || {
        if client == plain(request.peer) {
            client.to_string()
        } else {
            format!("{client}, as the trusted proxy {} says", request.peer)
        }
    });
    let arrival = Arrival {
        client,
        loopback: entrance.loopback,
        framing,
    };
    let head = RequestHead::judge(&header, arrival);
    let head = hearing.check("head", head, |head| {
        format!("{} {}", head.method, head.path)
    })?;
    let forwarded = |admitted: &pipeline::Admitted| {
        Forwarding::of(policy, admitted, entrance.scheme, &header, &head)
            .map(|forwarding| Outcome::Forwarded(Box::new(forwarding)))
            .ok_or_else(|| Reason::Internal.into())
    };
    match pipeline::judge_head(hearing, &head)? {
        Verdict::Health => Ok(Outcome::Answered),
        Verdict::Admitted(admitted) => {
            let limit = admitted.route().body_limit;
            let cap = |bytes| (bytes <= limit).then_some(()).ok_or(Reason::BodyTooLarge);
            let route = admitted.route().id.clone();
            let body = raw::body(framing, &request.body, cap);
            // Here a websocket has no body, and a body that came as it should was counted before.
            body.map_err(|reason| {
                hearing.refused("body", reason);
                Denial::from(reason).on(&route)
            })?;
            forwarded(&admitted)
        }
        Verdict::Unproven(unproven) => {
            let limit = unproven.body_limit();
            let body = raw::body(framing, &request.body, |n| chunked_within(n, limit));
            let body = match body {
                Ok(body) => body,
                Err(reason) => {
                    hearing.refused("body", reason);
                    return Err(Denial::from(reason).on(unproven.route_id()));
                }
            };
            match pipeline::judge_body(hearing, replay, &head, *unproven, body)? {
                Proven::Duplicate { .. } => Ok(Outcome::Answered),
                Proven::Admitted(admitted) | Proven::Deferred(admitted) => forwarded(&admitted),
            }
        }
    }
}

/// A policy that holds its own tests, with its budgets: it may come into force.
#[derive(Debug)]
pub struct Ready {
    /// What requests will be judged by.
    pub snapshot: Snapshot,
    /// Warnings only.
    pub diagnostics: Diagnostics,
}

/// Gives a loaded policy its budgets (taking over those before, where unchanged) and runs its tests.
pub fn ready(loaded: Loaded, before: Option<&Budgets>) -> Result<Ready, Diagnostics> {
    let Loaded {
        policy,
        tests,
        mut diagnostics,
    } = loaded;
    let policy = Arc::new(policy);
    let budgets = |diagnostics: &Diagnostics, before| {
        Budgets::of(&policy, before).ok_or_else(|| {
            let mut problems = diagnostics.clone();
            problems.error(&(0..0), "a rate of this policy cannot be used", None);
            problems
        })
    };
    // Tests spend budgets of their own, so that they neither fail for live traffic nor cost it anything.
    let mut snapshot = Snapshot {
        policy: policy.clone(),
        budgets: budgets(&diagnostics, None)?,
    };
    run_tests(&snapshot, &tests, &mut diagnostics);
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    snapshot.budgets = budgets(&diagnostics, before)?;
    Ok(Ready {
        snapshot,
        diagnostics,
    })
}

/// Runs the tests of a policy. What does not hold is an error at the test's place.
fn run_tests(snapshot: &Snapshot, tests: &[Test], problems: &mut Diagnostics) {
    for test in tests {
        // A policy with one that lacks them does not load.
        let (Some(name), Some(path)) = (&test.name, &test.path) else {
            continue;
        };
        let request = Request {
            method: test
                .method
                .as_ref()
                .map_or_else(|| "GET".to_owned(), |m| m.value.clone()),
            path: path.value.clone(),
            headers: test
                .headers
                .iter()
                .map(|(n, v)| (n.value.clone(), v.value.clone()))
                .collect(),
            body: test
                .body
                .as_ref()
                .map(|b| Bytes::from(b.value.clone()))
                .unwrap_or_default(),
            peer: test
                .address
                .as_ref()
                .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |a| a.value),
            now: test
                .moment
                .as_ref()
                .map_or_else(Timestamp::now, |m| m.value),
        };
        let seen = Seen::of(&rehearse(snapshot, &request));
        if !seen.fits(test) {
            problems.error(
                &name.span,
                format!("the test `{}` does not hold: {}", name.value, seen.told()),
                None,
            );
        }
    }
}

/// An outcome in the words of an expectation.
struct Seen {
    status: Option<u16>,
    reason: Option<&'static str>,
    forward: Option<String>,
}

impl Seen {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Forwarded(forwarding) => Self {
                status: None,
                reason: None,
                forward: Some(forwarding.upstream.clone()),
            },
            Outcome::Answered => Self {
                status: Some(200),
                reason: None,
                forward: None,
            },
            Outcome::Refused(denial) => {
                let facts = denial.reason.facts();
                Self {
                    status: Some(facts.status),
                    reason: Some(facts.word),
                    forward: None,
                }
            }
        }
    }

    fn fits(&self, test: &Test) -> bool {
        let status = test
            .status
            .as_ref()
            .is_none_or(|s| self.status.is_some_and(|seen| u64::from(seen) == s.value));
        let reason = test
            .reason
            .as_ref()
            .is_none_or(|r| self.reason == Some(r.value.as_str()));
        let forward = test
            .forward
            .as_ref()
            .is_none_or(|f| self.forward.as_deref() == Some(f.value.as_str()));
        status && reason && forward
    }

    fn told(&self) -> String {
        match (self.status, self.reason, &self.forward) {
            (_, _, Some(upstream)) => format!("the request is forwarded to `{upstream}`"),
            (Some(status), Some(reason), None) => {
                format!("the request is refused with {status}, reason `{reason}`")
            }
            (status, _, None) => {
                format!("the gateway answers {} itself", status.unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Origin, load};

    const POLICY: &str = r#"
version = 1
[posture]
environment = "local"
[upstreams.backend]
address = "127.0.0.1:1"
[secrets]
key = [{ digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" }]
gitea = [{ env = "SECRET" }]
[[scopes]]
id = "cards:read"
allow = ["GET /v1/cards/*"]
[[keys]]
id = "foo"
secret = "key"
scopes = ["cards:read"]
[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET", "POST"]
auth = { kind = "api_key" }
upstream = "backend"
[[routes]]
id = "gitea"
path = "/webhook/gitea"
methods = ["POST"]
auth = { kind = "webhook", provider = "gitea", secret = "gitea" }
addresses = { deny = ["192.0.2.0/24"] }
upstream = "backend"
"#;

    /// What is said of a policy with this test in it.
    fn said(request: &str, expect: &str) -> String {
        let text =
            format!("{POLICY}[[tests]]\nname = \"t\"\nrequest = {request}\nexpect = {expect}\n");
        let env = |_: &str| Some("Jefe".into());
        match load::load(&text, "p.toml", Origin::BuiltIn, &env).and_then(|l| ready(l, None)) {
            Ok(_) => "holds".to_owned(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn what_holds_holds() {
        let signature = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let signed = format!(
            "{{ method = \"POST\", path = \"/webhook/gitea\", body = \"what do ya want for nothing?\", headers = {{ X-Gitea-Signature = \"{signature}\" }} }}"
        );
        for (request, expect) in [
            (
                r#"{ path = "/v1/version" }"#,
                r#"{ status = 403, reason = "api_key_missing" }"#,
            ),
            (
                r#"{ path = "/v1/version", headers = { X-API-Key = "bar" } }"#,
                r#"{ reason = "api_key_unknown" }"#,
            ),
            (
                r#"{ path = "/v1/version", headers = { X-API-Key = "foo" } }"#,
                r#"{ status = 403, reason = "scope_missing" }"#,
            ),
            (
                r#"{ path = "/v1/cards/1", headers = { X-API-Key = "foo" } }"#,
                r#"{ forward = "backend" }"#,
            ),
            (
                r#"{ path = "/v1/../x" }"#,
                r#"{ status = 400, reason = "path_ambiguous" }"#,
            ),
            (r#"{ path = "/health" }"#, "{ status = 200 }"),
            (
                r#"{ method = "POST", path = "/webhook/gitea" }"#,
                r#"{ status = 401, reason = "signature_missing" }"#,
            ),
            (
                r#"{ method = "POST", path = "/webhook/gitea", address = "192.0.2.9" }"#,
                r#"{ reason = "address_denied" }"#,
            ),
            (signed.as_str(), r#"{ forward = "backend" }"#),
        ] {
            assert_eq!(said(request, expect), "holds", "{request} {expect}");
        }
    }

    #[test]
    fn what_does_not_hold_is_told_with_what_was_seen() {
        let told = said(r#"{ path = "/v1/version" }"#, r#"{ forward = "backend" }"#);
        assert!(told.contains("p.toml:31:8: error: the test `t` does not hold: the request is refused with 403, reason `api_key_missing`"), "{told}");
        assert!(said(r#"{ path = "/v1/x" }"#, "{}").contains("expects nothing"));
        assert!(
            said(r#"{ path = "/v1/x" }"#, r#"{ reason = "no_such" }"#).contains("is not a reason")
        );
    }
}
