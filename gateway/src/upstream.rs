//! What an admitted request looks like to the upstream: credentials and spoofed facts off, our facts on.
//!
//! pingora removes hop-by-hop fields before this runs, so nothing stamped here can be nominated away.

mod headers;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request::Parts};
use orket_shared::header as stamp;
use pingora_http::RequestHeader;

use crate::{
    connection::Scheme,
    guard::Actor,
    pipeline::{Admitted, Body, Delivery},
    policy::{Auth, PathPattern, Route, Upstream},
    trace::Trace,
    webhook::{Header, Payload},
};

use self::headers::{Keep, folded, is_stripped, is_stripped_as};
pub use self::headers::{is_free, is_protected};

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
