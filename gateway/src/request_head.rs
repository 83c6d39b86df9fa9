//! A strict view of a request's head, or the reason why there is none.
//!
//! What could be read in two ways is refused, never repaired: the path that is judged is the path that
//! is sent, byte for byte. The framing and the lines themselves were judged before, on the raw bytes
//! (see [`crate::connection::framing`]); this is what the checks are allowed to see.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use pingora_http::RequestHeader;

use crate::{connection::framing::Framing, denial::Reason, upstream};

/// The header that carries an API key.
pub const API_KEY: &str = "x-api-key";
/// The header that carries the test webhook's token.
pub const TEST_TOKEN: &str = "x-webhook-test-token";

/// What the checks see of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path: canonical, so that no reader further inside sees another.
    pub path: &'a str,
    /// What follows `?`, as it is.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The `Host`, valid.
    pub host: &'a str,
    /// The client's address, as judged through trusted proxies.
    pub client: IpAddr,
    /// Whether the listener is on loopback.
    pub loopback: bool,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the client asks for a WebSocket.
    pub websocket: bool,
}

/// How a request came: what its head does not say.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The client's address, as judged through trusted proxies.
    pub client: IpAddr,
    /// Whether the listener is on loopback.
    pub loopback: bool,
    /// How the body is framed.
    pub framing: Framing,
}

impl<'a> RequestHead<'a> {
    /// Judges a head.
    pub fn judge(request: &'a RequestHeader, arrival: Arrival) -> Result<Self, Reason> {
        let Arrival {
            client,
            loopback,
            framing,
        } = arrival;
        let (method, headers) = (&request.method, &request.headers);
        let target = std::str::from_utf8(request.raw_path()).map_err(|_| Reason::PathAmbiguous)?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        check_path(path)?;
        if query.is_some_and(|q| q.bytes().any(|b| !b.is_ascii_graphic() || b == b'#')) {
            return Err(Reason::PathAmbiguous);
        }
        let host = check_host(headers)?;
        for name in [API_KEY, TEST_TOKEN] {
            at_most_one(headers, name)?;
        }
        let websocket = check_connection(headers, method)?;
        if headers
            .get_all(header::EXPECT)
            .iter()
            .any(|v| !v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            return Err(Reason::ExpectationUnknown);
        }
        Ok(Self {
            method,
            path,
            query,
            headers,
            host,
            client,
            loopback,
            framing,
            websocket,
        })
    }

    /// The bytes of a header; `None` when absent.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    /// A header's text when it is short and printable; for names and ids, never for proofs.
    pub fn label(&self, name: &str) -> Option<&'a str> {
        let text = self.headers.get(name)?.to_str().ok()?;
        (!text.is_empty() && text.len() <= 200).then_some(text)
    }

    /// Refuses a header that `Connection` nominates, so that it would be lost on the way.
    pub fn not_nominated(&self, name: &str) -> Result<(), Reason> {
        let nominated = self
            .headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_bytes()));
        if nominated {
            Err(Reason::HopByHopProtected)
        } else {
            Ok(())
        }
    }

    /// Refuses a header that stands there more than once.
    pub fn at_most_one(&self, name: &str) -> Result<(), Reason> {
        at_most_one(self.headers, name)
    }
}

fn at_most_one(headers: &HeaderMap, name: &str) -> Result<(), Reason> {
    if headers.get_all(name).iter().nth(1).is_some() {
        Err(Reason::SecurityHeaderDuplicated)
    } else {
        Ok(())
    }
}

/// Only the normal form of a path (RFC 3986, section 6.2.2) is taken, and nothing that some server
/// further inside is known to read differently: empty and dot segments, encoded separators, double
/// encoding, backslashes, matrix parameters, control characters, bytes that are not UTF-8.
fn check_path(path: &str) -> Result<(), Reason> {
    const BAD: Reason = Reason::PathAmbiguous;
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(BAD);
    }
    let mut decoded = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        match b {
            b'%' => {
                let hex = bytes.get(i + 1..i + 3).ok_or(BAD)?;
                let value = hex_value(hex[0])
                    .zip(hex_value(hex[1]))
                    .map(|(h, l)| h << 4 | l)
                    .ok_or(BAD)?;
                let has_plain_form =
                    value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~');
                if has_plain_form
                    || value < 0x20
                    || value == 0x7f
                    || matches!(value, b'/' | b'\\' | b'%' | b';' | b'#' | b'?')
                {
                    return Err(BAD);
                }
                if value >= 0x80 || !decoded.is_empty() {
                    decoded.push(value);
                }
                i += 3;
                if value >= 0x80 && bytes.get(i) != Some(&b'%') {
                    std::str::from_utf8(&decoded).map_err(|_| BAD)?;
                    decoded.clear();
                }
                continue;
            }
            b'/' if bytes.get(i + 1) == Some(&b'/') => return Err(BAD),
            b'/' => {
                let rest = &bytes[i + 1..];
                let segment = rest.split(|c| *c == b'/').next().unwrap_or_default();
                if segment == b"." || segment == b".." {
                    return Err(BAD);
                }
            }
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'!'
            | b'$'
            | b'&'
            | b'\''
            | b'('
            | b')'
            | b'*'
            | b'+'
            | b','
            | b'='
            | b':'
            | b'@' => {}
            _ => return Err(BAD),
        }
        i += 1;
    }
    std::str::from_utf8(&decoded).map(|_| ()).map_err(|_| BAD)
}

