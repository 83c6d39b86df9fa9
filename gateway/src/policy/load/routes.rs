//! Routes: each complete on its own, and no two that could mean the same request.

use std::ops::Range;

use http::Method;

use super::{Loader, Origin, TOP, Weakness, keys::KEYS, secrets::Secrets};
use crate::{
    config::{self, Written, reader::At},
    policy::{
        Auth, BudgetOf, Bypass, PathPattern, RateLimit, Route, Upgrade, Upstream,
        address::AddressRules, keys::KeyRing,
    },
    route::RouteTable,
};

/// The methods a route may take. CONNECT and TRACE are not among them: the first is a tunnel past every
/// check, the second answers with the request's own headers.
pub(super) const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// Default body limit of a route: what Gitea's largest ordinary deliveries stay far below.
const DEFAULT_BODY_LIMIT: usize = 1024 * 1024;

/// The largest body a webhook may have: it is held in memory until it is proven.
const MAX_WEBHOOK_BODY: usize = 64 * 1024 * 1024;

impl Loader<'_> {
    #[expect(
        clippy::too_many_arguments,
        reason = "a route is where everything comes together"
    )]
    pub(super) fn routes(
        &mut self,
        written: &Written,
        origin: &Origin,
        secrets: &Secrets,
        keys: &KeyRing,
        bypass: Bypass,
        rate_limits: &[RateLimit],
        upstreams: &[Upstream],
    ) -> RouteTable {
        let mut routes: Vec<Route> = Vec::new();
        for w in &written.routes {
            let Some(route) = self.route(w, origin, secrets, keys, rate_limits, upstreams) else {
                continue;
            };
            if matches!(route.auth, Auth::ApiKey)
                && keys.is_empty()
                && bypass == Bypass::Off
                && !self.half_read.contains(KEYS)
            {
                self.weak(
                    Weakness::MissingSecret,
                    &w.at.span,
                    format!(
                        "route `{}` wants an API key and there is none: it refuses everything",
                        route.id
                    ),
                    "set ORKET_API_KEY, or add [[keys]]",
                );
            }
            if let Some(other) = routes.iter().find(|r| r.id == route.id) {
                self.error(
                    &w.at.span,
                    format!("there are two routes `{}`", other.id),
                    "give each its own id",
                );
            }
            let clash = routes.iter().find(|r| {
                r.path == route.path && r.methods.iter().any(|m| route.methods.contains(m))
            });
            if let Some(other) = clash {
                self.error(
                    &w.path
                        .as_ref()
                        .map_or(w.at.span.clone(), |p| p.span.clone()),
                    format!(
                        "routes `{}` and `{}` take the same requests",
                        other.id, route.id
                    ),
                    "give them different paths or methods",
                );
            }
            routes.push(route);
        }
        if written.routes.is_empty() && !self.problems.has_errors() {
            self.error(
                &(0..0),
                "there is no route",
                "add a [[routes]]: what no route names is refused",
            );
        }
        RouteTable::new(routes)
    }

    fn route(
        &mut self,
        w: &config::Route,
        origin: &Origin,
        secrets: &Secrets,
        keys: &KeyRing,
        rate_limits: &[RateLimit],
        upstreams: &[Upstream],
    ) -> Option<Route> {
        let span = &w.at.span;
        let Some(id) = &w.id else {
            self.lacking(&w.at, "a route", &[("id", true)], "e.g. id = \"api\"");
            return None;
        };
        self.check_name(id);
        let path = self.path(w.path.as_ref(), span, &id.value);
        let methods = self.methods(w, &id.value);
        let auth = self.auth(w, origin, secrets, keys, &id.value);
        let upstream = self.named_upstream(w, upstreams, &id.value);
        let budgets = self.budgets(w, rate_limits, auth.as_ref());
        if let Some(spool) = w.spool.as_ref().filter(|s| s.value) {
            self.error(
                &spool.span,
                "this version has no spool",
                "take `spool` out: while the backend is down, deliveries are answered 502",
            );
        }
        let body_limit = w
            .body_limit
            .as_ref()
            .map_or(DEFAULT_BODY_LIMIT, |s| s.value.0);
        if let (Some(Auth::Webhook(_)), Some(at)) = (&auth, &w.body_limit)
            && body_limit > MAX_WEBHOOK_BODY
        {
            self.error(
                &at.span,
                "a webhook's body limit is at most 64MiB",
                "it is held in memory until it is proven",
            );
        }
        let upgrade = match w.upgrade.as_ref() {
            None => Upgrade::None,
            Some(at) if at.value == "websocket" => Upgrade::WebSocket,
            Some(at) => {
                self.error(
                    &at.span,
                    format!("`{}` is not an upgrade", at.value),
                    "the one there is: \"websocket\"",
                );
                Upgrade::None
            }
        };
        let path = path?;
        let rewrite = match &w.rewrite {
            None => None,
            Some(at) => {
                let to = self.path(Some(at), &at.span, &id.value)?;
                if std::mem::discriminant(&to) != std::mem::discriminant(&path) {
                    self.error(
                        &at.span,
                        "`rewrite` and `path` both end in `/*`, or neither does",
                        "what stands for the `*` is put behind the rewritten prefix",
                    );
                }
                Some(to)
            }
        };
        Some(Route {
            id: id.value.as_str().into(),
            path,
            methods: methods?,
            auth: auth?,
            budgets,
            addresses: AddressRules {
                allow: self.networks(&w.addresses.allow),
                deny: self.networks(&w.addresses.deny),
                exempt: self.networks(&w.addresses.exempt),
                mode: self.mode(w.addresses.mode.as_ref(), || {
                    format!("the address rules of route `{}`", id.value)
                }),
            },
            body_limit,
            rewrite,
            keep_signature: w.keep_signature.as_ref().is_some_and(|k| k.value),
            keep_authorization: w.keep_authorization.as_ref().is_some_and(|k| k.value),
            upgrade,
            upstream: upstream?,
        })
    }

    pub(super) fn path(
        &mut self,
        written: Option<&At<String>>,
        span: &Range<usize>,
        id: &str,
    ) -> Option<PathPattern> {
        let Some(at) = written else {
            if self.problems.is_unreadable(span, "path") {
                return None;
            }
            self.error(
                span,
                format!("route `{id}` lacks `path`"),
                "e.g. path = \"/v1/*\"",
            );
            return None;
        };
        let text = at.value.as_str();
        let (plain, pattern) = match text.strip_suffix("/*") {
            Some(prefix) => (prefix, PathPattern::Below(format!("{prefix}/"))),
            None => (text, PathPattern::Exact(text.to_owned())),
        };
        let fine = text.starts_with('/')
            && !plain.contains("//")
            && !plain.split('/').any(|s| s == "." || s == "..")
            && plain
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()+,=:@".contains(&b));
        if !fine {
            self.error(
                &at.span,
                format!("`{text}` is not a path a request could have"),
                "begin with `/`, without `//`, dot segments or escapes; `*` may stand last, as in \"/v1/*\"",
            );
            return None;
        }
        Some(pattern)
    }

    fn methods(&mut self, w: &config::Route, id: &str) -> Option<Vec<Method>> {
        let named = w.methods.as_ref().filter(|m| !m.value.is_empty());
        let Some(at) = named else {
            if self.problems.is_unreadable(&w.at.span, "methods") {
                return None;
            }
            let span = w.methods.as_ref().map_or(&w.at.span, |m| &m.span);
            self.error(
                span,
                format!("route `{id}` lacks `methods`"),
                "e.g. methods = [\"GET\", \"POST\"]",
            );
            return None;
        };
        let mut out = Vec::new();
        for name in &at.value {
            match METHODS.iter().find(|m| m.as_str() == name.value) {
                Some(method) if !out.contains(method) => out.push(method.clone()),
                Some(_) => {}
                None => self.error(
                    &name.span,
                    format!("`{}` is not a method a route can take", name.value),
                    "GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS",
                ),
            }
        }
        Some(out)
    }

    fn named_upstream(
        &mut self,
        w: &config::Route,
        upstreams: &[Upstream],
        id: &str,
    ) -> Option<usize> {
        let Some(name) = &w.upstream else {
            self.lacking(
                &w.at,
                &format!("route `{id}`"),
                &[("upstream", true)],
                "name one of [upstreams]",
            );
            return None;
        };
        let found = upstreams.iter().position(|u| u.id == name.value);
        let half_read = self.half_read.contains(&format!("upstream {}", name.value))
            || self.problems.is_unreadable(&TOP, "upstreams");
        if found.is_none() && !half_read {
            let known: Vec<&str> = upstreams.iter().map(|u| u.id.as_str()).collect();
            self.error(
                &name.span,
                format!("there is no upstream `{}`", name.value),
                &if known.is_empty() {
                    "add [upstreams.…] with an address".to_owned()
                } else {
                    format!("known: {}", known.join(", "))
                },
            );
        }
        found
    }

    fn budgets(
        &mut self,
        w: &config::Route,
        rate_limits: &[RateLimit],
        auth: Option<&Auth>,
    ) -> Vec<usize> {
        let mut out = Vec::new();
        for name in &w.rate_limits {
            let Some(index) = rate_limits.iter().position(|l| l.id == name.value) else {
                if self.half_read.contains(&format!("limit {}", name.value))
                    || self.problems.is_unreadable(&TOP, "rate_limits")
                {
                    continue;
                }
                self.error(
                    &name.span,
                    format!("there is no rate limit `{}`", name.value),
                    "add it as [[rate_limits]]",
                );
                continue;
            };
            let fits = match (rate_limits[index].by, auth) {
                (BudgetOf::Key, Some(Auth::Webhook(_) | Auth::TestWebhook(_) | Auth::None)) => {
                    false
                }
                (BudgetOf::Source, Some(Auth::ApiKey | Auth::None)) => false,
                (BudgetOf::Key | BudgetOf::Source | BudgetOf::Address | BudgetOf::Route, _) => true,
            };
            if !fits {
                self.error(
                    &name.span,
                    format!(
                        "limit `{}` is kept by something this route does not have",
                        name.value
                    ),
                    "use by = \"source\" for webhooks, by = \"key\" for key routes",
                );
            }
            out.push(index);
        }
        out
    }
}
