//! The spool: proven deliveries that the upstream could not take, kept on disk and handed over later, in order for each source.
//!
//! An entry counts, and its sender is told so, only once the disk has it. It leaves when the upstream has answered
//! for good, or when an operator drops it; nothing is dropped silently. What it holds is what the pipeline admitted; a
//! request without proof never gets here. Bounded in count, bytes and age; over that, deliveries are refused.
//!
//! [`entry`] is the form on disk, `store` the files, `shelf` the books, `writer` the thread that writes, [`courier`] asks the
//! upstream, [`handover`] does so for what waits, [`operator`] lists and changes it.

pub mod command;
pub mod courier;
pub mod entry;
pub mod handover;
mod in_hand;
pub mod letter;
pub mod operator;
mod shelf;
mod store;
mod writer;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use self::{
    entry::{Head, Tries},
    in_hand::InHand,
    letter::Letter,
    shelf::{Item, Shelf},
    store::{Found, Place, Store},
    writer::Writer,
};
use crate::{
    metrics::{Metrics, SourceLabels},
    policy::SpoolBounds,
    replay::ReplayMemory,
    state::StateDir,
};

/// Why a delivery was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// As many entries or bytes wait as the policy allows.
    #[error("the spool is full")]
    Full,
    /// As many entries or bytes of its source wait as the policy allows one source.
    #[error("the source has its share of the spool")]
    ShareFull,
    /// The disk does not take it, or not in time.
    #[error("the spool's disk does not take it")]
    Unavailable,
}

/// What became of a delivery that was to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The disk has it, under this id.
    Waits(String),
    /// The same delivery is done or waits already.
    Known,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Spool {
    store: Store,
    replay: Arc<ReplayMemory>,
    metrics: Arc<Metrics>,
    shelf: Mutex<Shelf>,
    /// Its place in the order of the next delivery.
    next: AtomicU64,
    /// Something waits that did not before.
    changed: Notify,
    /// How many sources listen for an upstream to answer again.
    listening: AtomicUsize,
    /// What is just being handed over.
    in_hand: Arc<InHand>,
    writer: Writer,
}

