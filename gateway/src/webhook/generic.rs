//! The sender a policy describes itself: HMAC in a header, over a text put together from the body and what the policy
//! names.
//!
//! A description that leaves in doubt what was signed does not come to be: see [`Template`]. There is no SHA-1.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Header, Provider, Role,
    claim::{self, Claim, Proof, SignedTime},
    form,
    key::{Key, KeyFault},
};
use crate::{denial::Reason, request_head::RequestHead, secret::Secret};

/// Its name in a policy.
pub const NAME: &str = "generic";

/// See the [module](self). Made by [`Description::sender`].
#[derive(Debug)]
pub struct Generic {
    headers: Vec<Header>,
    algorithm: Algorithm,
    encoding: Encoding,
    prefix: String,
    form: String,
    template: Template,
    tolerance: Duration,
}

/// The hash under the HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA256.
    Sha256,
    /// HMAC-SHA512.
    Sha512,
}

/// How the signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Lower-case hex.
    Hex,
    /// Base64 in the standard alphabet, padded.
    Base64,
}

/// A sender as the policy describes it. Header names are in lower case.
#[derive(Debug)]
pub struct Description {
    /// The header of the signature.
    pub signature: String,
    /// What is under the HMAC.
    pub algorithm: Algorithm,
    /// How the signature is written.
    pub encoding: Encoding,
    /// What stands before the signature in its header.
    pub prefix: String,
    /// What is signed.
    pub template: Template,
    /// The header of the time; there exactly if the template has `{timestamp}`.
    pub time: Option<String>,
    /// How far the time may be off.
    pub tolerance: Duration,
    /// The header of the message's id; signed if the template has `{id}`.
    pub id: Option<String>,
    /// The header of the event.
    pub event: Option<String>,
}

impl Description {
    /// The sender.
    pub fn sender(self) -> Generic {
        let id_role = if self.template.has(&Piece::Id) {
            Role::SignedId
        } else {
            Role::Id
        };
        let length = match (self.algorithm, self.encoding) {
            (Algorithm::Sha256, Encoding::Hex) => "64 lower-case hex digits",
            (Algorithm::Sha512, Encoding::Hex) => "128 lower-case hex digits",
            (Algorithm::Sha256, Encoding::Base64) => "44 characters of base64",
            (Algorithm::Sha512, Encoding::Base64) => "88 characters of base64",
        };
        let form = if self.prefix.is_empty() {
            length.to_owned()
        } else {
            format!("`{}` and {length}", self.prefix)
        };
        let headers = [
            (Some(self.signature), Role::Signature),
            (self.time, Role::Time),
            (self.id, id_role),
            (self.event, Role::Event),
        ];
        Generic {
            headers: headers
                .into_iter()
                .filter_map(|(name, role)| {
                    name.map(|name| Header {
                        name: name.into(),
                        role,
                    })
                })
                .collect(),
            algorithm: self.algorithm,
            encoding: self.encoding,
            prefix: self.prefix,
            form,
            template: self.template,
            tolerance: self.tolerance,
        }
    }
}

impl Generic {
    fn header(&self, role: Role) -> Option<&str> {
        self.headers
            .iter()
            .find(|h| h.role == role)
            .map(|h| h.name.as_ref())
    }

    fn decoded<const N: usize>(&self, text: &[u8]) -> Result<[u8; N], Reason> {
        let text = text
            .strip_prefix(self.prefix.as_bytes())
            .ok_or(Reason::SignatureMalformed)?;
        match self.encoding {
            Encoding::Hex => form::lower_hex(text),
            Encoding::Base64 => form::base64(text),
        }
        .ok_or(Reason::SignatureMalformed)
    }
}

