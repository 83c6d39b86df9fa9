//! Judges the raw bytes of a request's head before any HTTP library sees them.
//!
//! RFC 9112 lets a server repair a good deal: bare line feeds, folded lines, both kinds of length at
//! once. Two servers that repair differently can be made to see different requests, so here nothing is
//! repaired. What this lets through has exactly one reading, and the parsers behind it agree on it.

use memchr::memchr;

use crate::{denial::Reason, request_head::split_host};

/// How a request's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// No body.
    #[default]
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What a well-formed head says about itself.
#[derive(Debug, PartialEq, Eq)]
pub struct HeadFacts {
    /// How the body is framed.
    pub framing: Framing,
    /// For a target in absolute form, the range to take out so that it stands in origin form.
    pub authority: Option<std::ops::Range<usize>>,
    /// Whether a `/` has to be put in its place, as in `GET http://host HTTP/1.1`.
    pub bare_authority: bool,
}

/// Looks for the end of a head in bytes that are still coming in.
#[derive(Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
    line_start: usize,
}

impl HeadScanner {
    /// The length of the head, once its empty line is there. Refuses bare line feeds on the way, so that
    /// a head that will never end is not waited for.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Reason> {
        if self.scanned == 0 && bytes.first().is_some_and(|b| !is_token(*b)) {
            return Err(Reason::HeadMalformed);
        }
        while let Some(offset) = memchr(b'\n', &bytes[self.scanned..]) {
            let at = self.scanned + offset;
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(Reason::HeadMalformed);
            }
            self.scanned = at + 1;
            if at - 1 == self.line_start {
                return Ok(Some(at + 1));
            }
            self.line_start = at + 1;
        }
        self.scanned = bytes.len();
        Ok(None)
    }
}

/// Judges a complete head, empty line included.
pub fn judge(head: &[u8], max_headers: usize) -> Result<HeadFacts, Reason> {
    let mut lines = Lines(head);
    let request_line = lines.next().ok_or(Reason::HeadMalformed)?;
    let (method, target, version_1_0) = request_line_parts(request_line)?;
    if method == b"CONNECT" {
        return Err(Reason::MethodNotAllowed);
    }
    let mut length = None;
    let mut chunked = false;
    let mut host: Option<&[u8]> = None;
    let mut count = 0;
    for line in lines {
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > max_headers {
            return Err(Reason::HeadTooLarge);
        }
        let (name, value) = header_line(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.replace(content_length(value)?).is_some() {
                return Err(Reason::FramingAmbiguous);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || version_1_0 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Reason::FramingAmbiguous);
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") && host.replace(value).is_some() {
            return Err(Reason::SecurityHeaderDuplicated);
        }
    }
    let host = host
        .and_then(|h| std::str::from_utf8(h).ok())
        .ok_or(Reason::HostInvalid)?;
    let (_, port) = split_host(host).ok_or(Reason::HostInvalid)?;
    if port.is_some_and(|p| p.parse::<u16>().is_err()) {
        return Err(Reason::HostInvalid);
    }
    let framing = match (length, chunked) {
        (Some(_), true) => return Err(Reason::FramingAmbiguous),
        (None, true) => Framing::Chunked,
        (Some(0) | None, false) => Framing::None,
        (Some(n), false) => Framing::Length(n),
    };
    let (authority, bare_authority) = origin_form(target, host, method.len() + 1)?;
    Ok(HeadFacts {
        framing,
        authority,
        bare_authority,
    })
}

/// The lines of a head without their CRLF. Every line feed was seen to follow a carriage return.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr(b'\n', self.0)?;
        let line = &self.0[..end.saturating_sub(1)];
        self.0 = &self.0[end + 1..];
        Some(line)
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn request_line_parts(line: &[u8]) -> Result<(&[u8], &[u8], bool), Reason> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Reason::HeadMalformed);
    };
    if method.is_empty() || method.len() > 32 || !method.iter().all(|b| is_token(*b)) {
        return Err(Reason::HeadMalformed);
    }
    if target.is_empty()
        || !target.iter().all(u8::is_ascii_graphic)
        || target.iter().any(|b| b"#\\\"<>^`{|}".contains(b))
    {
        return Err(Reason::PathAmbiguous);
    }
    match version {
        b"HTTP/1.1" => Ok((method, target, false)),
        b"HTTP/1.0" => Ok((method, target, true)),
        _ => Err(Reason::HeadMalformed),
    }
}

fn header_line(line: &[u8]) -> Result<(&[u8], &[u8]), Reason> {
    let colon = memchr(b':', line).ok_or(Reason::HeadMalformed)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // A name with a space in it is a space before the colon; one that is empty or begins with white
    // space is a folded line.
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(Reason::HeadMalformed);
    }
    if value
        .iter()
        .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
    {
        return Err(Reason::HeadMalformed);
    }
    Ok((name, value.trim_ascii()))
}

