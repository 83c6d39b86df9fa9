//! A rehearsed request as the bytes a client would send, judged by the code that reads them from a connection.

use bytes::Bytes;
use pingora_http::RequestHeader;

use super::Request;
use crate::{
    connection::framing::{self, Framing, HeadScanner},
    denial::Reason,
    policy::Limits,
};

/// The head's lines, by the code that reads them from a connection.
pub(super) fn judge(
    limits: &Limits,
    request: &Request,
) -> Result<(RequestHeader, Framing), Reason> {
    let raw = head(request);
    let end = HeadScanner::default()
        .end(&raw)?
        .ok_or(Reason::HeadMalformed)?;
    if end > limits.head_bytes {
        return Err(Reason::HeadTooLarge);
    }
    let facts = framing::judge(&raw[..end], limits.header_count)?;
    let mut header = parse(request).ok_or(Reason::HeadMalformed)?;
    // As the gate puts a target in absolute form.
    if let Some(range) = facts.authority {
        let begin = range.start - (request.method.len() + 1);
        let cut = |at: usize| request.path.get(at..).unwrap_or_default();
        let path = cut(begin + range.len());
        let origin = if facts.bare_authority {
            format!("/{path}")
        } else {
            path.to_owned()
        };
        header
            .set_raw_path(origin.as_bytes())
            .map_err(|_| Reason::HeadMalformed)?;
    }
    Ok((header, facts.framing))
}

/// The body, as it is read: of what is longer than announced the rest is another request, what is shorter never ends. A
/// chunked one has to be within `cap`.
pub(super) fn body(
    framing: Framing,
    body: &Bytes,
    cap: impl FnOnce(usize) -> Result<(), Reason>,
) -> Result<Bytes, Reason> {
    match framing {
        Framing::None => Ok(Bytes::new()),
        Framing::Length(length) => match usize::try_from(length) {
            Ok(length) if length <= body.len() => Ok(body.slice(..length)),
            Ok(_) | Err(_) => Err(Reason::BodyTimeout),
        },
        Framing::Chunked => cap(body.len()).map(|()| body.clone()),
    }
}

/// All header fields, with those a client would add by itself, and without the white space around values, which is no part of
/// them (RFC 9110, section 5.5).
fn fields(request: &Request) -> Vec<(&str, String)> {
    let given = |name: &str| {
        request
            .headers
            .iter()
            .any(|(n, _)| n.eq_ignore_ascii_case(name))
    };
    let mut all = Vec::new();
    if !given("host") {
        all.push(("Host", "localhost".to_owned()));
    }
    let trimmed = |value: &str| value.trim_matches([' ', '\t']).to_owned();
    let came = request.headers.iter();
    all.extend(came.map(|(name, value)| (name.as_str(), trimmed(value))));
    if !request.body.is_empty() && !given("content-length") && !given("transfer-encoding") {
        all.push(("Content-Length", request.body.len().to_string()));
    }
    all
}

fn head(request: &Request) -> Vec<u8> {
    let lines = fields(request)
        .into_iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    format!(
        "{} {} HTTP/1.1\r\n{}\r\n",
        request.method,
        request.path,
        lines.collect::<String>()
    )
    .into_bytes()
}

/// The head as the checks see it; `None` where it is none.
pub(crate) fn parse(request: &Request) -> Option<RequestHeader> {
    let mut header =
        RequestHeader::build(request.method.as_str(), request.path.as_bytes(), None).ok()?;
    for (name, value) in fields(request) {
        header.append_header(name.to_owned(), value).ok()?;
    }
    Some(header)
}
