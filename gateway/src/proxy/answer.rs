//! What the gateway itself answers: refusals in their one shape, and the few good answers of its own.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{self, InvalidHeaderValue},
    response::Parts,
};
use orket_shared::problem;
use pingora_core::{ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::{denial::Denial, limit::Standing, spool::courier::Answer};

/// Answers a refusal.
pub(super) async fn denial(session: &mut Session, denial: &Denial, request_id: &str) -> Result<()> {
    let body = serde_json::to_vec(&denial.problem(request_id)).unwrap_or_default();
    let mut response = ResponseHeader::build(denial.reason.facts().status, Some(10))?;
    response.insert_header(header::CONTENT_TYPE, problem::CONTENT_TYPE)?;
    if let Some(seconds) = denial.retry_after_seconds() {
        response.insert_header(header::RETRY_AFTER, seconds.to_string())?;
    }
    if let Some(allow) = &denial.allow {
        response.insert_header(header::ALLOW, allow.as_str())?;
    }
    stamp(&mut response, request_id, denial.standing.as_slice())?;
    send(session, response, body.into()).await
}

/// Answers 200 with this JSON.
pub(super) async fn ok(session: &mut Session, json: &'static str, request_id: &str) -> Result<()> {
    let mut response = ResponseHeader::build(200, Some(6))?;
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    stamp(&mut response, request_id, &[])?;
    send(session, response, Bytes::from_static(json.as_bytes())).await
}

/// Answers 202 with this JSON: it is kept.
pub(super) async fn accepted(
    session: &mut Session,
    json: String,
    request_id: &str,
    standings: &[Standing],
) -> Result<()> {
    let mut response = ResponseHeader::build(202, Some(8))?;
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    stamp(&mut response, request_id, standings)?;
    send(session, response, json.into()).await
}

/// Answers what an upstream answered.
pub(super) async fn relay(
    session: &mut Session,
    answer: Answer,
    request_id: &str,
    standings: &[Standing],
) -> Result<()> {
    let mut response = ResponseHeader::build(answer.status, Some(answer.headers.len() + 4))?;
    for (name, value) in &answer.headers {
        response.append_header(name.clone(), value.clone())?;
    }
    stamp(&mut response, request_id, standings)?;
    let bodiless = matches!(answer.status.as_u16(), 204 | 304);
    if !bodiless {
        response.insert_header(header::CONTENT_LENGTH, answer.body.len().to_string())?;
    }
    session
        .write_response_header(Box::new(response), bodiless)
        .await?;
    if bodiless {
        Ok(())
    } else {
        session.write_response_body(Some(answer.body), true).await
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static(orket_shared::header::REQUEST_ID);
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What every answer carries: the request's id, and how the budgets stand.
///
/// Names go on in the usual spelling, with the usual words for the status: those in which the answer came are not kept, for a
/// second map of names beside the headers would cost more than all that is done here.
pub(super) fn stamp(
    response: &mut ResponseHeader,
    request_id: &str,
    standings: &[Standing],
) -> Result<()> {
    let nothing = ResponseHeader::from(http::Response::new(()).into_parts().0);
    let mut parts = Parts::from(std::mem::replace(response, nothing));
    stamp_headers(&mut parts.headers, request_id, standings)
        .or_err(ErrorType::InvalidHTTPHeader, "what is stamped is no header")?;
    *response = parts.into();
    Ok(())
}

fn stamp_headers(
    headers: &mut HeaderMap,
    request_id: &str,
    standings: &[Standing],
) -> std::result::Result<(), InvalidHeaderValue> {
    headers.insert(REQUEST_ID, HeaderValue::from_str(request_id)?);
    if let [first, rest @ ..] = standings {
        let (mut policy, mut standing) = (first.policy_header(), first.header());
        for next in rest {
            policy = policy + ", " + &next.policy_header();
            standing = standing + ", " + &next.header();
        }
        headers.insert(RATE_LIMIT_POLICY, HeaderValue::try_from(policy)?);
        headers.insert(RATE_LIMIT, HeaderValue::try_from(standing)?);
    }
    Ok(())
}

/// A client of HTTP/1.0 knows no chunks: where the length is not known, the end of the connection is the end
/// of the answer (RFC 9112, sections 6.1 and 6.3).
pub(super) fn in_http_1_0(session: &mut Session, response: &mut ResponseHeader) {
    if response.remove_header(&header::TRANSFER_ENCODING).is_some() {
        session.set_keepalive(None);
    }
}

async fn send(session: &mut Session, mut response: ResponseHeader, body: Bytes) -> Result<()> {
    response.insert_header(header::CONTENT_LENGTH, body.len().to_string())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    response.insert_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")?;
    let bodiless = session.req_header().method == Method::HEAD;
    session
        .write_response_header(Box::new(response), bodiless)
        .await?;
    if bodiless {
        Ok(())
    } else {
        session.write_response_body(Some(body), true).await
    }
}
