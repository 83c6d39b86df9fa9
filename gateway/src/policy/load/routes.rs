//! Routes: each complete on its own, and no two that could mean the same request.

use std::ops::Range;

use http::Method;

use super::{Loader, Origin, TOP, Weakness, keys::KEYS, secrets::Secrets};
use crate::{
    config::{self, Written, reader::At},
    policy::{
        Auth, BudgetOf, Bypass, PathPattern, RateLimit, Route, Spooling, Upgrade, Upstream,
        WebhookAuth, address::AddressRules, keys::KeyRing,
    },
    route::RouteTable,
    webhook::Role,
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

/// What to do about a file whose routes want a key while it has none.
pub(super) const NO_KEY: &str =
    "add [[keys]]: `orket-gateway keys new --config FILE --id ID --scopes …` does";

/// Whether two routes remember deliveries under one name, by marks of two kinds.
fn tell_apart_differently(one: &Route, other: &Route) -> bool {
    let (Auth::Webhook(a), Auth::Webhook(b)) = (&one.auth, &other.auth) else {
        return false;
    };
    let by_id = |auth: &WebhookAuth| {
        let mut headers = auth.provider.headers().iter();
        headers.any(|h| h.role == Role::SignedId)
    };
    a.replay
        && b.replay
        && a.source == b.source
        && one.upstream == other.upstream
        && by_id(a) != by_id(b)
}

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
                    match origin {
                        Origin::BuiltIn => "set ORKET_API_KEY",
                        Origin::File(_) => NO_KEY,
                    },
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
            if let Some(other) = routes
                .iter()
                .find(|other| tell_apart_differently(other, &route))
            {
                self.error(
                    &w.at.span,
                    format!(
                        "routes `{}` and `{}` have one source, and know repetitions by different marks: one by the id that its sender signs, the other by the body. Whoever has one secret could have deliveries of the other taken for known",
                        other.id, route.id
                    ),
                    "give each a `source` of its own",
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
        let spool = self.spooling(w, auth.as_ref());
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
            spool,
            // One that is not there was told; the route is judged all the same, and nothing loads with it.
            upstream: upstream.unwrap_or(usize::MAX),
        })
    }

    /// Only proven deliveries wait, and no credential with them.
    fn spooling(&mut self, w: &config::Route, auth: Option<&Auth>) -> Spooling {
        let Some(switch) = w.spool.as_ref().filter(|s| s.value) else {
            return Spooling::Off;
        };
        match auth {
            Some(Auth::Webhook(webhook)) => {
                let token = webhook.provider.name() == "gitlab_token";
                if token && w.keep_signature.as_ref().is_some_and(|k| k.value) {
                    self.error(
                        &switch.span,
                        "what waits on disk holds no credential, and this sender's signature is one",
                        "take `keep_signature` or `spool` out",
                    );
                }
            }
            Some(Auth::ApiKey | Auth::TestWebhook(_) | Auth::None) => self.error(
                &switch.span,
                "only deliveries of a webhook wait: whoever else asks is there to hear the answer",
                "take `spool` out",
            ),
            // It has its error already.
            None => {}
        }
        if let Some(keep) = w.keep_authorization.as_ref().filter(|k| k.value) {
            self.error(
                &keep.span,
                "what waits on disk holds no credential: `keep_authorization` and `spool` exclude each other",
                "take one of them out; `set_headers` gives an upstream a credential of its own",
            );
        }
        Spooling::On
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
