//! The memory of deliveries that are done or wait in the spool, so that a repetition is answered without
//! asking anyone.
//!
//! Done is only what the backend has confirmed with a 2xx. That memory is bounded and outlives the program:
//! the oldest are forgotten first, and a forgotten repetition is settled by the backend, which owns the truth. It
//! must never hold what is not so. What waits is the spool's to say, from what lies on its disk.

mod journal;

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use self::journal::Journal;
use crate::state::StateDir;

/// How many done deliveries are remembered by default: about 6 MB.
pub const DEFAULT_CAPACITY: usize = 65_536;

/// A source and an idempotency key, as one fixed-size value.
pub(crate) type Mark = [u8; 32];

/// Remembers the last deliveries that were done.
#[derive(Debug)]
pub struct ReplayMemory {
    inner: Mutex<Inner>,
    capacity: usize,
    journal: Option<Journal>,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashSet<Mark>,
    order: VecDeque<Mark>,
    /// In the spool: not counted, for the spool has bounds of its own.
    waiting: HashSet<Mark>,
}

impl ReplayMemory {
    /// A memory of at most `capacity` deliveries that ends with the process.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::new(Inner::default()),
            capacity: capacity.max(1),
            journal: None,
        }
    }

    /// A memory of at most `capacity` deliveries that is kept in the state directory.
    pub fn kept_in(state: &Arc<StateDir>, capacity: usize) -> io::Result<Self> {
        let (marks, journal) = Journal::open(state, capacity.max(1))?;
        let memory = Self {
            journal: Some(journal),
            ..Self::new(capacity)
        };
        let mut inner = memory.inner.lock();
        for mark in marks {
            inner.remember(mark, memory.capacity);
        }
        drop(inner);
        Ok(memory)
    }

    /// Whether the delivery of `source` with this idempotency key is done, or waits in the spool.
    pub fn knows(&self, source: &str, upstream: &str, key: &str) -> bool {
        let mark = mark(source, upstream, key);
        let inner = self.inner.lock();
        inner.known.contains(&mark) || inner.waiting.contains(&mark)
    }

    /// Whether it is done.
    pub fn is_done(&self, source: &str, upstream: &str, key: &str) -> bool {
        self.inner
            .lock()
            .known
            .contains(&mark(source, upstream, key))
    }

    /// Remembers that it is done.
    pub fn done(&self, source: &str, upstream: &str, key: &str) {
        let mark = mark(source, upstream, key);
        let new = self.inner.lock().remember(mark, self.capacity);
        if let (true, Some(journal)) = (new, &self.journal) {
            journal.note(mark);
        }
    }

    /// Remembers that it waits: it is on the disk. False, and nothing is changed, where it is done or waits already.
    pub(crate) fn waits(&self, source: &str, upstream: &str, key: &str) -> bool {
        let mark = mark(source, upstream, key);
        let mut inner = self.inner.lock();
        !inner.known.contains(&mark) && inner.waiting.insert(mark)
    }

    /// It waits no longer.
    pub(crate) fn waits_no_longer(&self, source: &str, upstream: &str, key: &str) {
        self.inner
            .lock()
            .waiting
            .remove(&mark(source, upstream, key));
    }

    /// How many done deliveries could not be written down; they are remembered until the process ends.
    pub fn unwritten(&self) -> u64 {
        self.journal.as_ref().map_or(0, Journal::lost)
    }

    /// Waits, not for long, until what is remembered is on the disk.
    pub fn flush(&self) {
        if let Some(journal) = &self.journal {
            journal.flush();
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

impl Inner {
    /// Whether it was new.
    fn remember(&mut self, mark: Mark, capacity: usize) -> bool {
        if !self.known.insert(mark) {
            return false;
        }
        self.order.push_back(mark);
        while self.order.len() > capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        true
    }
}

/// Source, upstream and key as one fixed-size mark: what one upstream has done another may still have to do. The
/// lengths keep `("a", "bc")` and `("ab", "c")` apart.
fn mark(source: &str, upstream: &str, key: &str) -> Mark {
    let mut hash = Sha256::new();
    for part in [source, upstream] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(key.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let m = ReplayMemory::new(2);
        for k in ["1", "2", "3"] {
            m.done("gitea", "backend", k);
            m.done("gitea", "backend", k);
        }
        assert_eq!(m.len(), 2);
        assert!(!m.is_done("gitea", "backend", "1"));
        assert!(m.is_done("gitea", "backend", "2") && m.is_done("gitea", "backend", "3"));
    }

    #[test]
    fn it_outlives_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let m = ReplayMemory::kept_in(&Arc::new(StateDir::open(&path).unwrap()), 10).unwrap();
        for k in 0..25 {
            m.done("gitea", "backend", &k.to_string());
        }
        assert!(m.waits("gitea", "backend", "waiting"));
        assert!(!m.waits("gitea", "backend", "waiting") && !m.waits("gitea", "backend", "24"));
        assert!(
            m.knows("gitea", "backend", "waiting") && !m.is_done("gitea", "backend", "waiting")
        );
        m.flush();
        let copy = dir.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(path.join("replay.log"), copy.join("replay.log")).unwrap();
        let m = ReplayMemory::kept_in(&Arc::new(StateDir::open(&copy).unwrap()), 10).unwrap();
        assert_eq!(m.len(), 10);
        assert!(m.is_done("gitea", "backend", "24") && m.is_done("gitea", "backend", "15"));
        assert!(!m.is_done("gitea", "backend", "14") && !m.knows("gitea", "backend", "waiting"));
    }

    #[test]
    fn sources_are_apart() {
        let m = ReplayMemory::new(9);
        m.done("a", "backend", "bc");
        assert!(!m.is_done("ab", "backend", "c"));
        assert!(!m.is_done("b", "backend", "bc"));
        assert!(!m.is_done("a", "other", "bc"));
    }
}
