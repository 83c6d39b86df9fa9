//! The API keys: found by digest in one step, however many there are.
//!
//! Only digests are kept. The table's own random hash key decides where an entry lies, and the
//! last word is a comparison of 32 bytes in constant time, so neither a hit nor a miss tells anything
//! about the keys by its time. What a miss looks like is read off the presented text alone.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use http::Method;
use jiff::Timestamp;

use super::PathPattern;
use crate::{
    denial::{NamedKey, Reason},
    issued_key::{self, Form},
    key_ledger::{KeyLedger, Revoked, Uses},
    secret::SecretDigest,
};

/// What a key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scopes {
    /// Everything key routes offer.
    All,
    /// Only what one of these allows.
    Only(Arc<[Grant]>),
}

/// One method on one pattern of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The method.
    pub method: Method,
    /// The paths.
    pub path: PathPattern,
}

impl Scopes {
    /// Whether a request is covered.
    pub fn cover(&self, method: &Method, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(grants) => grants
                .iter()
                .any(|g| g.method == method && g.path.matches(path)),
        }
    }
}

/// One API key with one of its secrets.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its id.
    pub id: Arc<str>,
    /// What it may do.
    pub scopes: Scopes,
    /// After this moment it opens nothing: the earlier of the key's and its secret's end.
    pub expires: Option<Timestamp>,
    /// The digest of this secret of it.
    pub digest: SecretDigest,
    /// Where its uses are counted, once the policy is in force.
    pub uses: OnceLock<Uses>,
}

impl ApiKey {
    /// It has opened something now.
    pub fn note_use(&self, now: Timestamp) {
        if let Some(uses) = self.uses.get() {
            uses.note(now);
        }
    }
}

/// Why a presented key opens nothing, and which key it is or says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRefused {
    /// The true reason.
    pub reason: Reason,
    /// The key, for the log.
    pub key: Option<Box<NamedKey>>,
}

impl From<Reason> for KeyRefused {
    fn from(reason: Reason) -> Self {
        Self { reason, key: None }
    }
}

/// All API keys.
#[derive(Debug, Default)]
pub struct KeyRing {
    by_digest: HashMap<SecretDigest, Arc<ApiKey>>,
    ids: HashSet<Arc<str>>,
    /// What was revoked; of a policy that is not in force, nothing.
    revoked: OnceLock<Arc<Revoked>>,
}

impl KeyRing {
    /// Adds a key with one of its secrets. `Err` with the other's id when the same secret is already a key's.
    pub fn add(&mut self, key: ApiKey) -> Result<(), Arc<str>> {
        if let Some(other) = self.by_digest.get(&key.digest) {
            return Err(other.id.clone());
        }
        self.ids.insert(key.id.clone());
        self.by_digest.insert(key.digest, Arc::new(key));
        Ok(())
    }

    /// The policy comes into force: from here on its keys are refused where they were revoked, and their uses counted where the
    /// last policy did.
    pub fn join(&self, ledger: &KeyLedger) {
        self.revoked.get_or_init(|| ledger.revoked().clone());
        for key in self.by_digest.values() {
            key.uses.get_or_init(|| ledger.uses(&key.id, key.digest));
        }
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// How many secrets there are.
    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// All keys, one for each secret, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ApiKey>> {
        self.by_digest.values()
    }

    /// The digests of all secrets of a key.
    pub fn digests_of(&self, id: &str) -> Vec<SecretDigest> {
        let of_it = self.iter().filter(|key| *key.id == *id);
        of_it.map(|key| key.digest).collect()
    }

    /// Whether a key has this id.
    pub fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Whether this secret was revoked.
    pub fn is_revoked(&self, digest: &SecretDigest) -> bool {
        self.revoked.get().is_some_and(|r| r.contains(digest))
    }

