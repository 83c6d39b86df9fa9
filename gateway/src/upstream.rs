//! What an admitted request looks like to the upstream: credentials and spoofed facts off, our facts on.
//!
//! pingora removes hop-by-hop fields before this runs, so nothing stamped here can be nominated away.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use http::{HeaderValue, header};
use orket_shared::header as stamp;
use pingora_http::RequestHeader;

use crate::{
    connection::Scheme,
    guard::Actor,
    pipeline::{Admitted, Body, Delivery},
    policy::{Auth, PathPattern, Route, Upstream},
    request_head::{API_KEY, TEST_TOKEN},
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
/// that some server or framework believes; and those that override method or path.
const SPOOFS: [&str; 43] = [
    "client-ip",
    "proxy-client-ip",
    "wl-proxy-client-ip",
    "x-proxyuser-ip",
    "x-webauth-user",
    "x-webauth-email",
    "x-webauth-fullname",
    "ssl-client-cert",
    "x-client-cert",
    "cf-access-authenticated-user-email",
    "x-http-path-override",
    "x-forwarded-user",
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "fly-client-ip",
    "x-azure-clientip",
    "x-appengine-user-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-originating-ip",
    "x-remote-ip",
    "x-remote-addr",
    "x-remote-user",
    "remote-user",
    "x-authenticated-user",
    "x-auth-request-user",
    "x-host",
    "x-original-host",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
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

/// The name as a server that folds `_` into `-` would see it, in lower case.
fn folded(name: &str) -> Cow<'_, str> {
    if name.contains('_') || name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase().replace('_', "-"))
    } else {
        Cow::Borrowed(name)
    }
}

/// Whole families of claims: ours, and those that identity-aware proxies stamp.
const FAMILIES: [&str; 8] = [
    "x-orket-",
    "x-forwarded-",
    "x-ssl-client-",
    "x-amzn-oidc-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-auth-request-",
    "tailscale-user-",
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

fn is_stripped(name: &str, keep: Keep) -> bool {
    let spelled_oddly = name.contains('_');
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
        .is_some_and(|h| name.contains('_') || (h.role.is_proof() && !keep.signature))
}

/// Whether a policy may give this header (in lower case) a meaning for a sender of its own.
pub fn is_free(name: &str) -> bool {
    let of_a_sender = PROVIDERS
        .iter()
        .any(|p| p.headers().iter().any(|h| h.name == name));
    let of_the_connection = ["connection", "te", "upgrade"].contains(&name);
    match kind(name) {
        Kind::Plain => !of_the_connection && !name.contains('_'),
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

/// Makes the request what the upstream gets. Errors only where a value cannot be a header, which none
/// of ours is; the caller answers 500.
pub fn prepare(
    request: &mut RequestHeader,
    admitted: &Admitted,
    upstream: &Upstream,
    facts: &Facts<'_>,
) -> pingora_core::Result<()> {
    strip(request, admitted.route(), admitted.body())?;
    let stamps = Stamps {
        route: admitted.route(),
        actor: admitted.actor(),
        delivery: admitted.delivery(),
    };
    stamp(request, &stamps, upstream, facts)
}

/// Takes off credentials and claims, and gives a proven body its length and type.
pub fn strip(request: &mut RequestHeader, route: &Route, body: &Body) -> pingora_core::Result<()> {
    let keep = Keep {
        signature: route.keep_signature,
        authorization: route.keep_authorization,
    };
    let of_route: &[Header] = match &route.auth {
        Auth::Webhook(auth) => auth.provider.headers(),
        Auth::ApiKey | Auth::TestWebhook(_) | Auth::None => &[],
    };
    let stripped: Vec<_> = request
        .headers
        .keys()
        .filter(|n| is_stripped(n.as_str(), keep) || is_stripped_as(of_route, n.as_str(), keep))
        .cloned()
        .collect();
    for name in stripped {
        request.remove_header(&name);
    }
    if let Body::Proven(payload) = body {
        request.remove_header(&header::TRANSFER_ENCODING);
        request.insert_header(header::CONTENT_LENGTH, payload.bytes().len().to_string())?;
        if let Payload::Json(_) = payload {
            request.insert_header(header::CONTENT_TYPE, "application/json")?;
        }
    }
    Ok(())
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
    request: &mut RequestHeader,
    stamps: &Stamps<'_>,
    upstream: &Upstream,
    facts: &Facts<'_>,
) -> pingora_core::Result<()> {
    let route = stamps.route;
    if let Some(rewrite) = &route.rewrite {
        request.set_raw_path(rewritten(rewrite, &route.path, facts).as_bytes())?;
    }
    request.insert_header(stamp::REQUEST_ID, facts.request_id)?;
    request.insert_header(stamp::FORWARDED_FOR, facts.client.to_string())?;
    request.insert_header(stamp::FORWARDED_PROTO, facts.scheme.as_str())?;
    request.insert_header(stamp::FORWARDED_HOST, facts.host)?;
    request.insert_header(stamp::ACTOR, stamps.actor.to_string())?;
    if let Some(delivery) = stamps.delivery {
        stamp_delivery(request, delivery)?;
    }
    for set in &upstream.set_headers {
        // In any spelling that a server further inside would take for the same.
        let others: Vec<_> = request
            .headers
            .keys()
            .filter(|name| folded(name.as_str()) == folded(set.name.as_str()))
            .cloned()
            .collect();
        for name in others {
            request.remove_header(&name);
        }
        request.insert_header(set.name.clone(), set.value.clone())?;
    }
    Ok(())
}

fn stamp_delivery(request: &mut RequestHeader, delivery: &Delivery) -> pingora_core::Result<()> {
    request.insert_header(stamp::WEBHOOK_SOURCE, delivery.source.as_ref())?;
    request.insert_header(stamp::WEBHOOK_PROVIDER, delivery.provider)?;
    request.insert_header(stamp::WEBHOOK_KEY, delivery.key.as_str())?;
    for (name, value) in [
        (stamp::WEBHOOK_EVENT, &delivery.event),
        (stamp::WEBHOOK_DELIVERY, &delivery.id),
    ] {
        if let Some(value) = value
            && let Ok(value) = HeaderValue::from_str(value)
        {
            request.insert_header(name, value)?;
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
