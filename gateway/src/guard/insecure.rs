//! The insecure bypass, closed against browsers.
//!
//! Without a key, anything that can reach the listener could act; a web page in the developer's own
//! browser can. So the bypass wants what a page cannot forge: a loopback listener, a loopback `Host`
//! (a page that rebinds its name to 127.0.0.1 still sends its own name), no `Origin`, no cross-site
//! `Sec-Fetch-Site`, no foreign `Referer`, no trace of a proxy, and for writes a content type that a page may not send without a preflight
//! (Fetch standard, "CORS-safelisted request-header").

use http::{Method, header};

use super::Actor;
use crate::{
    denial::Reason,
    request_head::{RequestHead, split_host},
};

/// Nobody in particular, or the reason why this could be a browser.
pub fn prove(head: &RequestHead<'_>) -> Result<Actor, Reason> {
    let from_browser = !head.loopback
        || !head.client.is_loopback()
        || !is_loopback_name(head.host)
        || head.headers.contains_key(header::ORIGIN)
        || head
            .headers
            .get_all("sec-fetch-site")
            .iter()
            .any(|v| !matches!(v.as_bytes(), b"none" | b"same-origin"))
        || came_through_a_proxy(head)
        || came_from_a_page(head)
        || (is_write(head.method) && !is_json(head));
    if from_browser {
        Err(Reason::NotFromBrowser)
    } else {
        Ok(Actor::Anonymous)
    }
}

/// A proxy in front makes every client local, and the browser's own traces may be lost on the way.
fn came_through_a_proxy(head: &RequestHead<'_>) -> bool {
    head.headers.keys().any(|name| {
        let name = name.as_str();
        name.starts_with("x-forwarded") || matches!(name, "forwarded" | "via" | "x-real-ip")
    })
}

/// Browsers too old for `Sec-Fetch-Site` still send where they come from.
fn came_from_a_page(head: &RequestHead<'_>) -> bool {
    head.headers.get_all(header::REFERER).iter().any(|value| {
        let url = value
            .to_str()
            .ok()
            .and_then(|text| url::Url::parse(text).ok());
        !url.is_some_and(|u| u.host_str().is_some_and(is_loopback_name))
    })
}

fn is_write(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn is_json(head: &RequestHead<'_>) -> bool {
    let mut all = head.headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return false;
    };
    let essence = value
        .as_bytes()
        .split(|b| *b == b';')
        .next()
        .unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
}

/// `localhost` or a loopback address.
pub fn is_loopback_name(host: &str) -> bool {
    split_host(host).is_some_and(|(name, _)| {
        let name = name.to_ascii_lowercase();
        name == "localhost"
            || name
                .parse::<std::net::IpAddr>()
                .is_ok_and(|a| a.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::is_loopback_name;

    #[test]
    fn a_rebound_name_is_not_loopback() {
        for good in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8080",
        ] {
            assert!(is_loopback_name(good), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
        ] {
            assert!(!is_loopback_name(bad), "{bad}");
        }
    }
}