impl Spool {
    /// Opens the spool of a state directory, with what the last process left in it.
    pub fn open(
        state: Arc<StateDir>,
        replay: Arc<ReplayMemory>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Arc<Self>> {
        let (store, found) = Store::open(state)?;
        let (shelf, next) = shelve(&store, found, &replay);
        let (waiting, dead, unreadable) = (shelf.entries, shelf.dead.len(), shelf.unreadable);
        if waiting + dead + unreadable > 0 {
            tracing::info!(
                event = "spool_opened",
                waiting,
                dead,
                unreadable,
                "the spool holds what the last process left"
            );
        }
        let (writer, orders) = Writer::new();
        let spool = Arc::new(Self {
            store,
            replay,
            metrics,
            shelf: Mutex::new(shelf),
            next: AtomicU64::new(next),
            changed: Notify::new(),
            listening: AtomicUsize::new(0),
            in_hand: Arc::default(),
            writer,
        });
        writer::start(Arc::downgrade(&spool), orders)?;
        Ok(spool)
    }

    /// A delivery of this source has arrived and is proven: its place in the order.
    pub fn arrive(self: &Arc<Self>, source: &Arc<str>) -> Turn {
        let mut shelf = self.shelf.lock();
        let order = self.next_order();
        let lane = shelf.lanes.entry(source.clone()).or_default();
        lane.arriving.insert(order);
        Turn {
            spool: self.clone(),
            source: source.clone(),
            order,
            others_wait: !lane.queue.is_empty(),
        }
    }

    /// Keeps a delivery: returns once the disk has it, and at this moment at the latest.
    pub async fn keep(
        &self,
        turn: &Turn,
        letter: Letter,
        tries: Tries,
        bounds: SpoolBounds,
        until: Instant,
    ) -> Result<Kept, KeepError> {
        let order = writer::Order {
            place: turn.order,
            letter,
            tries,
            bounds,
        };
        self.writer.write(order, until).await
    }

    /// An upstream answers: whoever waits for it to need not wait longer.
    pub fn heard(&self, upstream: &str) {
        if self.listening.load(Ordering::Relaxed) == 0 {
            return;
        }
        for lane in self.shelf.lock().lanes.values() {
            if lane.listens_to.as_deref() == Some(upstream) {
                lane.wake.notify_one();
            }
        }
    }

    /// The policy has changed: what had no way may have one.
    pub fn policy_changed(&self) {
        for lane in self.shelf.lock().lanes.values() {
            lane.wake.notify_one();
        }
    }

    /// Remembers that a delivery is done.
    fn done(&self, head: &Head) {
        if head.remember {
            self.replay.done(&head.source, &head.upstream, &head.key);
        }
    }

    /// Takes in what the disk has: from here on it is known and handed over. False where the same delivery is done or waits
    /// by now.
    fn take_in(&self, item: Item) -> bool {
        let head = &item.head;
        if head.remember && !self.replay.waits(&head.source, &head.upstream, &head.key) {
            return false;
        }
        self.shelve(item);
        true
    }

    /// Adds to the books what is known to wait.
    fn shelve(&self, item: Item) {
        self.metrics.spooled.inc(&labels_of(&item.head.source));
        self.shelf.lock().add(item);
        self.changed.notify_one();
    }

    /// Removes a waiting entry from the books, not from the disk.
    fn take_out(&self, source: &str, order: u64) -> Option<Item> {
        let item = self.shelf.lock().remove(source, order)?;
        self.waits_no_longer(&item);
        Some(item)
    }

    fn waits_no_longer(&self, item: &Item) {
        let head = &item.head;
        if head.remember {
            self.replay
                .waits_no_longer(&head.source, &head.upstream, &head.key);
        }
    }

    /// Whether it is known to be done.
    fn is_done(&self, head: &Head) -> bool {
        head.remember && self.replay.is_done(&head.source, &head.upstream, &head.key)
    }

    /// How many bytes are just being handed over.
    pub fn in_hand_bytes(&self) -> usize {
        self.in_hand.bytes()
    }

    /// The next place in the order.
    fn next_order(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// What waits of each source: entries, bytes, and since when the oldest does.
    pub fn standing(&self) -> Vec<Standing> {
        let shelf = self.shelf.lock();
        let now = Timestamp::now().as_millisecond();
        shelf
            .lanes
            .iter()
            .map(|(source, lane)| Standing {
                source: source.clone(),
                entries: lane.queue.len(),
                bytes: lane.bytes,
                oldest: lane
                    .queue
                    .values()
                    .map(|item| now.saturating_sub(item.head.received_ms))
                    .max()
                    .map_or(Duration::ZERO, |ms| {
                        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
                    }),
            })
            .collect()
    }

    /// How many dead letters there are, and how many entries that cannot be read.
    pub fn lost(&self) -> (usize, usize) {
        let shelf = self.shelf.lock();
        (shelf.dead.len(), shelf.unreadable)
    }
}

/// What waits of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The source.
    pub source: Arc<str>,
    /// How many deliveries.
    pub entries: usize,
    /// How many bytes.
    pub bytes: u64,
    /// How long the oldest has waited.
    pub oldest: Duration,
}

fn labels_of(source: &str) -> SourceLabels {
    SourceLabels {
        source: source.into(),
    }
}

/// The place of an arriving delivery in the order of its source. What waits behind it is not handed over before it is settled.
#[derive(Debug)]
pub struct Turn {
    spool: Arc<Spool>,
    source: Arc<str>,
    order: u64,
    others_wait: bool,
}

impl Turn {
    /// Whether others of its source wait already: then it joins them untried.
    pub fn others_wait(&self) -> bool {
        self.others_wait
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut shelf = self.spool.shelf.lock();
        if let Some(lane) = shelf.lanes.get_mut(&self.source) {
            lane.arriving.remove(&self.order);
            lane.settled.notify_one();
        }
        shelf.forget_if_idle(&self.source);
    }
}

/// Puts what was found in order; removes what is known to be done.
fn shelve(store: &Store, found: Found, replay: &ReplayMemory) -> (Shelf, u64) {
    let mut shelf = Shelf {
        unreadable: found.unreadable,
        ..Shelf::default()
    };
    let mut next = 1;
    for item in found.waiting {
        next = next.max(item.order + 1);
        let head = &item.head;
        if head.remember && replay.is_done(&head.source, &head.upstream, &head.key) {
            // The upstream's 2xx was received; only the removal was lost.
            done_before(head);
            let _ = store.remove(Place::Waiting, &item.name());
            continue;
        }
        if head.remember {
            replay.waits(&head.source, &head.upstream, &head.key);
        }
        shelf.add(item);
    }
    for item in found.dead {
        next = next.max(item.order + 1);
        shelf.add_dead(item);
    }
    (shelf, next)
}

fn done_before(head: &Head) {
    tracing::info!(
        event = "spool_done_before",
        source = head.source,
        id = head.id,
        "a delivery of the spool is done already: it is not sent again"
    );
}
