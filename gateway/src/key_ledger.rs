//! What the gateway itself keeps of its API keys, across reloads: which secrets were revoked, and how keys are used.
//!
//! The policy says which keys there are; this says what became of them. It never holds a key, only digests, and never
//! forgets a revocation.

mod revoked;
mod uses;

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{
    revoked::{KeepError, Revoked},
    uses::{KeyStanding, SecretStanding, Uses},
};
use crate::{control::Whose, policy::keys::KeyRing, secret::SecretDigest, state::StateDir};

/// Which key the operator wants to see refused from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Its id.
    pub id: String,
    /// Digests that are refused with it (`sha256:` and 64 hex digits): those that stand in its policy file, which the policy in force
    /// may not have yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The gateway that is meant. Another one changes nothing and answers 409. Without it, whichever is asked is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Whose>,
}

impl Revoke {
    /// The digests; `None` where one of them is none.
    pub fn digests(&self) -> Option<Vec<SecretDigest>> {
        let written = self.secrets.iter();
        written.map(|digest| SecretDigest::parse(digest)).collect()
    }
}

/// What became of a revocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Whether the policy in force has such a key.
    pub known: bool,
    /// How many secrets were revoked by this.
    pub secrets: usize,
    /// How many of its secrets had been revoked before.
    pub before: usize,
    /// How many open streams were closed by this.
    pub streams: usize,
    /// Why the next start will not know of it; none when it is on disk.
    pub not_kept: Option<String>,
    /// Whether the gateway runs with another policy file than the one that was meant, and only its state directory is the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub other_policy: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct KeyLedger {
    revoked: Arc<Revoked>,
    uses: uses::Book,
}

impl KeyLedger {
    /// Reads what was revoked before from the state directory, and keeps what will be there.
    pub fn keep_in(&self, state: Arc<StateDir>) -> Result<(), KeepError> {
        self.revoked.keep_in(state)
    }

    /// Reads what was revoked before from a state directory that this process does not own.
    pub fn read_from(&self, state_dir: &Path) -> Result<(), KeepError> {
        self.revoked.read_from(state_dir)
    }

    /// What is revoked here is not kept, and this is why.
    pub fn keep_nowhere(&self, why: String) {
        self.revoked.keep_nowhere(why);
    }

    /// The secrets that were revoked.
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// Revokes secrets of the key `id`: in force when this returns, on disk only after [`Self::keep`]. How many were not
    /// revoked before.
    pub fn revoke(&self, id: &str, secrets: &[SecretDigest], now: Timestamp) -> usize {
        self.revoked.add(id, secrets, now)
    }

    /// Whether a secret of the key `id` was ever revoked.
    pub fn names(&self, id: &str) -> bool {
        self.revoked.names(id)
    }

    /// Puts what was revoked on disk, flushed when this returns.
    pub fn keep(&self) -> Result<(), KeepError> {
        self.revoked.keep()
    }

    /// Where uses of this key with this secret are counted: the same for every policy that has it.
    pub fn uses(&self, id: &Arc<str>, secret: SecretDigest) -> Uses {
        self.uses.of(id, secret)
    }

    /// How every key of a policy stands, by id.
    pub fn standings(&self, ring: &KeyRing, now: Timestamp) -> Vec<KeyStanding> {
        uses::standings(ring, now)
    }

    /// Forgets the uses of keys that a policy does not have any more.
    pub fn forget_all_but(&self, ring: &KeyRing) {
        self.uses.forget_all_but(ring);
    }
}
