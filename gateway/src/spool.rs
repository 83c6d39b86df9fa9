//! The spool: proven deliveries that the upstream could not take, kept on disk and handed over later, in order for each source.
//!
//! An entry counts, and its sender is told so, only once the disk has it. It leaves when the upstream has answered
//! for good, or when an operator drops it; nothing is dropped silently. What it holds is what the pipeline admitted; a
//! request without proof never gets here. Bounded in count, bytes and age; over that, deliveries are refused.
//!
//! [`entry`] is the form on disk, `store` the files, `writer` the thread that writes them, [`courier`] asks the upstream,
//! [`handover`] does so for what waits, [`operator`] lists and changes it.

pub mod command;
pub mod courier;
pub mod entry;
pub mod handover;
pub mod letter;
pub mod operator;
mod store;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::{
    entry::{Charged, Entry, Head, Tries},
    letter::Letter,
    store::{Found, Place, Store, name_of},
    writer::Writer,
};
use crate::{
    metrics::{Metrics, SourceLabels},
    policy::SpoolBounds,
    replay::ReplayMemory,
    state::StateDir,
};

/// How long a delivery waits for the disk. With the upstream's share before it, a sender that gives up after five
/// seconds still hears what became of it.
pub const DISK_PATIENCE: Duration = Duration::from_millis(2500);

/// Why a delivery was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// As many entries or bytes wait as the policy allows.
    #[error("the spool is full")]
    Full,
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
    writer: Writer,
}

/// What waits and what failed, without the bodies.
#[derive(Debug, Default)]
struct Shelf {
    lanes: HashMap<Arc<str>, Lane>,
    entries: usize,
    bytes: u64,
    dead: BTreeMap<u64, Item>,
    dead_bytes: u64,
    unreadable: usize,
}

/// What waits of one source.
#[derive(Debug, Default)]
struct Lane {
    queue: BTreeMap<u64, Item>,
    /// Deliveries that are just being tried or written, by their place in the order.
    arriving: BTreeSet<u64>,
    /// Charges of later deliveries: they pay for earlier ones that were not charged.
    credit: usize,
    /// Ends a pause of its hand-over.
    wake: Arc<Notify>,
    /// One of the arriving is settled.
    settled: Arc<Notify>,
    /// The upstream whose answers wake it.
    listens_to: Option<String>,
    outlook: Outlook,
}

/// Why the first of a lane is not being handed over right now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Outlook {
    /// It will be, at once.
    #[default]
    Now,
    /// It is on its way.
    InHand,
    /// It is tried again at this time, in milliseconds since 1970.
    Again(i64),
    /// The policy in force has no way for it.
    Blocked(&'static str),
}

/// One entry, without its body.
#[derive(Debug, Clone)]
struct Item {
    order: u64,
    head: Arc<Head>,
    tries: Tries,
    bytes: u64,
}

impl Item {
    fn of(order: u64, entry: &Entry) -> Self {
        let head = Head {
            // Only needed when it is sent, and then it is read again.
            headers: Vec::new(),
            ..entry.head.clone()
        };
        Self {
            order,
            head: Arc::new(head),
            tries: entry.tries,
            bytes: size_of(&entry.head, &entry.body),
        }
    }

    fn name(&self) -> String {
        name_of(self.order, &self.head.id)
    }
}

/// What an entry counts for: its body, and its head as an estimate.
fn size_of(head: &Head, body: &[u8]) -> u64 {
    let headers: usize = head
        .headers
        .iter()
        .map(|(n, v)| n.len() + v.len() + 8)
        .sum();
    (body.len() + headers + head.target.len() + 512) as u64
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

    /// Keeps a delivery: returns once the disk has it. Within [`DISK_PATIENCE`], or not at all as far as anybody is told.
    pub async fn keep(
        &self,
        turn: &Turn,
        letter: Letter,
        tries: Tries,
        bounds: SpoolBounds,
    ) -> Result<Kept, KeepError> {
        let order = writer::Order {
            place: turn.order,
            letter,
            tries,
            bounds,
        };
        tokio::time::timeout(DISK_PATIENCE, self.writer.write(order))
            .await
            .unwrap_or(Err(KeepError::Unavailable))
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

    /// Takes the written entries in: from here on they are known and handed over.
    fn take_in(&self, items: Vec<Item>) {
        let mut shelf = self.shelf.lock();
        for item in items {
            if item.head.remember {
                self.replay
                    .waits(&item.head.source, &item.head.upstream, &item.head.key);
            }
            self.metrics.spooled.inc(&labels_of(&item.head.source));
            shelf.add(item);
        }
        drop(shelf);
        self.changed.notify_one();
    }

    /// Removes a waiting entry from the books, not from the disk.
    fn take_out(&self, source: &str, order: u64) -> Option<Item> {
        let mut shelf = self.shelf.lock();
        let item = shelf.lanes.get_mut(source)?.queue.remove(&order)?;
        shelf.entries -= 1;
        shelf.bytes = shelf.bytes.saturating_sub(item.bytes);
        shelf.forget_if_idle(source);
        drop(shelf);
        if item.head.remember {
            self.replay
                .waits_no_longer(source, &item.head.upstream, &item.head.key);
        }
        Some(item)
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
                bytes: lane.queue.values().map(|item| item.bytes).sum(),
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

impl Shelf {
    fn add(&mut self, item: Item) {
        self.entries += 1;
        self.bytes += item.bytes;
        let lane = self
            .lanes
            .entry(item.head.source.as_str().into())
            .or_default();
        if item.tries.charged == Charged::Yes {
            lane.credit += 1;
        }
        lane.queue.insert(item.order, item);
    }

    /// Adds a dead letter; returns those that have to make room for it.
    fn add_dead(&mut self, item: Item, bounds: SpoolBounds) -> Vec<Item> {
        self.dead_bytes += item.bytes;
        self.dead.insert(item.order, item);
        let mut too_many = Vec::new();
        while self.dead.len() > bounds.dead_entries || self.dead_bytes > bounds.dead_bytes {
            let Some((_, oldest)) = self.dead.pop_first() else {
                break;
            };
            self.dead_bytes = self.dead_bytes.saturating_sub(oldest.bytes);
            too_many.push(oldest);
        }
        too_many
    }

    fn forget_if_idle(&mut self, source: &str) {
        if self
            .lanes
            .get(source)
            .is_some_and(|lane| lane.queue.is_empty() && lane.arriving.is_empty())
        {
            self.lanes.remove(source);
        }
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
    for (order, entry) in found.waiting {
        next = next.max(order + 1);
        let item = Item::of(order, &entry);
        let head = &entry.head;
        if head.remember && replay.is_done(&head.source, &head.upstream, &head.key) {
            // The upstream's 2xx was received; only the removal was lost.
            tracing::info!(
                event = "spool_done_before",
                id = head.id,
                "an entry of the spool was done already"
            );
            let _ = store.remove(Place::Waiting, &item.name());
            continue;
        }
        if head.remember {
            replay.waits(&head.source, &head.upstream, &head.key);
        }
        shelf.add(item);
    }
    for (order, entry) in found.dead {
        next = next.max(order + 1);
        let item = Item::of(order, &entry);
        shelf.dead_bytes += item.bytes;
        shelf.dead.insert(order, item);
    }
    (shelf, next)
}
