//! What an admitted request looks like to the upstream: credentials and spoofed facts off, our facts on.
//!
//! pingora removes hop-by-hop fields before this runs, so nothing stamped here can be nominated away.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request::Parts};
use orket_shared::header as stamp;
use pingora_http::RequestHeader;

use crate::{
    connection::Scheme,
    guard::Actor,
    pipeline::{Admitted, Body, Delivery},
    policy::{Auth, PathPattern, Route, Upstream},
    request_head::{API_KEY, TEST_TOKEN},
    trace::Trace,
    webhook::{Header, PROVIDERS, Payload},
};

/// Headers in which senders put signatures or shared tokens, whether this gateway speaks their scheme or
/// not. Lower case.
const SIGNATURES: [&str; 24] = [
    "x-gitea-signature",
    "x-forgejo-signature",
    "x-gogs-signature",
    "x-hub-signature",
    "x-hub-signature-256",
    "x-gitlab-token",
    "webhook-signature",
    "svix-signature",
    "stripe-signature",
    "x-slack-signature",
    "x-shopify-hmac-sha256",
    "x-atlassian-webhook-signature",
    "linear-signature",
    "sentry-hook-signature",
    "x-pagerduty-signature",
    "circleci-signature",
    "x-signature",
    "x-signature-256",
    "x-signature-ed25519",
    "x-twilio-signature",
    "x-line-signature",
    "x-zm-signature",
    "typeform-signature",
    "x-webhook-signature",
];

/// Headers by which a client could claim who it is, where it comes from or what it asked for, and
/// that some server or framework believes; and those that override method or path. What begins as one of the
/// [`FAMILIES`] is not named here again.
const SPOOFS: [&str; 72] = [
    // Where it comes from.
    "forwarded",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-real-port",
    "true-client-ip",
    "client-ip",
    "proxy-client-ip",
    "wl-proxy-client-ip",
    "wl-proxy-ssl",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-proxyuser-ip",
    "x-originating-ip",
    "x-remote-ip",
    "x-remote-addr",
    "remote-addr",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-envoy-external-address",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "fastly-client-ip",
    "fly-client-ip",
    "x-nf-client-connection-ip",
    "x-vercel-forwarded-for",
    "do-connecting-ip",
    // Who it is, beyond the families.
    "x-remote-user",
    "x-remote-group",
    "x-remote-groups",
    "x-remote-email",
    "x-remote-name",
    "x-authenticated-user",
    "x-authenticated-userid",
    "x-authenticated-groups",
    "x-anonymous-consumer",
    "x-credential-identifier",
    "x-credential-username",
    "x-user",
    "x-user-id",
    "x-userinfo",
    "x-user-email",
    "x-user-name",
    "x-user-groups",
    "x-user-roles",
    "x-auth-user",
    "x-auth-username",
    "x-auth-userid",
    "x-auth-email",
    "x-auth-groups",
    "x-auth-roles",
    "x-auth-subject",
    "x-jwt-assertion",
    "ssl-client-cert",
    "x-client-cert",
    "client-cert",
    "client-cert-chain",
    // What it asked for.
    "x-host",
    "x-original-host",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-http-path-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    // The gateway's own.
    "x-request-id",
];

/// Fields of the connection, not of the message (RFC 9110, section 7.6.1), beyond what pingora removes.
const HOP_BY_HOP: [&str; 6] = [
    "proxy-authorization",
    "proxy-connection",
    "keep-alive",
    "trailer",
    // Answered here: the body is on its way.
    "expect",
    // A CGI program would take it for its proxy (CVE-2016-5385).
    "proxy",
];

/// What a route lets through that is otherwise removed.
#[derive(Debug, Clone, Copy, Default)]
struct Keep {
    signature: bool,
    authorization: bool,
}

/// The name as a server that folds `_`, or every mark, into `-` would see it, in lower case.
fn folded(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| is_mark(b) || b.is_ascii_uppercase()) {
        let fold = |c: char| match c {
            c if c.is_ascii_alphanumeric() => c.to_ascii_lowercase(),
            _ => '-',
        };
        Cow::Owned(name.chars().map(fold).collect())
    } else {
        Cow::Borrowed(name)
    }
}

