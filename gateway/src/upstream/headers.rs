//! What a header is to this gateway: a credential, a signature, a claim, or nothing to it. By its name alone, in any spelling that a server
//! further inside would take for the same.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use crate::{
    request_head::{API_KEY, TEST_TOKEN},
    webhook::{Header, PROVIDERS},
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
pub(super) struct Keep {
    pub(super) signature: bool,
    pub(super) authorization: bool,
}

/// The name as a server that folds `_`, or every mark, into `-` would see it, in lower case.
pub(super) fn folded(name: &str) -> Cow<'_, str> {
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

pub(super) fn is_stripped(name: &str, keep: Keep) -> bool {
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
pub(super) fn is_stripped_as(of_route: &[Header], name: &str, keep: Keep) -> bool {
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
