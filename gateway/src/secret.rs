//! Secrets, and the only ways to use one.
//!
//! A secret has no `Display`, prints as `[redacted]`, is wiped when dropped, and is compared in
//! constant time only. [`Secret::expose`] is the one way to its bytes; search for it to see every use.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest, Sha256, Sha512};
use subtle::{Choice, ConstantTimeEq};

/// The bytes of one secret.
#[derive(Clone)]
pub struct Secret(SecretSlice<u8>);

impl Secret {
    /// Takes the bytes as they are.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(SecretSlice::from(bytes))
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// SHA-256 of the secret, as API keys and test tokens are kept.
    pub fn digest(&self) -> SecretDigest {
        SecretDigest::of(self.expose())
    }

    /// Whether one of `tags` is HMAC-SHA256 of `message`, given in pieces, under this secret; each compared in
    /// constant time over its fixed 32 bytes (RFC 2104).
    pub fn verifies_sha256(&self, message: &[&[u8]], tags: &[[u8; 32]]) -> bool {
        self.verifies::<Hmac<Sha256>, 32>(message, tags)
    }

    /// As [`Secret::verifies_sha256`], with HMAC-SHA512.
    pub fn verifies_sha512(&self, message: &[&[u8]], tags: &[[u8; 64]]) -> bool {
        self.verifies::<Hmac<Sha512>, 64>(message, tags)
    }

    fn verifies<M: Mac + KeyInit, const N: usize>(
        &self,
        message: &[&[u8]],
        tags: &[[u8; N]],
    ) -> bool {
        // HMAC takes keys of any length, so this cannot fail; were it to, nothing is verified.
        let Ok(mut mac) = <M as KeyInit>::new_from_slice(self.expose()) else {
            return false;
        };
        for piece in message {
            mac.update(piece);
        }
        let made = mac.finalize().into_bytes();
        let fits = tags.iter().fold(Choice::from(0), |fits, tag| {
            fits | made.as_slice().ct_eq(tag.as_slice())
        });
        fits.into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// SHA-256 of a secret that is only ever presented, never used as a key: equal only in constant time.
#[derive(Clone, Copy)]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// The digest of presented bytes.
    pub fn of(presented: &[u8]) -> Self {
        Self(Sha256::digest(presented).into())
    }

    /// A digest as it stands in a policy file: `sha256:` and 64 hex digits.
    pub fn parse(written: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(written.strip_prefix("sha256:")?, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The digest as it stands in a policy file.
    pub fn written(&self) -> String {
        format!("sha256:{}", hex::encode(self.0))
    }

    /// Its first 8 hex digits, to tell the secrets of one key apart in front of the operator.
    pub fn fingerprint(&self) -> String {
        self.written()
            .chars()
            .skip("sha256:".len())
            .take(8)
            .collect()
    }
}

impl PartialEq for SecretDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretDigest {}

/// Hashed by a table under its own random key, so that where an entry lies tells nothing about it.
impl std::hash::Hash for SecretDigest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl std::fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted digest]")
    }
}

/// Why a secret's text is not good enough outside `local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// It is text that a template or a README would hold.
    Placeholder,
    /// Its length times the log2 of its distinct characters is under [`MIN_STRENGTH_BITS`].
    Weak,
}

/// The least strength asked for in production, in bits.
pub const MIN_STRENGTH_BITS: f64 = 128.0;

/// Judges the text of a secret: `change-me…` and `your-…-here` are placeholders, and strength is
/// estimated from above as length × log2(distinct bytes), so only what is surely weak is called so.
pub fn weakness(bytes: &[u8]) -> Option<Weakness> {
    let text = String::from_utf8_lossy(bytes)
        .trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'')
        .to_ascii_lowercase()
        .replace(['_', ' '], "-");
    let placeholder = [
        "change-me",
        "changeme",
        "replace-me",
        "replaceme",
        "placeholder",
        "example",
    ]
    .iter()
    .any(|p| text.starts_with(p))
        || (text.starts_with("your-") && text.contains("-here"))
        || (text.starts_with('<') && text.ends_with('>'));
    if placeholder {
        return Some(Weakness::Placeholder);
    }
    let mut seen = [false; 256];
    for b in bytes {
        seen[usize::from(*b)] = true;
    }
    let distinct = seen.iter().filter(|s| **s).count();
    #[expect(
        clippy::cast_precision_loss,
        reason = "lengths of secrets are far below 2^52"
    )]
    let bits = bytes.len() as f64 * (distinct.max(1) as f64).log2();
    (bits < MIN_STRENGTH_BITS).then_some(Weakness::Weak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let s = Secret::new(b"hunter2hunter2".to_vec());
        assert_eq!(
            format!("{s:?} {:?}", s.digest()),
            "[redacted] [redacted digest]"
        );
    }

    #[test]
    fn weakness_names_placeholders_and_short_secrets() {
        assert_eq!(
            weakness(b"change-me-please-0123456789abcdef"),
            Some(Weakness::Placeholder)
        );
        assert_eq!(weakness(b"CHANGE_ME"), Some(Weakness::Placeholder));
        assert_eq!(weakness(b"your-secret-here"), Some(Weakness::Placeholder));
        assert_eq!(weakness(b"hunter2"), Some(Weakness::Weak));
        assert_eq!(weakness(&[b'a'; 500]), Some(Weakness::Weak));
        assert_eq!(weakness(b"0123456789abcdef0123456789abcdef"), None);
    }

    #[test]
    fn rfc_4231_case_2_verifies_and_one_bit_off_does_not() {
        let s = Secret::new(b"Jefe".to_vec());
        let mut tag = [0u8; 32];
        hex::decode_to_slice(
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            &mut tag,
        )
        .unwrap_or_default();
        let message: [&[u8]; 3] = [b"what do ya ", b"", b"want for nothing?"];
        assert!(s.verifies_sha256(&message, &[[0; 32], tag]));
        tag[31] ^= 1;
        assert!(!s.verifies_sha256(&message, &[tag]) && !s.verifies_sha256(&message, &[]));
    }
}
