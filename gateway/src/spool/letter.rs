//! A proven delivery in the form in which it is sent, now or later: stripped of credentials and claims, not stamped yet.
//!
//! A [`Letter`] is made from an [`Admitted`] and from nothing else, or read back from an entry that
//! was. What is stamped on it is decided when it is sent, by the policy in force then.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request,
    header::{self, InvalidHeaderValue},
    request::Parts,
};
use jiff::Timestamp;
use orket_shared::id::new_ulid;

use super::entry::Head;
use crate::{
    bodies::ProvenPass,
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
    /// Their place in the memory for bodies; none for one that is read back, which counts as in hand.
    pub held: Option<Arc<ProvenPass>>,
}

impl Letter {
    /// The letter of an admitted delivery. `request` is the head it came with.
    pub fn of(
        admitted: &Admitted,
        policy: &Policy,
        request: Parts,
        facts: &Facts<'_>,
        now: Timestamp,
    ) -> Result<Self, Reason> {
        let (Some(delivery), Body::Proven(proven)) = (admitted.delivery(), admitted.body()) else {
            return Err(Reason::Internal);
        };
        let upstream = policy
            .upstreams
            .get(admitted.route().upstream)
            .ok_or(Reason::Internal)?;
        let mut headers = request.headers;
        leave_out(&mut headers);
        upstream::strip(&mut headers, admitted.route(), admitted.body());
        let target = request.uri.path_and_query().ok_or(Reason::PathAmbiguous)?;
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
            target: target.to_string(),
            headers: headers
                .iter()
                .map(|(name, value)| (name.to_string(), one_a_byte(value.as_bytes())))
                .collect(),
            received_ms: now.as_millisecond(),
        };
        Ok(Self {
            head,
            body: proven.bytes().clone(),
            held: Some(proven.pass().clone()),
        })
    }

    /// The request as the upstream gets it, by a policy in which its route is `route`.
    pub fn stamped(&self, route: &Route, upstream: &Upstream) -> Result<Parts, http::Error> {
        let head = &self.head;
        let request = Request::builder()
            .method(head.method.as_str())
            .uri(&head.target);
        let (mut request, ()) = request.body(())?.into_parts();
        for (name, value) in &head.headers {
            let name = HeaderName::try_from(name)?;
            request.headers.append(name, value_of(value)?);
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

fn leave_out(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in LEFT_OUT.iter().chain(&nominated) {
        headers.remove(name);
    }
}

/// Any bytes as text, one character each, so that JSON holds them unharmed.
fn one_a_byte(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

fn value_of(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    // A character that no byte stands for makes it no value, as a line break does.
    let bytes: Vec<u8> = text
        .chars()
        .map(|c| u8::try_from(c).unwrap_or(b'\n'))
        .collect();
    HeaderValue::from_bytes(&bytes)
}
