//! Gitea, and its relatives Gogs and Forgejo.
//!
//! The signature is the bare lower-case hex of HMAC-SHA256 over the payload, in `X-Gitea-Signature`
//! (`X-Gogs-Signature`, `X-Forgejo-Signature`); the header is there but empty when the hook has no secret.
//! With content type *form* the payload is the JSON text in the field `payload`, and that text is what is
//! signed (Gitea's documentation of webhooks, and `services/webhook/deliver.go`).

use bytes::Bytes;
use http::header::CONTENT_TYPE;

use super::{Payload, Provider, Signature};
use crate::{denial::Reason, request_head::RequestHead};

/// A forge of Gitea's family; its header names are all that differs.
#[derive(Debug)]
pub struct GiteaFamily {
    name: &'static str,
    /// Signature, event type, event, delivery, in this order.
    headers: [&'static str; 4],
}

/// Gitea.
pub static GITEA: GiteaFamily = GiteaFamily {
    name: "gitea",
    headers: [
        "x-gitea-signature",
        "x-gitea-event-type",
        "x-gitea-event",
        "x-gitea-delivery",
    ],
};

/// Forgejo, by its own headers.
pub static FORGEJO: GiteaFamily = GiteaFamily {
    name: "forgejo",
    headers: [
        "x-forgejo-signature",
        "x-forgejo-event-type",
        "x-forgejo-event",
        "x-forgejo-delivery",
    ],
};

/// Gogs.
pub static GOGS: GiteaFamily = GiteaFamily {
    name: "gogs",
    headers: [
        "x-gogs-signature",
        "x-gogs-event-type",
        "x-gogs-event",
        "x-gogs-delivery",
    ],
};

impl Provider for GiteaFamily {
    fn name(&self) -> &'static str {
        self.name
    }

    fn security_headers(&self) -> &'static [&'static str] {
        match self.name {
            "gitea" => &GITEA.headers,
            "forgejo" => &FORGEJO.headers,
            _ => &GOGS.headers,
        }
    }

    fn signature(&self, head: &RequestHead<'_>) -> Result<Signature, Reason> {
        match head.header(self.headers[0]) {
            None | Some(b"") => Err(Reason::SignatureMissing),
            Some(text) => lower_hex(text)
                .map(Signature)
                .ok_or(Reason::SignatureMalformed),
        }
    }

    fn payload(&self, head: &RequestHead<'_>, body: Bytes) -> Result<Payload, Reason> {
        if is_form(head) {
            form_payload(&body).map(Payload::Json)
        } else {
            Ok(Payload::AsReceived(body))
        }
    }

    fn event<'a>(&self, head: &RequestHead<'a>) -> Option<&'a str> {
        head.label(self.headers[1])
            .or_else(|| head.label(self.headers[2]))
    }

    fn delivery<'a>(&self, head: &RequestHead<'a>) -> Option<&'a str> {
        head.label(self.headers[3])
    }
}

/// Exactly 64 lower-case hex digits.
fn lower_hex(text: &[u8]) -> Option<[u8; 32]> {
    if text.len() != 64 || text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).ok()?;
    Some(out)
}

fn is_form(head: &RequestHead<'_>) -> bool {
    head.header(CONTENT_TYPE.as_str()).is_some_and(|value| {
        let essence = value.split(|b| *b == b';').next().unwrap_or_default();
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    })
}

/// The text of the one field `payload`. A second one could be read by someone else.
fn form_payload(body: &[u8]) -> Result<Bytes, Reason> {
    let mut fields = url::form_urlencoded::parse(body).filter(|(name, _)| name == "payload");
    match (fields.next(), fields.next()) {
        (Some((_, text)), None) => Ok(Bytes::from(text.into_owned())),
        _ => Err(Reason::FormMalformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_lower_case_hex_of_the_right_length_is_a_signature() {
        let good = "ab".repeat(32);
        assert!(lower_hex(good.as_bytes()).is_some());
        for bad in [
            good.to_uppercase(),
            format!("sha256={good}"),
            good[..62].to_owned(),
            format!("{good}ab"),
            "zz".repeat(32),
        ] {
            assert!(lower_hex(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_form_has_one_payload() {
        assert_eq!(
            form_payload(b"payload=%7B%22a%22%3A1%7D"),
            Ok(Bytes::from_static(b"{\"a\":1}"))
        );
        assert_eq!(
            form_payload(b"payload=a&payload=b"),
            Err(Reason::FormMalformed)
        );
        assert_eq!(form_payload(b"other=a"), Err(Reason::FormMalformed));
    }
}
