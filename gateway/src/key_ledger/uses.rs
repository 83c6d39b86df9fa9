//! How API keys are used: how often, and when last. Two plain atomics for a request, whatever the number of keys.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{policy::keys::KeyRing, secret::SecretDigest};

/// Where the uses of one key with one of its secrets are counted.
#[derive(Debug, Clone, Default)]
pub struct Uses {
    /// Of the key, with whichever secret.
    count: Arc<AtomicU64>,
    /// Of this secret: seconds since 1970, 0 for never.
    last: Arc<AtomicI64>,
}

impl Uses {
    /// The key has opened something now.
    pub fn note(&self, now: Timestamp) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let now = now.as_second();
        // Written once a second only, so that workers do not take the line from each other.
        if self.last.load(Ordering::Relaxed) < now {
            self.last.store(now, Ordering::Relaxed);
        }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn last(&self) -> Option<Timestamp> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            seconds => Timestamp::from_second(seconds).ok(),
        }
    }
}

/// Where all uses are counted.
#[derive(Debug, Default)]
pub(super) struct Book {
    by_id: Mutex<HashMap<Arc<str>, Arc<AtomicU64>>>,
    by_secret: Mutex<HashMap<SecretDigest, Arc<AtomicI64>>>,
}

impl Book {
    pub(super) fn of(&self, id: &Arc<str>, secret: SecretDigest) -> Uses {
        Uses {
            count: self.by_id.lock().entry(id.clone()).or_default().clone(),
            last: self.by_secret.lock().entry(secret).or_default().clone(),
        }
    }

    pub(super) fn forget_all_but(&self, ring: &KeyRing) {
        let kept: std::collections::HashSet<_> = ring.iter().map(|k| k.digest).collect();
        self.by_secret.lock().retain(|d, _| kept.contains(d));
    }
}

/// How one key stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyStanding {
    /// Its id.
    pub id: String,
    /// How many requests it opened since the gateway started.
    pub uses: u64,
    /// When it opened one last, in this life of the gateway.
    pub last_used: Option<Timestamp>,
    /// When the last of its secrets ends; `None`: one of them does not.
    pub expires: Option<Timestamp>,
    /// Its secrets, the latest to end first.
    pub secrets: Vec<SecretStanding>,
}

/// How one secret of a key stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretStanding {
    /// The first 8 hex digits of its SHA-256: enough to tell the secrets of a key apart.
    pub fingerprint: String,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// When it opened something last, in this life of the gateway.
    pub last_used: Option<Timestamp>,
    /// Whether it opens anything now.
    pub live: bool,
    /// Whether it was revoked.
    pub revoked: bool,
}

pub(super) fn standings(ring: &KeyRing, now: Timestamp) -> Vec<KeyStanding> {
    let mut all: BTreeMap<&str, KeyStanding> = BTreeMap::new();
    for key in ring.iter() {
        let standing = all.entry(&key.id).or_insert_with(|| KeyStanding {
            id: key.id.to_string(),
            uses: key.uses.get().map_or(0, Uses::count),
            last_used: None,
            expires: None,
            secrets: Vec::new(),
        });
        let last_used = key.uses.get().and_then(Uses::last);
        standing.last_used = standing.last_used.max(last_used);
        let revoked = ring.is_revoked(&key.digest);
        standing.secrets.push(SecretStanding {
            fingerprint: key.digest.fingerprint(),
            expires: key.expires,
            last_used,
            live: !revoked && key.expires.is_none_or(|end| now < end),
            revoked,
        });
    }
    let mut all: Vec<KeyStanding> = all.into_values().collect();
    for key in &mut all {
        let end = |s: &SecretStanding| s.expires.unwrap_or(Timestamp::MAX);
        key.secrets
            .sort_by(|a, b| end(b).cmp(&end(a)).then(a.fingerprint.cmp(&b.fingerprint)));
        key.expires = key.secrets.first().and_then(|s| s.expires);
    }
    all
}