fn hex_value(b: u8) -> Option<u8> {
    char::from(b)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

fn check_host(headers: &HeaderMap) -> Result<&str, Reason> {
    const BAD: Reason = Reason::HostInvalid;
    let mut all = headers.get_all(header::HOST).iter();
    let host = all.next().ok_or(BAD)?.to_str().map_err(|_| BAD)?;
    if all.next().is_some() {
        return Err(Reason::SecurityHeaderDuplicated);
    }
    let (_, port) = split_host(host).ok_or(BAD)?;
    if port.is_some_and(|p| p.parse::<u16>().is_err()) {
        return Err(BAD);
    }
    Ok(host)
}

/// Splits `host[:port]`. `None` when the host is not a name, an IPv4 address or a bracketed IPv6 address.
pub fn split_host(host: &str) -> Option<(&str, Option<&str>)> {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let (six, after) = rest.split_once(']')?;
        six.parse::<std::net::Ipv6Addr>().ok()?;
        let port = match after {
            "" => None,
            _ => Some(after.strip_prefix(':')?),
        };
        (six, port)
    } else {
        let (name, port) = match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        };
        let fine = !name.is_empty()
            && name.len() <= 253
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        fine.then_some(())?;
        (name, port)
    };
    if port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    Some((name, port))
}

/// Reads `Connection` and `Upgrade`. A nomination of a header that the way must not lose is refused:
/// it would be removed after it was judged. Returns whether a WebSocket is asked for; any other
/// upgrade is refused.
fn check_connection(headers: &HeaderMap, method: &Method) -> Result<bool, Reason> {
    let mut nominates_upgrade = false;
    for value in headers.get_all(header::CONNECTION) {
        let text = value.to_str().map_err(|_| Reason::HopByHopProtected)?;
        for token in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            if token.eq_ignore_ascii_case("upgrade") {
                nominates_upgrade = true;
                continue;
            }
            if token.eq_ignore_ascii_case("close") || token.eq_ignore_ascii_case("keep-alive") {
                continue;
            }
            let name =
                HeaderName::from_bytes(token.as_bytes()).map_err(|_| Reason::HopByHopProtected)?;
            if upstream::is_protected(name.as_str()) {
                return Err(Reason::HopByHopProtected);
            }
        }
    }
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let Some(upgrade) = upgrades.next() else {
        return Ok(false);
    };
    let websocket = upgrades.next().is_none()
        && nominates_upgrade
        && method == Method::GET
        && upgrade.as_bytes().eq_ignore_ascii_case(b"websocket");
    if websocket {
        Ok(true)
    } else {
        Err(Reason::UpgradeRefused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_reading() {
        for good in [
            "/",
            "/v1/runs",
            "/v1/runs/",
            "/a/...",
            "/v1/a%20b",
            "/v1/%C3%A4",
            "/v1/%E2%82%AC/x",
            "/a:b@c",
        ] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "v1",
            "//v1",
            "/v1//x",
            "/v1/../x",
            "/v1/.",
            "/./v1",
            "/..",
            "/v1/%2e%2e/x",
            "/v1/%2E",
            "/v1%2fx",
            "/v1/%5c",
            "/v1\\x",
            "/v1/%00",
            "/v1/%0a",
            "/v1/%7f",
            "/v1/%25",
            "/v1/%252e",
            "/v1;a=b/x",
            "/v1/%3bx",
            "/v1/%c0%ae",
            "/v1/%80",
            "/v1/%E2%82",
            "/v1/%E2x",
            "/%761/x",
            "/v1/%",
            "/v1/%2",
            "/v1/%zz",
            "/v1#x",
            "/v1/a b",
            "/v1/%3F",
            "/v1/ä",
        ] {
            assert_eq!(check_path(bad), Err(Reason::PathAmbiguous), "{bad}");
        }
    }

    #[test]
    fn hosts_are_hosts() {
        for (host, name) in [
            ("a.example", "a.example"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:8080", "::1"),
            ("[::1]", "::1"),
        ] {
            assert_eq!(split_host(host).map(|h| h.0), Some(name));
        }
        for bad in [
            "", ":80", "a b", "a:b", "a:", "[::1", "[x]", "::1", "a@b", "a/b", "[::1]x",
        ] {
            assert_eq!(split_host(bad), None, "{bad}");
        }
    }
}
