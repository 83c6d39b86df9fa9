//! A proven delivery in the form in which it is sent, now or later: stripped of credentials and claims, not stamped yet.
//!
//! A [`Letter`] is made from an [`Admitted`] and from nothing else, or read back from an entry that
//! was. What is stamped on it is decided when it is sent, by the policy in force then.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use jiff::Timestamp;
use orket_shared::id::new_ulid;
use pingora_http::RequestHeader;

use super::entry::Head;
use crate::{
    connection::Scheme,
    denial::Reason,
    guard::Actor,
    pipeline::{Admitted, Body, Delivery},
    policy::{Auth, Policy, Route, Upstream},
    upstream::{self, Facts, Stamps},
    webhook,
};

/// Headers that belong to one connection (RFC 9110, section 7.6.1) and that no later one has; and cookies, which no sender of
/// deliveries has any business with and which would be a credential at rest.
const LEFT_OUT: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::COOKIE,
];

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Letter {
    /// What is stored of its head.
    pub head: Head,
    /// Its proven bytes.
    pub body: Bytes,
}

impl Letter {
    /// The letter of an admitted delivery. `request` is the head it came with.
    pub fn of(
        admitted: &Admitted,
        policy: &Policy,
        mut request: RequestHeader,
        facts: &Facts<'_>,
        now: Timestamp,
    ) -> Result<Self, Reason> {
        let (Some(delivery), Body::Proven(payload)) = (admitted.delivery(), admitted.body()) else {
            return Err(Reason::Internal);
        };
        let upstream = policy
            .upstreams
            .get(admitted.route().upstream)
            .ok_or(Reason::Internal)?;
        leave_out(&mut request);
        upstream::strip(&mut request, admitted.route(), admitted.body())
            .map_err(|_| Reason::Internal)?;
        let target = std::str::from_utf8(request.raw_path()).map_err(|_| Reason::PathAmbiguous)?;
        if target.parse::<http::uri::PathAndQuery>().is_err() {
            return Err(Reason::PathAmbiguous);
        }
        let head = Head {
            id: new_ulid(),
            source: delivery.source.to_string(),
            provider: delivery.provider.to_owned(),
            event: delivery.event.clone(),
            delivery: delivery.id.clone(),
            key: delivery.key.clone(),
            remember: delivery.remember,
            route: admitted.route().id.to_string(),
            upstream: upstream.id.clone(),
            request_id: facts.request_id.to_owned(),
            client: facts.client,
            host: facts.host.to_owned(),
            proto: facts.scheme.as_str().to_owned(),
            method: request.method.to_string(),
            target: target.to_owned(),
            headers: request
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), one_a_byte(value.as_bytes())))
                .collect(),
            received_ms: now.as_millisecond(),
        };
        Ok(Self {
            head,
            body: payload.bytes().clone(),
        })
    }

    /// The request as the upstream gets it, by a policy in which its route is `route`.
    pub fn stamped(
        &self,
        route: &Route,
        upstream: &Upstream,
    ) -> pingora_core::Result<RequestHeader> {
        let head = &self.head;
        let mut request = RequestHeader::build(head.method.as_str(), head.target.as_bytes(), None)?;
        for (name, value) in &head.headers {
            request.append_header(name.clone(), value_of(value)?)?;
        }
        let source: Arc<str> = head.source.as_str().into();
        let delivery = Delivery {
            source: source.clone(),
            provider: provider(&head.provider, route),
            event: head.event.clone(),
            id: head.delivery.clone(),
            key: head.key.clone(),
            remember: head.remember,
            secret: None,
        };
        let (path, query) = match head.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (head.target.as_str(), None),
        };
        let facts = Facts {
            request_id: &head.request_id,
            client: head.client,
            host: &head.host,
            scheme: scheme(&head.proto),
            path,
            query,
        };
        let stamps = Stamps {
            route,
            actor: &Actor::Webhook(source),
            delivery: Some(&delivery),
        };
        upstream::stamp(&mut request, &stamps, upstream, &facts)?;
        Ok(request)
    }
}

/// The sender's kind. A stored name that is none any more is that of the route it is sent by.
fn provider(name: &str, route: &Route) -> &'static str {
    match (webhook::provider(name), &route.auth) {
        (Some(provider), _) => provider.name(),
        (None, Auth::Webhook(auth)) => auth.provider.name(),
        (None, Auth::ApiKey | Auth::TestWebhook(_) | Auth::None) => "",
    }
}

/// The scheme a request came by.
fn scheme(name: &str) -> Scheme {
    if name == Scheme::Https.as_str() {
        Scheme::Https
    } else {
        Scheme::Http
    }
}

fn leave_out(request: &mut RequestHeader) {
    let nominated: Vec<HeaderName> = request
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in LEFT_OUT.iter().chain(&nominated) {
        request.remove_header(name);
    }
}

/// Any bytes as text, one character each, so that JSON holds them unharmed.
fn one_a_byte(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

fn value_of(text: &str) -> pingora_core::Result<HeaderValue> {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    bytes
        .and_then(|bytes| HeaderValue::from_bytes(&bytes).ok())
        .ok_or_else(|| {
            pingora_core::Error::explain(
                pingora_core::ErrorType::InvalidHTTPHeader,
                "a stored header is none",
            )
        })
}
