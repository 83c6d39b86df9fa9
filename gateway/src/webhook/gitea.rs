//! Gitea, and its relatives Gogs and Forgejo.
//!
//! The signature is the bare lower-case hex of HMAC-SHA256 over the payload, in `X-Gitea-Signature`
//! (`X-Gogs-Signature`, `X-Forgejo-Signature`); the header is there but empty when the hook has no secret.
//! With content type *form* the payload is the JSON text in the field `payload`, and that text is what is
//! signed (Gitea's documentation of webhooks, and `services/webhook/deliver.go`).

use bytes::Bytes;
use http::header::CONTENT_TYPE;

use super::{
    Header, Payload, Provider,
    Role::{Event, Id, Signature},
    claim::{self, Claim},
    form,
};
use crate::{denial::Reason, request_head::RequestHead};

/// A forge of Gitea's family; its header names are all that differs.
#[derive(Debug)]
pub struct GiteaFamily {
    name: &'static str,
    signature: &'static str,
    headers: [Header; 4],
}

/// Gitea.
pub static GITEA: GiteaFamily = GiteaFamily {
    name: "gitea",
    signature: "x-gitea-signature",
    headers: [
        Header::new("x-gitea-signature", Signature),
        Header::new("x-gitea-event-type", Event),
        Header::new("x-gitea-event", Event),
        Header::new("x-gitea-delivery", Id),
    ],
};

/// Forgejo, by its own headers.
pub static FORGEJO: GiteaFamily = GiteaFamily {
    name: "forgejo",
    signature: "x-forgejo-signature",
    headers: [
        Header::new("x-forgejo-signature", Signature),
        Header::new("x-forgejo-event-type", Event),
        Header::new("x-forgejo-event", Event),
        Header::new("x-forgejo-delivery", Id),
    ],
};

/// Gogs.
pub static GOGS: GiteaFamily = GiteaFamily {
    name: "gogs",
    signature: "x-gogs-signature",
    headers: [
        Header::new("x-gogs-signature", Signature),
        Header::new("x-gogs-event-type", Event),
        Header::new("x-gogs-event", Event),
        Header::new("x-gogs-delivery", Id),
    ],
};

impl Provider for GiteaFamily {
    fn name(&self) -> &'static str {
        self.name
    }

    fn headers(&self) -> &[Header] {
        &self.headers
    }

    fn form(&self) -> &'static str {
        "bare lower-case hex, 64 digits"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        claim::tag(head, self.signature, b"", form::lower_hex).map(Claim::from)
    }

    fn payload(&self, head: &RequestHead<'_>, body: Bytes) -> Result<Payload, Reason> {
        if is_form(head) {
            form_payload(&body).map(Payload::Json)
        } else {
            Ok(Payload::AsReceived(body))
        }
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        hex::encode(tag)
    }
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