    /// The key that was presented; `None` stands for no header.
    pub fn find(
        &self,
        presented: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<&Arc<ApiKey>, KeyRefused> {
        if self.is_empty() {
            return Err(Reason::ApiKeyNotConfigured.into());
        }
        let presented = presented
            .filter(|p| !p.is_empty())
            .ok_or(Reason::ApiKeyMissing)?;
        match self.live(&SecretDigest::of(presented), now) {
            Err(KeyRefused {
                reason: Reason::ApiKeyUnknown,
                ..
            }) => Err(unknown(presented)),
            found => found,
        }
    }

    /// The key of this digest, if it opens anything now.
    pub fn live(&self, digest: &SecretDigest, now: Timestamp) -> Result<&Arc<ApiKey>, KeyRefused> {
        let revoked = self.is_revoked(digest);
        let Some(key) = self.by_digest.get(digest) else {
            return Err(if revoked {
                Reason::ApiKeyRevoked.into()
            } else {
                Reason::ApiKeyUnknown.into()
            });
        };
        let reason = match key.expires {
            _ if revoked => Reason::ApiKeyRevoked,
            Some(end) if now >= end => Reason::ApiKeyExpired,
            Some(_) | None => return Ok(key),
        };
        Err(KeyRefused {
            reason,
            key: Some(Box::new(NamedKey::Known(key.id.clone()))),
        })
    }
}

/// What is said of a text that is no key of ours, by the text alone.
fn unknown(presented: &[u8]) -> KeyRefused {
    let (reason, claimed) = match issued_key::read(presented) {
        Form::Foreign => (Reason::ApiKeyUnknown, None),
        Form::Whole { id } => (Reason::ApiKeyUnknown, Some(id)),
        Form::Mistyped { id } => (Reason::ApiKeyMistyped, Some(id)),
    };
    KeyRefused {
        reason,
        key: claimed.map(|id| Box::new(NamedKey::Claimed(id.into()))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn key(id: &str, secret: &[u8], expires: Option<&str>) -> ApiKey {
        ApiKey {
            id: id.into(),
            scopes: Scopes::All,
            expires: expires.map(|e| e.parse().unwrap()),
            digest: SecretDigest::of(secret),
            uses: OnceLock::new(),
        }
    }

    fn reason(ring: &KeyRing, presented: Option<&[u8]>, now: Timestamp) -> Reason {
        ring.find(presented, now).unwrap_err().reason
    }

    #[test]
    fn each_way_to_fail_has_its_reason() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let mut ring = KeyRing::default();
        assert_eq!(reason(&ring, Some(b"x"), now), Reason::ApiKeyNotConfigured);
        ring.add(key("one", b"one", None)).unwrap();
        ring.add(key("old", b"old", Some("2026-06-01T00:00:00Z")))
            .unwrap();
        assert_eq!(
            ring.add(key("two", b"one", None)).unwrap_err().as_ref(),
            "one"
        );
        assert_eq!(reason(&ring, None, now), Reason::ApiKeyMissing);
        assert_eq!(reason(&ring, Some(b""), now), Reason::ApiKeyMissing);
        assert_eq!(reason(&ring, Some(b"on"), now), Reason::ApiKeyUnknown);
        assert_eq!(reason(&ring, Some(b"old"), now), Reason::ApiKeyExpired);
        assert_eq!(ring.find(Some(b"one"), now).unwrap().id.as_ref(), "one");
    }

    #[test]
    fn a_key_of_our_making_is_told_apart_by_its_check() {
        let now = Timestamp::UNIX_EPOCH;
        let mut ring = KeyRing::default();
        let made = issued_key::make("ci");
        ring.add(key("ci", made.as_bytes(), None)).unwrap();
        assert!(ring.find(Some(made.as_bytes()), now).is_ok());
        let mistyped = format!("{made}0");
        let refused = ring.find(Some(mistyped.as_bytes()), now).unwrap_err();
        assert_eq!(refused.reason, Reason::ApiKeyMistyped);
        assert_eq!(
            refused.key.as_deref(),
            Some(&NamedKey::Claimed("ci".into()))
        );
        let other = issued_key::make("ci");
        let refused = ring.find(Some(other.as_bytes()), now).unwrap_err();
        assert_eq!(refused.reason, Reason::ApiKeyUnknown);
        // A text that fails the check and yet is a key opens what it opens.
        ring.add(key("own", mistyped.as_bytes(), None)).unwrap();
        assert_eq!(
            ring.find(Some(mistyped.as_bytes()), now)
                .unwrap()
                .id
                .as_ref(),
            "own"
        );
    }

    #[test]
    fn what_was_revoked_stays_so_in_every_ring_that_follows() {
        let now = Timestamp::UNIX_EPOCH;
        let ledger = KeyLedger::default();
        let ring = || {
            let mut ring = KeyRing::default();
            ring.add(key("ci", b"leaked", None)).unwrap();
            ring.join(&ledger);
            ring
        };
        let before = ring();
        assert!(before.find(Some(b"leaked"), now).is_ok());
        ledger.revoke("ci", &[SecretDigest::of(b"leaked")], now);
        assert_eq!(reason(&before, Some(b"leaked"), now), Reason::ApiKeyRevoked);
        let mut after = ring();
        assert_eq!(reason(&after, Some(b"leaked"), now), Reason::ApiKeyRevoked);
        after.add(key("ci", b"fresh", None)).unwrap();
        assert!(after.find(Some(b"fresh"), now).is_ok());
    }

    #[test]
    fn a_scope_covers_what_it_names_and_nothing_else() {
        let grant = |method: Method, path| Grant { method, path };
        let scopes = Scopes::Only(Arc::from([
            grant(Method::POST, PathPattern::Exact("/v1/runs".into())),
            grant(Method::GET, PathPattern::Below("/v1/runs/".into())),
        ]));
        assert!(scopes.cover(&Method::POST, "/v1/runs"));
        assert!(scopes.cover(&Method::GET, "/v1/runs/1/logs"));
        for (method, path) in [
            (Method::GET, "/v1/runs"),
            (Method::POST, "/v1/runs/1"),
            (Method::GET, "/v1/runs/"),
            (Method::GET, "/v1/cards"),
        ] {
            assert!(!scopes.cover(&method, path), "{method} {path}");
        }
        assert!(!Scopes::Only(Arc::default()).cover(&Method::GET, "/v1/runs"));
    }
}