impl Provider for Generic {
    fn name(&self) -> &'static str {
        NAME
    }

    fn headers(&self) -> &[Header] {
        &self.headers
    }

    fn form(&self) -> &str {
        &self.form
    }

    fn key(&self, secret: &Secret) -> Result<Key, KeyFault> {
        Ok(match self.algorithm {
            Algorithm::Sha256 => Key::Sha256(secret.clone()),
            Algorithm::Sha512 => Key::Sha512(secret.clone()),
        })
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        let name = self.header(Role::Signature).ok_or(Reason::Internal)?;
        let text = claim::signature(head, name)?;
        let proof = match self.algorithm {
            Algorithm::Sha256 => Proof::sha256(self.decoded(text)?),
            Algorithm::Sha512 => Proof::Sha512(vec![self.decoded(text)?]),
        };
        let time = self
            .header(Role::Time)
            .map(|name| SignedTime::in_header(head, name))
            .transpose()?;
        let id = self
            .header(Role::SignedId)
            .map(|name| claim::message_id(head, name, is_of_an_id))
            .transpose()?;
        Ok(Claim { proof, time, id })
    }

    fn signed<'a>(&'a self, claim: &'a Claim, payload: &'a [u8]) -> Vec<&'a [u8]> {
        self.template
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_bytes(),
                Piece::Body => payload,
                Piece::Time => claim.time.as_ref().map_or("", SignedTime::text).as_bytes(),
                Piece::Id => claim.id.as_deref().unwrap_or_default().as_bytes(),
            })
            .collect()
    }

    fn tolerance(&self) -> Duration {
        self.tolerance
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        let text = match self.encoding {
            Encoding::Hex => hex::encode(tag),
            Encoding::Base64 => STANDARD.encode(tag),
        };
        format!("{}{text}", self.prefix)
    }
}

/// What a signed id is made of.
fn is_of_an_id(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')
}

/// What is signed: text, and the places of the body, the time and the id.
///
/// Two deliveries that differ never have the same signed text. The body is there exactly once, time and id at most once.
/// An id has letters, digits, `-` and `_` only and is told apart from what is beside it by a text with any other
/// character in it; a time is canonical and near, so that no digit can move into it or out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// A piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Text(String),
    /// `{body}`
    Body,
    /// `{timestamp}`
    Time,
    /// `{id}`
    Id,
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// `{` or `}` that is none of the three.
    #[error("braces stand around `body`, `timestamp` and `id` only")]
    Braces,
    /// No `{body}`: the signature would not cover what is forwarded.
    #[error("`{{body}}` has to be in it: what is not signed proves nothing")]
    NoBody,
    /// One of them twice.
    #[error("`{{{0}}}` stands there twice")]
    Twice(&'static str),
    /// The id's end would be in doubt.
    #[error(
        "between `{{id}}` and what is beside it a character is needed that is no letter, digit, `-` or `_`"
    )]
    IdInDoubt,
}

