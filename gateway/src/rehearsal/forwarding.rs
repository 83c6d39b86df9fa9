//! What an upstream would get: made by the code that makes it for live requests, then compared with what came.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use orket_shared::header as stamp;
use pingora_http::RequestHeader;
use serde::{Deserialize, Serialize};

use crate::{
    connection::Scheme,
    pipeline::{Admitted, Body},
    policy::{Policy, Upstream},
    request_head::RequestHead,
    upstream::{self, Facts},
};

/// How a request would be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// The upstream's name.
    pub upstream: String,
    /// The route's id.
    pub route: Arc<str>,
    /// Who it would come from.
    pub actor: String,
    /// The event and the idempotency key of a delivery.
    pub delivery: Option<(Option<String>, String)>,
    /// What would be sent.
    pub sent: Sent,
}

/// What would be sent, against what came. Names what came and is gone; shows no value that came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The path; a query follows as it came.
    pub path: String,
    /// Headers that came and are not passed on.
    pub removed: Vec<String>,
    /// Headers that are set, with their values; of secrets only where they come from.
    pub set: Vec<(String, String)>,
    /// What body is sent.
    pub body: String,
}

impl Forwarding {
    /// What becomes of an admitted request. `None` where a stamp cannot be a header, which is answered 500.
    pub(super) fn of(
        policy: &Policy,
        admitted: &Admitted,
        scheme: Scheme,
        came: &RequestHeader,
        head: &RequestHead<'_>,
    ) -> Option<Self> {
        let route = admitted.route();
        let upstream = policy.upstreams.get(route.upstream)?;
        Some(Self {
            upstream: upstream.id.clone(),
            route: route.id.clone(),
            actor: admitted.actor().to_string(),
            delivery: admitted
                .delivery()
                .map(|d| (d.event.clone(), d.key.clone())),
            sent: sent(admitted, upstream, scheme, came, head)?,
        })
    }
}

fn sent(
    admitted: &Admitted,
    upstream: &Upstream,
    scheme: Scheme,
    came: &RequestHeader,
    head: &RequestHead<'_>,
) -> Option<Sent> {
    let mut request = came.clone();
    without_connection(&mut request);
    let facts = Facts {
        request_id: super::REQUEST_ID,
        client: head.client,
        host: head.host,
        scheme,
        path: head.path,
        query: head.query,
    };
    upstream::prepare(&mut request, admitted, upstream, &facts, None).ok()?;
    let target = String::from_utf8_lossy(request.raw_path()).into_owned();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let kind = request
        .headers
        .get(header::CONTENT_TYPE)
        .map_or("of no type".into(), |v| {
            String::from_utf8_lossy(v.as_bytes())
        });
    Some(Sent {
        path,
        removed: names(&came.headers)
            .into_iter()
            .filter(|name| !request.headers.contains_key(name))
            .collect(),
        set: names(&request.headers)
            .into_iter()
            .filter(|name| changed(&came.headers, &request.headers, name))
            .map(|name| {
                let value = shown(&request.headers, upstream, &name);
                (name, value)
            })
            .collect(),
        body: match admitted.body() {
            Body::Proven(body) => format!("{} proven bytes, {kind}", body.bytes().len()),
            Body::Stream { limit } => format!("as it comes, at most {limit} bytes"),
        },
    })
}

/// What pingora takes off before our own headers go on: the connection's own fields and what they name
/// (RFC 9110, section 7.6.1).
fn without_connection(request: &mut RequestHeader) {
    let named: Vec<String> = request
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in
        named
            .iter()
            .map(String::as_str)
            .chain(["connection", "upgrade", "te", "http2-settings"])
    {
        request.remove_header(name);
    }
}

/// The names of all headers, in order and once each.
fn names(headers: &HeaderMap) -> Vec<String> {
    let mut names: Vec<String> = headers
        .keys()
        .map(|name| name.as_str().to_owned())
        .collect();
    names.sort();
    names
}

fn changed(before: &HeaderMap, after: &HeaderMap, name: &str) -> bool {
    before.get_all(name).iter().ne(after.get_all(name).iter())
        || after.get(name).is_some_and(HeaderValue::is_sensitive)
        // Taken off and stamped anew, whatever came.
        || name.starts_with("x-forwarded-")
}

fn shown(headers: &HeaderMap, upstream: &Upstream, name: &str) -> String {
    if let Some(set) = upstream
        .set_headers
        .iter()
        .find(|s| s.name.as_str() == name)
    {
        return format!("[from secret {}]", set.secret);
    }
    if name == stamp::REQUEST_ID {
        return "[new for each request]".to_owned();
    }
    let value = headers.get(name).map(HeaderValue::as_bytes);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}