/// Whole families of claims, by how they begin: ours, and those that proxies and identity-aware proxies stamp.
const FAMILIES: [&str; 26] = [
    "x-orket-",
    "x-forwarded-",
    // Apache, nginx and what stands behind them: Authelia, Grafana, and authentik's outpost.
    "remote-user",
    "remote-groups",
    "remote-email",
    "remote-name",
    "x-webauth-",
    "x-authentik-",
    // TLS that ended in front.
    "x-ssl-client-",
    "ssl-client-",
    "x-client-cert-",
    // oauth2-proxy, Vouch, Pomerium, Kong.
    "x-auth-request-",
    "x-vouch-",
    "x-pomerium-",
    "x-consumer-",
    // Cloudflare Access, Google's IAP and its endpoints, AWS's balancer and gateway, Azure's App Service, Tailscale, exe.dev.
    "cf-access-",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-endpoint-api-",
    "x-apigateway-api-",
    "x-appengine-user-",
    "x-amzn-oidc-",
    "x-amzn-mtls-",
    "x-ms-client-principal",
    "tailscale-",
    "x-exedev-",
];

/// What a header is to this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A key or token of ours: never forwarded.
    Credential,
    /// `Authorization`: forwarded where the route keeps it.
    Authorization,
    /// A sender's signature, or the time or id that it signed: forwarded where the route keeps it.
    Signature,
    /// A claim about who, from where or what: never forwarded.
    Claim,
    /// Of the connection, not of the message: never forwarded.
    HopByHop,
    /// Forwarded as it is, and must not be lost on the way.
    Essential,
    /// Forwarded as it is.
    Plain,
}

/// Every header that is not [`Kind::Plain`], save the families: one look-up, however many there are.
static KINDS: LazyLock<HashMap<&'static str, Kind>> = LazyLock::new(|| {
    let of_senders = || PROVIDERS.iter().flat_map(|p| p.headers());
    let mut kinds = HashMap::new();
    for name in [
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "cookie",
        "origin",
    ] {
        kinds.insert(name, Kind::Essential);
    }
    kinds.extend(of_senders().map(|h| (h.name.as_ref(), Kind::Essential)));
    kinds.extend(SPOOFS.map(|name| (name, Kind::Claim)));
    kinds.extend(HOP_BY_HOP.map(|name| (name, Kind::HopByHop)));
    kinds.extend(SIGNATURES.map(|name| (name, Kind::Signature)));
    let proof = of_senders().filter(|h| h.role.is_proof());
    kinds.extend(proof.map(|h| (h.name.as_ref(), Kind::Signature)));
    kinds.extend([
        (API_KEY, Kind::Credential),
        (TEST_TOKEN, Kind::Credential),
        ("authorization", Kind::Authorization),
    ]);
    kinds
});

fn kind(name: &str) -> Kind {
    if let Some(kind) = KINDS.get(name) {
        return *kind;
    }
    if FAMILIES.iter().any(|family| name.starts_with(family)) {
        Kind::Claim
    } else if name.starts_with("sec-") {
        Kind::Essential
    } else {
        Kind::Plain
    }
}

/// Whether a name is spelled with something else than letters, digits and `-`.
fn is_spelled_oddly(name: &str) -> bool {
    name.bytes().any(is_mark)
}

fn is_mark(b: u8) -> bool {
    !b.is_ascii_alphanumeric() && b != b'-'
}

fn is_stripped(name: &str, keep: Keep) -> bool {
    let spelled_oddly = is_spelled_oddly(name);
    match kind(&folded(name)) {
        Kind::Credential | Kind::Claim | Kind::HopByHop => true,
        Kind::Authorization => spelled_oddly || !keep.authorization,
        Kind::Signature => spelled_oddly || !keep.signature,
        // An odd spelling of a header that decides something would be read as that header further inside.
        Kind::Essential => spelled_oddly,
        Kind::Plain => false,
    }
}

/// Whether a header is stripped for what it is to the route's sender, which the policy may have described itself.
fn is_stripped_as(of_route: &[Header], name: &str, keep: Keep) -> bool {
    let folded = folded(name);
    of_route
        .iter()
        .find(|h| h.name == folded)
        .is_some_and(|h| is_spelled_oddly(name) || (h.role.is_proof() && !keep.signature))
}

