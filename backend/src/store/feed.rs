//! The feed of state changes: written in the transaction that makes the change, published after
//! its commit, numbered without gaps, readable from any number on.
//!
//! A reader holds a cursor, not a queue: a slow one costs nothing but its own time.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::RwLock;
use serde::Serialize;
use tokio::sync::watch;

use super::StoreError;

/// How many of the newest events are kept at hand; older ones are read from the disk.
pub(super) const RING: usize = 4096;

/// One state change.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// Its number: larger is later.
    pub seq: i64,
    /// When it happened (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// What changed and into what, e.g. `run.running`, `card.code_review`, `delivery.received`.
    pub kind: String,
    /// The id of what changed.
    pub subject: String,
    /// More about it; depends on the kind.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

/// What was published: the newest events and the newest number.
#[derive(Debug)]
pub struct Feed {
    ring: RwLock<VecDeque<Arc<Event>>>,
    newest: watch::Sender<i64>,
}

impl Feed {
    /// The feed of a store just opened, whose newest event has this number.
    pub(super) fn new(newest: i64) -> Self {
        Self {
            ring: RwLock::default(),
            newest: watch::Sender::new(newest),
        }
    }

    /// Publishes what was committed, in order. Called by one thread only.
    pub(super) fn publish(&self, events: Vec<Event>) {
        let Some(last) = events.last().map(|event| event.seq) else {
            return;
        };
        {
            let mut ring = self.ring.write();
            ring.extend(events.into_iter().map(Arc::new));
            let surplus = ring.len().saturating_sub(RING);
            ring.drain(..surplus);
        }
        self.newest.send_replace(last);
    }

    /// A watch on the number of the newest event.
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.newest.subscribe()
    }

    /// The number of the newest event; 0 when there was none yet.
    pub fn newest(&self) -> i64 {
        *self.newest.borrow()
    }

    /// The events after `after` still at hand, oldest first; `None` when they begin earlier.
    pub(super) fn recent(&self, after: i64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let ring = self.ring.read();
        let first = ring.front()?.seq;
        if after < first - 1 {
            return None;
        }
        let start = ring.partition_point(|event| event.seq <= after);
        Some(ring.iter().skip(start).take(limit).cloned().collect())
    }
}

/// The feed of state changes, and what it was fed with.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// The feed.
    fn feed(&self) -> &Feed;

    /// All events of one subject, oldest first.
    async fn events_of(&self, subject: String) -> Result<Vec<Event>, StoreError>;

    /// Up to `limit` published events after number `cursor`, oldest first.
    async fn events_after(&self, cursor: i64, limit: usize) -> Result<Vec<Arc<Event>>, StoreError>;
}
