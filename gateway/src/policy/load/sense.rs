//! What can be read and still makes no sense: what nobody can reach, what nothing uses, what contradicts another
//! setting. Errors where nothing good can come of it, warnings where it may be meant.

use http::Method;
use jiff::Timestamp;

use super::Loader;
use crate::{
    config::{self, Written, reader::At},
    denial::Reason,
    policy::{Auth, Bypass, PathPattern, Policy, Route, address::parse_network},
};

impl Loader<'_> {
    /// Looks at the policy as a whole.
    pub(super) fn sense(&mut self, written: &Written, policy: &Policy) {
        for w in &written.routes {
            let id = w.id.as_ref().map(|id| id.value.as_str());
            if let Some(route) = policy.routes.iter().find(|r| Some(r.id.as_ref()) == id) {
                self.reach(w, route, policy);
                self.body(w, route);
                self.addresses(w, written);
                self.nested(w, route, policy);
            }
        }
        self.keys_and_scopes(written, policy);
        self.unused(written);
        self.trials(written, policy);
    }

    fn doubt(&mut self, at: &std::ops::Range<usize>, message: impl Into<String>, hint: &str) {
        self.problems.warning(at, message, Some(hint.to_owned()));
    }

    /// What the gateway answers itself, no route does.
    fn reach(&mut self, w: &config::Route, route: &Route, policy: &Policy) {
        if let Some(path) = &w.path
            && policy.health
            && path.value == "/health"
        {
            self.error(
                &path.span,
                format!(
                    "nobody reaches route `{}`: the gateway answers `/health` itself",
                    route.id
                ),
                "`health = false` at the top gives the path to routes",
            );
        }
        if let (Auth::Webhook(_), Some(methods)) = (&route.auth, &w.methods)
            && !route.methods.contains(&Method::POST)
        {
            self.doubt(
                &methods.span,
                format!(
                    "route `{}` takes no POST, and that is how senders deliver",
                    route.id
                ),
                "methods = [\"POST\"]",
            );
        }
    }

    fn body(&mut self, w: &config::Route, route: &Route) {
        let Some(limit) = w.body_limit.as_ref().filter(|l| l.value.0 == 0) else {
            return;
        };
        let writes = [Method::POST, Method::PUT, Method::PATCH];
        match &route.auth {
            Auth::Webhook(_) => self.error(
                &limit.span,
                "a webhook without a body proves nothing: this refuses every delivery",
                "leave `body_limit` out for 1MiB",
            ),
            Auth::ApiKey | Auth::TestWebhook(_) | Auth::None => {
                if route.methods.iter().any(|m| writes.contains(m)) {
                    self.doubt(
                        &limit.span,
                        format!("route `{}` takes writes and no byte of a body", route.id),
                        "leave `body_limit` out for 1MiB, or take the writing methods out",
                    );
                }
            }
        }
    }

    /// Rules that let nobody in, and exemptions that exempt nobody.
    fn addresses(&mut self, w: &config::Route, written: &Written) {
        let rules = &w.addresses;
        let within = |inner: &At<String>, outer: &[At<String>]| {
            let Ok(inner) = parse_network(&inner.value) else {
                return false;
            };
            outer
                .iter()
                .filter_map(|o| parse_network(&o.value).ok())
                .any(|outer| outer.contains(&inner))
        };
        if let Some(first) = rules.allow.first()
            && rules.allow.iter().all(|allow| within(allow, &rules.deny))
        {
            self.error(
                &first.span,
                "nobody can ask: every address that is allowed is denied, too",
                "`deny` beats `allow`: take one of them out",
            );
        }
        for exempt in &rules.exempt {
            let trusted = written.trusted_proxies.iter().any(|proxy| {
                within(exempt, std::slice::from_ref(proxy))
                    || within(proxy, std::slice::from_ref(exempt))
            });
            if trusted {
                self.doubt(
                    &exempt.span,
                    format!(
                        "`{}` is a trusted proxy: clients are told apart behind it, and what names no client is exempt, whoever sent it",
                        exempt.value
                    ),
                    "exempt the sender's own address",
                );
            }
        }
    }

    /// A longer pattern takes its paths away from a shorter one, with all methods.
    fn nested(&mut self, w: &config::Route, route: &Route, policy: &Policy) {
        let Some(path) = &w.path else { return };
        let same: Vec<&Route> = policy
            .routes
            .iter()
            .filter(|r| r.path == route.path)
            .collect();
        if same.first().is_none_or(|first| first.id != route.id) {
            return;
        }
        let wider = policy
            .routes
            .iter()
            .filter(|r| r.path != route.path && holds(&r.path, &route.path))
            .max_by_key(|r| r.path.to_string().len());
        let Some(wider) = wider else { return };
        let lost: Vec<&str> = policy
            .routes
            .iter()
            .filter(|r| r.path == wider.path)
            .flat_map(|r| &r.methods)
            .filter(|m| !same.iter().any(|r| r.methods.contains(m)))
            .map(Method::as_str)
            .collect();
        if !lost.is_empty() {
            let paths = if matches!(route.path, PathPattern::Exact(_)) {
                "this path"
            } else {
                "these paths"
            };
            self.doubt(
                &path.span,
                format!(
                    "route `{}` takes {paths} away from `{}`, also for {}: answered 405 here",
                    route.id,
                    wider.id,
                    lost.join(", ")
                ),
                "name these methods in a route of this path, if they should be taken",
            );
        }
    }

    fn keys_and_scopes(&mut self, written: &Written, policy: &Policy) {
        if policy.routes.iter().count() < written.routes.len() {
            // What was not understood may be what is covered.
            return;
        }
        let keyed: Vec<&Route> = policy
            .routes
            .iter()
            .filter(|r| matches!(r.auth, Auth::ApiKey | Auth::TestWebhook(_)))
            .collect();
        let covers = |grant: &str, route: &Route| {
            let Some((method, path)) = grant.split_once(' ') else {
                return true;
            };
            route.methods.iter().any(|m| m.as_str() == method)
                && PathPattern::of(path).overlaps(&route.path)
        };
        for scope in &written.scopes {
            let (Some(id), Some(allow)) = (&scope.id, &scope.allow) else {
                continue;
            };
            for grant in &allow.value {
                if !keyed.iter().any(|route| covers(&grant.value, route)) {
                    self.doubt(
                        &grant.span,
                        format!(
                            "scope `{}` allows `{}`, which no key route takes",
                            id.value, grant.value
                        ),
                        "is it the path as clients write it, and a method of the route?",
                    );
                }
            }
            let held = |key: &config::Key| {
                key.scopes
                    .as_ref()
                    .is_none_or(|s| s.value.iter().any(|s| s.value == id.value))
            };
            if !written.keys.iter().any(held) {
                self.doubt(
                    &id.span,
                    format!("no key has the scope `{}`", id.value),
                    "take it out, or give it to a key",
                );
            }
        }
        let now = Timestamp::now();
        let live: Vec<&config::Key> = written
            .keys
            .iter()
            .filter(|k| k.expires.as_ref().is_none_or(|e| e.value > now))
            .collect();
        if live.is_empty() || policy.bypass == Bypass::Open {
            return;
        }
        let opens = |key: &&config::Key, route: &Route| {
            key.scopes.as_ref().is_none_or(|named| {
                named.value.iter().any(|scope| {
                    scope.value == super::keys::ALL
                        || written
                            .scopes
                            .iter()
                            .filter(|s| s.id.as_ref().is_some_and(|i| i.value == scope.value))
                            .flat_map(|s| s.allow.iter().flat_map(|a| &a.value))
                            .any(|grant| covers(&grant.value, route))
                })
            })
        };
        for w in &written.routes {
            let id = w.id.as_ref().map(|id| id.value.as_str());
            let Some(route) = policy.routes.iter().find(|r| Some(r.id.as_ref()) == id) else {
                continue;
            };
            if let (Auth::ApiKey, Some(path)) = (&route.auth, &w.path)
                && !live.iter().any(|key| opens(key, route))
            {
                self.doubt(
                    &path.span,
                    format!(
                        "nobody can use route `{}`: no live key has a scope that covers it",
                        route.id
                    ),
                    "add it to a scope, or take the route out",
                );
            }
        }
    }

    /// What nothing uses.
    fn unused(&mut self, written: &Written) {
        for upstream in &written.upstreams {
            let used = |w: &config::Route| {
                w.upstream
                    .as_ref()
                    .is_some_and(|u| u.value == upstream.id.value)
            };
            if !written.routes.iter().any(used) {
                self.doubt(
                    &upstream.id.span,
                    format!("no route leads to the upstream `{}`", upstream.id.value),
                    "take it out, or name it in a route",
                );
            }
        }
        for limit in &written.rate_limits {
            let Some(id) = &limit.id else { continue };
            let used = |w: &config::Route| w.rate_limits.iter().any(|l| l.value == id.value);
            if !written.routes.iter().any(used) {
                self.doubt(
                    &id.span,
                    format!("no route spends from the limit `{}`", id.value),
                    "name it in the `rate_limits` of a route, or take it out",
                );
            }
        }
    }

    /// Tests of the policy that could not hold, or could not fail, whatever the policy says.
    fn trials(&mut self, written: &Written, policy: &Policy) {
        for test in &written.tests {
            self.lacking(
                &test.at,
                "a test",
                &[
                    ("name", test.name.is_none()),
                    ("request", test.path.is_none()),
                ],
                "e.g. name = \"no key, no entry\", request = { path = \"/v1/version\" }",
            );
            let Some(name) = &test.name else { continue };
            if test.status.is_none()
                && test.reason.is_none()
                && test.forward.is_none()
                && !self.problems.is_unreadable(&test.at.span, "expect")
            {
                self.error(
                    &name.span,
                    format!("the test `{}` expects nothing", name.value),
                    "add expect = { status = 403 }, { reason = \"…\" } or { forward = \"an upstream\" }",
                );
            }
            if let Some(reason) = &test.reason
                && !Reason::ALL.iter().any(|r| r.facts().word == reason.value)
            {
                self.error(
                    &reason.span,
                    format!("`{}` is not a reason", reason.value),
                    "docs/reference/reasons.md lists them",
                );
            }
            if let Some(forward) = &test.forward
                && !written
                    .upstreams
                    .iter()
                    .any(|u| u.id.value == forward.value)
            {
                let known: Vec<&str> = policy.upstreams.iter().map(|u| u.id.as_str()).collect();
                self.error(
                    &forward.span,
                    format!("there is no upstream `{}`", forward.value),
                    &format!("known: {}", known.join(", ")),
                );
            }
        }
    }
}

/// Whether a pattern has all paths of another.
fn holds(wide: &PathPattern, narrow: &PathPattern) -> bool {
    match (wide, narrow) {
        (PathPattern::Below(_), PathPattern::Exact(path)) => wide.matches(path),
        (PathPattern::Below(prefix), PathPattern::Below(longer)) => {
            longer.len() > prefix.len() && longer.starts_with(prefix.as_str())
        }
        (PathPattern::Exact(_), PathPattern::Exact(_) | PathPattern::Below(_)) => false,
    }
}