/// Whether a policy may give this header (in lower case) a meaning for a sender of its own.
pub fn is_free(name: &str) -> bool {
    let of_a_sender = PROVIDERS
        .iter()
        .any(|p| p.headers().iter().any(|h| h.name == name));
    let of_the_connection = ["connection", "te", "upgrade"].contains(&name);
    match kind(name) {
        Kind::Plain => !of_the_connection && !is_spelled_oddly(name),
        Kind::Signature | Kind::Essential => of_a_sender,
        Kind::Credential | Kind::Authorization | Kind::Claim | Kind::HopByHop => false,
    }
}

/// Whether a header must not be removed on the way, so that `Connection` may not nominate it.
pub fn is_protected(name: &str) -> bool {
    match kind(&folded(name)) {
        Kind::Credential
        | Kind::Authorization
        | Kind::Signature
        | Kind::Claim
        | Kind::Essential => true,
        Kind::HopByHop | Kind::Plain => false,
    }
}

/// The facts about a request that are stamped on it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// The judged client address.
    pub client: std::net::IpAddr,
    /// The `Host` asked for.
    pub host: &'a str,
    /// What the client speaks to this gateway.
    pub scheme: Scheme,
    /// The judged path.
    pub path: &'a str,
    /// The query, as it is.
    pub query: Option<&'a str>,
}

/// Why a request cannot be sent: a fault of ours, answered with 500.
#[derive(Debug, thiserror::Error)]
pub enum Unsendable {
    /// Its target is not what its URI says.
    #[error("the target is in no form that goes on")]
    Target,
    /// What is stamped is no header, or the rewritten path is none.
    #[error(transparent)]
    Stamp(#[from] http::Error),
}

/// Makes the request what the upstream gets. Errors only where a value cannot be a header, which none
/// of ours is; the caller answers 500.
///
/// Names go on in the spelling of HTTP/2, or the usual one: the spelling in which they came is not kept, for a second map
/// of names beside the headers would cost more than all that is done here.
pub fn prepare(
    request: &mut RequestHeader,
    admitted: &Admitted,
    upstream: &Upstream,
    facts: &Facts<'_>,
    trace: Option<&Trace>,
) -> Result<(), Unsendable> {
    // What follows keeps the URI only. The gate lets nothing else through.
    let target = request.uri.path_and_query().map(|t| t.as_str().as_bytes());
    if target != Some(request.raw_path()) {
        return Err(Unsendable::Target);
    }
    let nothing = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts = Parts::from(std::mem::replace(request, nothing));
    strip(&mut parts.headers, admitted.route(), admitted.body());
    let stamps = Stamps {
        route: admitted.route(),
        actor: admitted.actor(),
        delivery: admitted.delivery(),
    };
    stamp(&mut parts, &stamps, upstream, facts)?;
    if let Some(trace) = trace {
        trace.stamp(&mut parts.headers).map_err(http::Error::from)?;
    }
    *request = parts.into();
    Ok(())
}

/// Takes off credentials and claims, and gives a proven body its length and type.
pub fn strip(headers: &mut HeaderMap, route: &Route, body: &Body) {
    let keep = Keep {
        signature: route.keep_signature,
        authorization: route.keep_authorization,
    };
    let of_route: &[Header] = match &route.auth {
        Auth::Webhook(auth) => auth.provider.headers(),
        Auth::ApiKey | Auth::TestWebhook(_) | Auth::None => &[],
    };
    remove(headers, |name| {
        is_stripped(name, keep) || is_stripped_as(of_route, name, keep)
    });
    if let Body::Proven(proven) = body {
        let payload = proven.payload();
        headers.remove(header::TRANSFER_ENCODING);
        headers.insert(header::CONTENT_LENGTH, payload.bytes().len().into());
        if let Payload::Json(_) = payload {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
        }
    }
}

/// Removes every header whose name is one of these.
fn remove(headers: &mut HeaderMap, is_one: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_one(name.as_str()))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// What is stamped besides the facts: by which route it goes, who was admitted, and with what delivery.
#[derive(Debug, Clone, Copy)]
pub struct Stamps<'a> {
    /// The route.
    pub route: &'a Route,
    /// Who was admitted.
    pub actor: &'a Actor,
    /// The delivery, for a webhook.
    pub delivery: Option<&'a Delivery>,
}

