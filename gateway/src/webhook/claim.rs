//! What the head of a delivery claims: well-formed, and proof of nothing yet.
//!
//! A claim owns what it needs, so that it outlives the reading of the body. Times and ids keep the text they were
//! written as, because that text is what was signed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::form;
use crate::{denial::Reason, request_head::RequestHead, secret::SecretDigest};

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Claim {
    /// What is to be proven.
    pub proof: Proof,
    /// The time that was signed.
    pub time: Option<SignedTime>,
    /// The message's id that was signed: the idempotency key.
    pub id: Option<String>,
}

impl From<Proof> for Claim {
    fn from(proof: Proof) -> Self {
        Self {
            proof,
            time: None,
            id: None,
        }
    }
}

/// Well-formed signatures of one kind, of which one has to fit.
#[derive(Debug, Clone)]
pub enum Proof {
    /// HMAC-SHA256.
    Sha256(Vec<[u8; 32]>),
    /// HMAC-SHA512.
    Sha512(Vec<[u8; 64]>),
    /// Ed25519 (RFC 8032).
    Ed25519(Box<[u8; 64]>),
    /// The digest of a token that was presented.
    Token(SecretDigest),
}

impl Proof {
    /// One HMAC-SHA256.
    pub fn sha256(tag: [u8; 32]) -> Self {
        Self::Sha256(vec![tag])
    }
}

/// The value of a sender's signature header. An empty one is as good as none: so a forge without a secret sends it.
pub fn signature<'a>(head: &RequestHead<'a>, name: &str) -> Result<&'a [u8], Reason> {
    head.header(name)
        .filter(|text| !text.is_empty())
        .ok_or(Reason::SignatureMissing)
}

/// One HMAC-SHA256 behind a fixed prefix.
pub fn tag(
    head: &RequestHead<'_>,
    name: &str,
    prefix: &[u8],
    decode: fn(&[u8]) -> Option<[u8; 32]>,
) -> Result<Proof, Reason> {
    signature(head, name)?
        .strip_prefix(prefix)
        .and_then(decode)
        .map(Proof::sha256)
        .ok_or(Reason::SignatureMalformed)
}

/// A moment as a sender wrote and signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTime {
    text: String,
    moment: Timestamp,
}

impl SignedTime {
    /// The time in a header, in seconds since 1970.
    pub fn in_header(head: &RequestHead<'_>, name: &str) -> Result<Self, Reason> {
        match head.header(name) {
            None | Some(b"") => Err(Reason::TimestampMissing),
            Some(text) => Self::of_seconds(text),
        }
    }

    /// Seconds since 1970, in canonical decimal.
    pub fn of_seconds(text: &[u8]) -> Result<Self, Reason> {
        Self::of(text, Timestamp::from_second)
    }

    /// Milliseconds since 1970.
    pub fn of_milliseconds(number: u64) -> Result<Self, Reason> {
        Self::of(number.to_string().as_bytes(), Timestamp::from_millisecond)
    }

    fn of(text: &[u8], unit: fn(i64) -> Result<Timestamp, jiff::Error>) -> Result<Self, Reason> {
        const BAD: Reason = Reason::TimestampMalformed;
        let moment = form::decimal(text)
            .and_then(|number| unit(number).ok())
            .ok_or(BAD)?;
        let text = String::from_utf8(text.to_vec()).map_err(|_| BAD)?;
        Ok(Self { text, moment })
    }

    /// The text that was signed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The moment itself.
    pub fn moment(&self) -> Timestamp {
        self.moment
    }

    /// Refuses what lies further from `now` than `tolerance`, on either side.
    pub fn check(&self, now: Timestamp, tolerance: Duration) -> Result<(), Reason> {
        let age = now.duration_since(self.moment);
        let tolerance = SignedDuration::try_from(tolerance).unwrap_or(SignedDuration::ZERO);
        if age > tolerance {
            Err(Reason::TimestampTooOld)
        } else if age < -tolerance {
            Err(Reason::TimestampTooNew)
        } else {
            Ok(())
        }
    }
}

/// The longest signed message id.
pub const MOST_ID_BYTES: usize = 255;

/// A signed message id in a header: short, visible, and without what `is_free` leaves out, so that where it ends in
/// the signed text is never in doubt.
pub fn message_id(
    head: &RequestHead<'_>,
    name: &str,
    is_free: fn(u8) -> bool,
) -> Result<String, Reason> {
    match head.header(name) {
        None | Some(b"") => Err(Reason::MessageIdMissing),
        Some(text) if text.len() <= MOST_ID_BYTES && text.iter().all(|b| is_free(*b)) => {
            String::from_utf8(text.to_vec()).map_err(|_| Reason::MessageIdMalformed)
        }
        Some(_) => Err(Reason::MessageIdMalformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_for_its_tolerance_on_both_sides() -> Result<(), jiff::Error> {
        let signed = SignedTime::of_seconds(b"1000000");
        let at = |second| Timestamp::from_second(second);
        let tolerance = Duration::from_secs(300);
        for (now, expected) in [
            (at(1_000_000)?, Ok(())),
            (at(1_000_300)?, Ok(())),
            (at(999_700)?, Ok(())),
            (at(1_000_301)?, Err(Reason::TimestampTooOld)),
            (at(999_699)?, Err(Reason::TimestampTooNew)),
            (
                at(1_000_300)? + Duration::from_millis(1),
                Err(Reason::TimestampTooOld),
            ),
            (Timestamp::MAX, Err(Reason::TimestampTooOld)),
            (Timestamp::MIN, Err(Reason::TimestampTooNew)),
        ] {
            let judged = signed.clone().and_then(|s| s.check(now, tolerance));
            assert_eq!(judged, expected, "{now}");
        }
        assert_eq!(
            SignedTime::of_seconds(b"999999999999999"),
            Err(Reason::TimestampMalformed)
        );
        Ok(())
    }
}
