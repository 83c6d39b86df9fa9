//! The books of the spool: what waits and what failed, without the bodies.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::Notify;

use super::{
    KeepError,
    entry::{Charged, Head, Tries},
    store::name_of,
};
use crate::policy::SpoolBounds;

/// What waits and what failed.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) lanes: HashMap<Arc<str>, Lane>,
    pub(super) entries: usize,
    pub(super) bytes: u64,
    pub(super) dead: BTreeMap<u64, Item>,
    pub(super) dead_bytes: u64,
    pub(super) unreadable: usize,
}

/// What waits of one source.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: BTreeMap<u64, Item>,
    pub(super) bytes: u64,
    /// Deliveries that are just being tried or written, by their place in the order.
    pub(super) arriving: BTreeSet<u64>,
    /// Ends a pause of its hand-over.
    pub(super) wake: Arc<Notify>,
    /// One of the arriving is settled.
    pub(super) settled: Arc<Notify>,
    /// The upstream whose answers wake it.
    pub(super) listens_to: Option<String>,
    pub(super) outlook: Outlook,
}

/// Why the first of a lane is not being handed over right now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It will be, at once.
    #[default]
    Now,
    /// The one at this place in the order is on its way. It may not be the first any more: what the disk took late comes before it.
    InHand(u64),
    /// It is tried again at this time, in milliseconds since 1970.
    Again(i64),
    /// The policy in force has no way for it.
    Blocked(&'static str),
}

/// How a delivery stands with the budget of its source.
#[derive(Debug)]
pub(super) enum Charge {
    /// It was charged.
    Paid,
    /// This later one was, and is not any more.
    GivenBy(Item),
    /// Nothing was.
    Due,
}

/// One entry, without its body.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) order: u64,
    pub(super) head: Arc<Head>,
    pub(super) tries: Tries,
    pub(super) bytes: u64,
}

impl Item {
    /// `body` is how long its body is.
    pub(super) fn of(order: u64, head: &Head, tries: Tries, body: u64) -> Self {
        let headers: usize = head
            .headers
            .iter()
            .map(|(n, v)| n.len() + v.len() + 8)
            .sum();
        Self {
            order,
            // What it counts for: its body, and its head as an estimate.
            bytes: body + (headers + head.target.len() + 512) as u64,
            head: Arc::new(Head {
                // Only needed when it is sent, and then it is read again.
                headers: Vec::new(),
                ..head.clone()
            }),
            tries,
        }
    }

    pub(super) fn name(&self) -> String {
        name_of(self.order, &self.head.id)
    }
}

impl Shelf {
    /// Whether `more` fit besides what waits, and its own source's share besides what that has.
    pub(super) fn has_room(
        &self,
        source: &str,
        more: More,
        of_source: More,
        bounds: SpoolBounds,
    ) -> Result<(), KeepError> {
        if self.entries + more.entries > bounds.entries || self.bytes + more.bytes > bounds.bytes {
            return Err(KeepError::Full);
        }
        let (entries, bytes) = self
            .lanes
            .get(source)
            .map_or((0, 0), |lane| (lane.queue.len(), lane.bytes));
        if entries + of_source.entries > bounds.entries_of_source()
            || bytes + of_source.bytes > bounds.bytes_of_source()
        {
            return Err(KeepError::ShareFull);
        }
        Ok(())
    }

    /// Adds what waits.
    pub(super) fn add(&mut self, item: Item) {
        self.entries += 1;
        self.bytes += item.bytes;
        let lane = self
            .lanes
            .entry(item.head.source.as_str().into())
            .or_default();
        lane.bytes += item.bytes;
        lane.queue.insert(item.order, item);
    }

    /// Whether the budget of its source was charged for a delivery. A later one that was charged gives its charge to one that was not.
    pub(super) fn charge_of(&mut self, source: &str, order: u64) -> Charge {
        let Some(lane) = self.lanes.get_mut(source) else {
            return Charge::Due;
        };
        if let Some(item) = lane.queue.get(&order)
            && item.tries.charged == Charged::Yes
        {
            return Charge::Paid;
        }
        let mut later = lane.queue.range_mut(order + 1..).map(|(_, item)| item);
        let Some(giver) = later.find(|item| item.tries.charged == Charged::Yes) else {
            return Charge::Due;
        };
        giver.tries.charged = Charged::No;
        Charge::GivenBy(giver.clone())
    }

    /// Takes out what waits no longer. What stands behind it has an outlook of its own.
    pub(super) fn remove(&mut self, source: &str, order: u64) -> Option<Item> {
        let lane = self.lanes.get_mut(source)?;
        let item = lane.queue.remove(&order)?;
        lane.bytes = lane.bytes.saturating_sub(item.bytes);
        let was_first = lane
            .queue
            .first_key_value()
            .is_none_or(|(first, _)| order < *first);
        let another_in_hand = matches!(lane.outlook, Outlook::InHand(at) if at != order);
        if was_first && !another_in_hand {
            lane.outlook = Outlook::Now;
        }
        self.entries -= 1;
        self.bytes = self.bytes.saturating_sub(item.bytes);
        self.forget_if_idle(source);
        Some(item)
    }

    /// Adds a dead letter; whether there are too many now is asked by [`Shelf::take_oldest_dead`].
    pub(super) fn add_dead(&mut self, item: Item) {
        self.dead_bytes += item.bytes;
        self.dead.insert(item.order, item);
    }

    /// Takes out the oldest dead letter where there are more than the bounds allow.
    pub(super) fn take_oldest_dead(&mut self, bounds: SpoolBounds) -> Option<Item> {
        let many = self.dead.len() > bounds.dead_entries || self.dead_bytes > bounds.dead_bytes;
        let oldest = *self.dead.keys().next().filter(|_| many)?;
        self.take_dead(oldest)
    }

    /// Takes out a dead letter: whoever else acts on it finds it gone.
    pub(super) fn take_dead(&mut self, order: u64) -> Option<Item> {
        let item = self.dead.remove(&order)?;
        self.dead_bytes = self.dead_bytes.saturating_sub(item.bytes);
        Some(item)
    }

    pub(super) fn forget_if_idle(&mut self, source: &str) {
        if self
            .lanes
            .get(source)
            .is_some_and(|lane| lane.queue.is_empty() && lane.arriving.is_empty())
        {
            self.lanes.remove(source);
        }
    }
}

/// What is to be added.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct More {
    pub(super) entries: usize,
    pub(super) bytes: u64,
}

impl More {
    /// This and one of so many bytes.
    pub(super) fn and(self, bytes: u64) -> Self {
        Self {
            entries: self.entries + 1,
            bytes: self.bytes + bytes,
        }
    }
}