/// Puts our facts on a stripped request, and the path and the headers that the policy sets.
pub fn stamp(
    request: &mut Parts,
    stamps: &Stamps<'_>,
    upstream: &Upstream,
    facts: &Facts<'_>,
) -> Result<(), http::Error> {
    let route = stamps.route;
    if let Some(rewrite) = &route.rewrite {
        let target = rewritten(rewrite, &route.path, facts);
        request.uri = Uri::builder().path_and_query(target).build()?;
    }
    let headers = &mut request.headers;
    let client = facts.client.to_string();
    let actor = stamps.actor.to_string();
    for (name, value) in [
        (REQUEST_ID, facts.request_id),
        (FORWARDED_FOR, &client),
        (FORWARDED_PROTO, facts.scheme.as_str()),
        (FORWARDED_HOST, facts.host),
        (ACTOR, &actor),
    ] {
        headers.insert(name, HeaderValue::from_str(value)?);
    }
    if let Some(delivery) = stamps.delivery {
        stamp_delivery(headers, delivery)?;
    }
    for set in &upstream.set_headers {
        // In any spelling that a server further inside would take for the same.
        let name = folded(set.name.as_str());
        remove(headers, |other| folded(other) == name);
        headers.insert(set.name.clone(), set.value.clone());
    }
    Ok(())
}

const REQUEST_ID: HeaderName = HeaderName::from_static(stamp::REQUEST_ID);
const FORWARDED_FOR: HeaderName = HeaderName::from_static(stamp::FORWARDED_FOR);
const FORWARDED_PROTO: HeaderName = HeaderName::from_static(stamp::FORWARDED_PROTO);
const FORWARDED_HOST: HeaderName = HeaderName::from_static(stamp::FORWARDED_HOST);
const ACTOR: HeaderName = HeaderName::from_static(stamp::ACTOR);

fn stamp_delivery(headers: &mut HeaderMap, delivery: &Delivery) -> Result<(), http::Error> {
    for (name, value) in [
        (stamp::WEBHOOK_SOURCE, delivery.source.as_ref()),
        (stamp::WEBHOOK_PROVIDER, delivery.provider),
        (stamp::WEBHOOK_KEY, delivery.key.as_str()),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
    }
    for (name, value) in [
        (stamp::WEBHOOK_EVENT, &delivery.event),
        (stamp::WEBHOOK_DELIVERY, &delivery.id),
    ] {
        if let Some(value) = value
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    Ok(())
}

fn rewritten(to: &PathPattern, from: &PathPattern, facts: &Facts<'_>) -> String {
    let mut target = match (to, from) {
        (PathPattern::Below(to), PathPattern::Below(from)) => {
            format!(
                "{to}{}",
                facts.path.strip_prefix(from.as_str()).unwrap_or_default()
            )
        }
        (PathPattern::Exact(to) | PathPattern::Below(to), _) => to.clone(),
    };
    if let Some(query) = facts.query {
        target.push('?');
        target.push_str(query);
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_believed_is_stripped_in_any_spelling() {
        for name in [
            "x-api-key",
            "x_api_key",
            "X-Orket-Actor",
            "x_orket_actor",
            "x-orket-anything",
            "x-forwarded-for",
            "x_forwarded_for",
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "authorization",
            "x-gitea-signature",
            "x_gitea_signature",
            "x-hub-signature-256",
            "x-request-id",
            "x-original-url",
            "x-http-method-override",
            "x_http_method_override",
            "proxy-authorization",
            "content_length",
            "transfer_encoding",
            "x-webhook-test-token",
            "remote_user",
            "remote-groups",
            "x-authentik-username",
            "cf-access-jwt-assertion",
            "X_Pomerium_Jwt_Assertion",
            "tailscale-user-login",
            "x-amzn-oidc-data",
        ] {
            assert!(is_stripped(name, Keep::default()), "{name}");
        }
        for name in [
            "accept",
            "content-type",
            "x-gitea-event",
            "user-agent",
            "traceparent",
            "x_custom",
            "x-auth-token",
            "remote-control",
            "cf-ray",
            "idempotency-key",
        ] {
            assert!(!is_stripped(name, Keep::default()), "{name}");
        }
        let keep = Keep {
            signature: true,
            authorization: true,
        };
        assert!(!is_stripped("x-gitea-signature", keep) && !is_stripped("authorization", keep));
        assert!(is_stripped("x_gitea_signature", keep) && is_stripped("x-api-key", keep));
    }
}
