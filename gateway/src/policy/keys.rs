//! The API keys: found by digest in one step, however many there are.
//!
//! Only digests are kept. The table's own random hash key decides where an entry lies, and the
//! last word is a comparison of 32 bytes in constant time, so neither a hit nor a miss tells anything
//! about the keys by its time.

use std::{collections::HashMap, sync::Arc};

use http::Method;
use jiff::Timestamp;

use super::PathPattern;
use crate::{denial::Reason, secret::SecretDigest};

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

/// One API key.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its id.
    pub id: Arc<str>,
    /// What it may do.
    pub scopes: Scopes,
    /// After this moment it opens nothing: the earlier of the key's and its secret's end.
    pub expires: Option<Timestamp>,
}

/// All API keys.
#[derive(Debug, Default)]
pub struct KeyRing {
    by_digest: HashMap<SecretDigest, ApiKey>,
}

impl KeyRing {
    /// Adds a key. `Err` with the other's id when the same secret is already another key's.
    pub fn add(&mut self, digest: SecretDigest, key: ApiKey) -> Result<(), Arc<str>> {
        if let Some(other) = self.by_digest.get(&digest) {
            return Err(other.id.clone());
        }
        self.by_digest.insert(digest, key);
        Ok(())
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// How many secrets there are.
    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// The key that was presented; `None` stands for no header.
    pub fn find(&self, presented: Option<&[u8]>, now: Timestamp) -> Result<&ApiKey, Reason> {
        if self.is_empty() {
            return Err(Reason::ApiKeyNotConfigured);
        }
        let presented = presented
            .filter(|p| !p.is_empty())
            .ok_or(Reason::ApiKeyMissing)?;
        let key = self
            .by_digest
            .get(&SecretDigest::of(presented))
            .ok_or(Reason::ApiKeyUnknown)?;
        match key.expires {
            Some(end) if now >= end => Err(Reason::ApiKeyExpired),
            Some(_) | None => Ok(key),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_fail_has_its_reason() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let mut ring = KeyRing::default();
        assert_eq!(
            ring.find(Some(b"x"), now).unwrap_err(),
            Reason::ApiKeyNotConfigured
        );
        let key = |id: &str, expires: Option<&str>| ApiKey {
            id: id.into(),
            scopes: Scopes::All,
            expires: expires.map(|e| e.parse().unwrap()),
        };
        ring.add(SecretDigest::of(b"one"), key("one", None))
            .unwrap();
        ring.add(
            SecretDigest::of(b"old"),
            key("old", Some("2026-06-01T00:00:00Z")),
        )
        .unwrap();
        assert_eq!(
            ring.add(SecretDigest::of(b"one"), key("two", None))
                .unwrap_err()
                .as_ref(),
            "one"
        );
        assert_eq!(ring.find(None, now).unwrap_err(), Reason::ApiKeyMissing);
        assert_eq!(
            ring.find(Some(b""), now).unwrap_err(),
            Reason::ApiKeyMissing
        );
        assert_eq!(
            ring.find(Some(b"on"), now).unwrap_err(),
            Reason::ApiKeyUnknown
        );
        assert_eq!(
            ring.find(Some(b"old"), now).unwrap_err(),
            Reason::ApiKeyExpired
        );
        assert_eq!(ring.find(Some(b"one"), now).unwrap().id.as_ref(), "one");
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
