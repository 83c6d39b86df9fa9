//! What a configured secret means to a sender: made once, when a policy loads.
//!
//! A key answers one question, whether it proves a claim, and never shows what it is made of. All comparisons are in
//! constant time, and every signature of a list is compared, whichever fits.

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};

use super::{claim::Proof, form};
use crate::secret::{Secret, SecretDigest};

/// See the [module](self).
#[derive(Clone)]
pub enum Key {
    /// The key of HMAC-SHA256.
    Sha256(Secret),
    /// The key of HMAC-SHA512.
    Sha512(Secret),
    /// A token the sender shows as it is.
    Token(SecretDigest),
    /// The sender's public key.
    Ed25519(VerifyingKey),
}

impl Key {
    /// Whether one of the claimed signatures is this key's over exactly these bytes. A claim of another kind is never
    /// proven.
    pub fn proves(&self, proof: &Proof, signed: &[&[u8]]) -> bool {
        match (self, proof) {
            (Self::Sha256(secret), Proof::Sha256(tags)) => secret.verifies_sha256(signed, tags),
            (Self::Sha512(secret), Proof::Sha512(tags)) => secret.verifies_sha512(signed, tags),
            (Self::Token(token), Proof::Token(presented)) => token == presented,
            (Self::Ed25519(key), Proof::Ed25519(signature)) => {
                // Strictly: no malleable signature, no point of small order (RFC 8032, section 5.1.7). It wants its
                // message in one piece.
                key.verify_strict(&signed.concat(), &Signature::from_bytes(signature))
                    .is_ok()
            }
            (Self::Sha256(_) | Self::Sha512(_) | Self::Token(_) | Self::Ed25519(_), _) => false,
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sha256(_) => "HMAC-SHA256 [redacted]",
            Self::Sha512(_) => "HMAC-SHA512 [redacted]",
            Self::Token(_) => "token [redacted]",
            Self::Ed25519(_) => "Ed25519 [redacted]",
        })
    }
}

/// Why a text is not a secret of this sender. Never says the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Not what Standard Webhooks give out.
    #[error("it is not base64 as this sender gives its secrets out")]
    NotBase64,
    /// Without the beginning that the sender always writes.
    #[error("it does not begin with `whsec_`")]
    NoPrefix,
    /// Nothing behind the beginning.
    #[error("there is nothing behind `whsec_`")]
    Empty,
    /// Of another length than the sender's.
    #[error("it is not 32 bytes long")]
    Length,
    /// Not 64 lower-case hex digits.
    #[error("a public key is 64 lower-case hex digits")]
    NotHex,
    /// Not a point of the curve, not its one spelling, or one that would verify anything.
    #[error("it is no valid Ed25519 public key")]
    NotAPoint,
}

impl KeyFault {
    /// What to do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::NotBase64 | Self::Empty => {
                "copy the whole secret from the sender: `whsec_` and base64 behind it"
            }
            Self::NoPrefix | Self::Length => {
                "copy the signing token from GitLab: `whsec_` and 44 characters of base64"
            }
            Self::NotHex | Self::NotAPoint => {
                "copy the application's public key from the sender's portal"
            }
        }
    }
}

/// What begins a secret of Standard Webhooks.
const WHSEC: &[u8] = b"whsec_";

/// The bytes behind `whsec_`, which may be left out.
pub fn whsec(secret: &Secret) -> Result<Secret, KeyFault> {
    let text = secret.expose();
    let text = text.strip_prefix(WHSEC).unwrap_or(text);
    if text.is_empty() {
        return Err(KeyFault::Empty);
    }
    STANDARD
        .decode(text)
        .map(Secret::new)
        .map_err(|_| KeyFault::NotBase64)
}

/// The 32 bytes behind `whsec_`, which has to be there.
pub fn whsec_32(secret: &Secret) -> Result<Secret, KeyFault> {
    if !secret.expose().starts_with(WHSEC) {
        return Err(KeyFault::NoPrefix);
    }
    let key = whsec(secret)?;
    if key.expose().len() == 32 {
        Ok(key)
    } else {
        Err(KeyFault::Length)
    }
}

/// A public key in hex: on the curve, in its one spelling, not of small order.
pub fn ed25519(secret: &Secret) -> Result<VerifyingKey, KeyFault> {
    let bytes = form::lower_hex::<32>(secret.expose()).ok_or(KeyFault::NotHex)?;
    let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyFault::NotAPoint)?;
    // Decompression takes y modulo p: only what it is written as again is the canonical spelling.
    if key.is_weak() || key.to_edwards().compress().to_bytes() != bytes {
        return Err(KeyFault::NotAPoint);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[test]
    fn a_secret_of_standard_webhooks_is_base64_with_or_without_its_beginning() {
        let bare = whsec(&secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).map(|s| s.expose().len());
        assert_eq!(bare, Ok(24));
        assert!(whsec(&secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).is_ok());
        for (text, fault) in [
            ("whsec_", KeyFault::Empty),
            ("whsec_ MfKQ", KeyFault::NotBase64),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", KeyFault::NotBase64),
            ("not base64 at all", KeyFault::NotBase64),
        ] {
            assert_eq!(whsec(&secret(text)).err(), Some(fault), "{text}");
        }
        assert_eq!(
            whsec_32(&secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).err(),
            Some(KeyFault::Length)
        );
        assert_eq!(
            whsec_32(&secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).err(),
            Some(KeyFault::NoPrefix)
        );
    }

    /// The first test vector of RFC 8032, section 7.1.
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn a_public_key_is_a_point_in_its_one_spelling() {
        assert!(ed25519(&secret(PUBLIC)).is_ok());
        assert_eq!(
            ed25519(&secret(&PUBLIC.to_uppercase())).err(),
            Some(KeyFault::NotHex)
        );
        assert_eq!(ed25519(&secret(&PUBLIC[2..])).err(), Some(KeyFault::NotHex));
        for (what, text) in [
            (
                "the neutral element",
                "0100000000000000000000000000000000000000000000000000000000000000",
            ),
            (
                "of order four",
                "0000000000000000000000000000000000000000000000000000000000000000",
            ),
            (
                "of order eight",
                "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            ),
            (
                "not on the curve",
                "0200000000000000000000000000000000000000000000000000000000000000",
            ),
            (
                "y written as y + p",
                "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            ),
            (
                "p itself",
                "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            ),
        ] {
            assert_eq!(
                ed25519(&secret(text)).err(),
                Some(KeyFault::NotAPoint),
                "{what}"
            );
        }
    }

    #[test]
    fn a_claim_of_another_kind_is_never_proven() {
        let digest = SecretDigest::of(b"token");
        let key = Key::Sha256(secret("token"));
        assert!(!key.proves(&Proof::Token(digest), &[b"token"]));
        assert!(!Key::Token(digest).proves(&Proof::sha256([0; 32]), &[b"token"]));
        assert!(!key.proves(&Proof::Sha256(Vec::new()), &[b"token"]));
    }

    #[test]
    fn a_key_never_prints() {
        for key in [
            Key::Sha256(secret("hunter2")),
            Key::Sha512(secret("hunter2")),
        ] {
            let shown = format!("{key:?}");
            assert!(
                shown.contains("[redacted]") && !shown.contains("hunter2"),
                "{shown}"
            );
        }
    }
}
