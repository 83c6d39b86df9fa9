//! The memory of deliveries that are done, so that a repetition is answered without asking anyone.
//!
//! Only what the backend has confirmed with a 2xx is remembered. It is bounded: the oldest are
//! forgotten first, and a forgotten repetition is settled by the backend, which owns the truth.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// How many done deliveries are remembered by default: about 6 MB.
pub const DEFAULT_CAPACITY: usize = 65_536;

type Mark = [u8; 32];

/// Remembers the last deliveries that were done.
#[derive(Debug)]
pub struct ReplayMemory {
    inner: Mutex<Inner>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashSet<Mark>,
    order: VecDeque<Mark>,
}

impl ReplayMemory {
    /// A memory of at most `capacity` deliveries.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::new(Inner::default()),
            capacity: capacity.max(1),
        }
    }

    /// Whether the delivery of `source` with this idempotency key is done.
    pub fn is_done(&self, source: &str, key: &str) -> bool {
        self.inner.lock().known.contains(&mark(source, key))
    }

    /// Remembers that it is done.
    pub fn done(&self, source: &str, key: &str) {
        let mark = mark(source, key);
        let mut inner = self.inner.lock();
        if !inner.known.insert(mark) {
            return;
        }
        inner.order.push_back(mark);
        while inner.order.len() > self.capacity {
            if let Some(oldest) = inner.order.pop_front() {
                inner.known.remove(&oldest);
            }
        }
    }

    /// How many it remembers.
    pub fn len(&self) -> usize {
        self.inner.lock().order.len()
    }

    /// The most it remembers.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Source and key as one fixed-size mark; the length prefix keeps `("a", "bc")` and `("ab", "c")` apart.
fn mark(source: &str, key: &str) -> Mark {
    let mut hash = Sha256::new();
    hash.update((source.len() as u64).to_be_bytes());
    hash.update(source.as_bytes());
    hash.update(key.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let m = ReplayMemory::new(2);
        for k in ["1", "2", "3"] {
            m.done("gitea", k);
            m.done("gitea", k);
        }
        assert_eq!(m.len(), 2);
        assert!(!m.is_done("gitea", "1"));
        assert!(m.is_done("gitea", "2") && m.is_done("gitea", "3"));
    }

    #[test]
    fn sources_are_apart() {
        let m = ReplayMemory::new(9);
        m.done("a", "bc");
        assert!(!m.is_done("ab", "c"));
        assert!(!m.is_done("b", "bc"));
    }
}