/// Digits only, without a sign, a list or a leading zero. More than any program could count is too large.
fn content_length(value: &[u8]) -> Result<u64, Reason> {
    let fine = !value.is_empty()
        && value.iter().all(u8::is_ascii_digit)
        && (value.len() == 1 || value[0] != b'0');
    if !fine {
        return Err(Reason::FramingAmbiguous);
    }
    let digits = std::str::from_utf8(value).map_err(|_| Reason::FramingAmbiguous)?;
    match digits.parse::<i64>() {
        Ok(n) => u64::try_from(n).map_err(|_| Reason::FramingAmbiguous),
        Err(_) => Err(Reason::BodyTooLarge),
    }
}

/// A target in absolute form is taken when its authority is the `Host` (RFC 9112, section 3.2.2); the
/// range of scheme and authority is returned, counted from the beginning of the head.
fn origin_form(
    target: &[u8],
    host: &str,
    offset: usize,
) -> Result<(Option<std::ops::Range<usize>>, bool), Reason> {
    if target[0] == b'/' {
        return Ok((None, false));
    }
    let Some(scheme) = [b"http://".as_slice(), b"https://"].into_iter().find(|s| {
        target
            .get(..s.len())
            .is_some_and(|t| t.eq_ignore_ascii_case(s))
    }) else {
        return Err(Reason::PathAmbiguous);
    };
    let rest = &target[scheme.len()..];
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    if !rest[..end].eq_ignore_ascii_case(host.as_bytes()) {
        return Err(Reason::HostInvalid);
    }
    let end_of_authority = scheme.len() + end;
    Ok((
        Some(offset..offset + end_of_authority),
        rest.get(end) != Some(&b'/'),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(head: &str) -> Result<HeadFacts, Reason> {
        let mut scanner = HeadScanner::default();
        match scanner.end(head.as_bytes())? {
            Some(end) => judge(&head.as_bytes()[..end], 100),
            None => Err(Reason::HeadTimeout),
        }
    }

    #[test]
    fn well_formed_heads_pass() {
        for (head, framing) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
            (
                "POST /x?y=[z] HTTP/1.1\r\nhost:a:80\r\nContent-Length: 12\r\n\r\n",
                Framing::Length(12),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
                Framing::None,
            ),
            (
                "POST / HTTP/1.1\r\nHost: [::1]:9\r\nTransfer-Encoding: Chunked\r\nX: \u{e4}\r\n\r\n",
                Framing::Chunked,
            ),
            ("GET / HTTP/1.0\r\nHost: a\r\nX:\r\n\r\n", Framing::None),
        ] {
            assert_eq!(judged(head).map(|f| f.framing), Ok(framing), "{head:?}");
        }
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        use Reason::{
            FramingAmbiguous as Frame, HeadMalformed as Head, HostInvalid as Host,
            PathAmbiguous as Path,
        };
        for (head, reason) in [
            ("GET / HTTP/1.1\nHost: a\n\n", Head),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", Head),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Head),
            (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Head),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Head),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Head),
            ("GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", Head),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Head),
            ("GET /\r\nHost: a\r\n\r\n", Head),
            ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Path),
            ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", Path),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Path),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Path),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\nHost: a\r\n\tfolded: x\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\n\r\n", Host),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Host),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Host),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Host),
            ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", Host),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
                Reason::SecurityHeaderDuplicated,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 01\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
                Reason::BodyTooLarge,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
                Frame,
            ),
            (
                "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                Frame,
            ),
            (
                "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
                Reason::MethodNotAllowed,
            ),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Host),
            ("GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", Host),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Path),
        ] {
            assert_eq!(judged(head), Err(reason), "{head:?}");
        }
    }

    #[test]
    fn absolute_form_of_the_same_host_becomes_origin_form() {
        let facts = judged("GET http://a:80/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n");
        assert_eq!(
            facts,
            Ok(HeadFacts {
                framing: Framing::None,
                authority: Some(4..15),
                bare_authority: false
            })
        );
        let facts = judged("GET http://a HTTP/1.1\r\nHost: A\r\n\r\n");
        assert_eq!(
            facts,
            Ok(HeadFacts {
                framing: Framing::None,
                authority: Some(4..12),
                bare_authority: true
            })
        );
    }

    #[test]
    fn a_head_may_come_in_pieces() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 1..head.len() {
            let mut scanner = HeadScanner::default();
            assert_eq!(scanner.end(&head[..cut]), Ok(None), "{cut}");
            assert_eq!(scanner.end(head), Ok(Some(head.len())), "{cut}");
        }
    }

    #[test]
    fn too_many_lines_are_too_large() {
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(100)
        );
        assert_eq!(judged(&head), Err(Reason::HeadTooLarge));
    }
}