impl Template {
    /// Reads `v1:{timestamp}:{body}` and the like.
    pub fn read(text: &str) -> Result<Self, TemplateFault> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            let (name, after) = from
                .strip_prefix('{')
                .and_then(|inner| inner.split_once('}'))
                .ok_or(TemplateFault::Braces)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(match name {
                "body" => Piece::Body,
                "timestamp" => Piece::Time,
                "id" => Piece::Id,
                _ => return Err(TemplateFault::Braces),
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Self(pieces).unambiguous()
    }

    fn unambiguous(self) -> Result<Self, TemplateFault> {
        let count = |piece: &Piece| self.0.iter().filter(|p| *p == piece).count();
        if count(&Piece::Body) == 0 {
            return Err(TemplateFault::NoBody);
        }
        for (piece, name) in [
            (Piece::Body, "body"),
            (Piece::Time, "timestamp"),
            (Piece::Id, "id"),
        ] {
            if count(&piece) > 1 {
                return Err(TemplateFault::Twice(name));
            }
        }
        if let Some(at) = self.0.iter().position(|p| *p == Piece::Id) {
            let before = at.checked_sub(1).and_then(|at| self.0.get(at));
            for beside in [before, self.0.get(at + 1)].into_iter().flatten() {
                let tells_apart = match beside {
                    Piece::Text(text) => text.bytes().any(|b| !is_of_an_id(b)),
                    Piece::Body | Piece::Time | Piece::Id => false,
                };
                if !tells_apart {
                    return Err(TemplateFault::IdInDoubt);
                }
            }
        }
        Ok(self)
    }

    /// Whether it has this piece.
    pub fn has(&self, piece: &Piece) -> bool {
        self.0.contains(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_leaves_in_doubt_what_was_signed_is_no_template() {
        for good in [
            "{body}",
            "{timestamp}.{body}",
            "{timestamp}{body}",
            "v0:{timestamp}:{body}",
            "{id}.{timestamp}.{body}",
            "{body}.{id}",
            "id={id}&{body}",
        ] {
            assert!(Template::read(good).is_ok(), "{good}");
        }
        for (bad, fault) in [
            ("", TemplateFault::NoBody),
            ("{timestamp}", TemplateFault::NoBody),
            ("body", TemplateFault::NoBody),
            ("{body}{body}", TemplateFault::Twice("body")),
            (
                "{timestamp}.{body}.{timestamp}",
                TemplateFault::Twice("timestamp"),
            ),
            ("{id}.{id}.{body}", TemplateFault::Twice("id")),
            ("{id}{body}", TemplateFault::IdInDoubt),
            ("{body}{id}", TemplateFault::IdInDoubt),
            ("{timestamp}{id}.{body}", TemplateFault::IdInDoubt),
            ("{id}-v1-{body}", TemplateFault::IdInDoubt),
            ("{Body}", TemplateFault::Braces),
            ("{body", TemplateFault::Braces),
            ("body}", TemplateFault::Braces),
            ("{{body}}", TemplateFault::Braces),
            ("{url}{body}", TemplateFault::Braces),
        ] {
            assert_eq!(Template::read(bad), Err(fault), "{bad}");
        }
    }

    fn generic(template: &str) -> Option<Generic> {
        let template = Template::read(template).ok()?;
        let header = |name: &str, piece| template.has(&piece).then(|| name.to_owned());
        Some(
            Description {
                signature: "x-signature".to_owned(),
                algorithm: Algorithm::Sha256,
                encoding: Encoding::Hex,
                prefix: String::new(),
                time: header("x-time", Piece::Time),
                tolerance: super::super::TOLERANCE,
                id: header("x-id", Piece::Id),
                event: None,
                template,
            }
            .sender(),
        )
    }

    proptest! {
        /// Times of one length stand for those that are near.
        #[test]
        fn deliveries_that_differ_have_signed_texts_that_differ(
            a in ("[a.]{1,3}", "[0-9a-b.]{0,4}", 1000_u32..1100),
            b in ("[a.]{1,3}", "[0-9a-b.]{0,4}", 1000_u32..1100),
        ) {
            for template in [
                "{id}.{timestamp}.{body}", "{timestamp}.{body}", "{timestamp}{body}", "{body}.{id}", "{id}.a{body}",
                "{body}{timestamp}", "{body}a.{id}.{timestamp}",
            ] {
                let Some(sender) = generic(template) else { continue };
                let text = |(id, body, time): &(String, String, u32)| {
                    let valid = id.bytes().all(is_of_an_id);
                    let claim = Claim {
                        time: SignedTime::of_seconds(time.to_string().as_bytes()).ok(),
                        id: Some(id.clone()),
                        ..Proof::sha256([0; 32]).into()
                    };
                    let has = |piece| sender.template.has(&piece);
                    let told = (
                        has(Piece::Id).then(|| id.clone()),
                        has(Piece::Time).then_some(*time),
                        body.clone(),
                    );
                    valid.then(|| (sender.signed(&claim, body.as_bytes()).concat(), told))
                };
                if let (Some((a, told_a)), Some((b, told_b))) = (text(&a), text(&b)) {
                    prop_assert_eq!(a == b, told_a == told_b, "{}", template);
                }
            }
        }
    }
}
