//! What the hand-over reads from the books and writes into them.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::Notify;

use super::{
    super::{
        Spool,
        courier::Setback,
        done_before,
        entry::{Charged, Tries, Why},
        labels_of,
        shelf::{Charge, Item, Outlook},
        store::Place,
    },
    now_ms,
};
use crate::policy::SpoolBounds;

/// The first of a lane.
pub(super) enum First {
    /// Nothing waits.
    None,
    /// One that arrived earlier is still being tried or written.
    Arriving,
    /// This one.
    Item(Item),
}

/// How it has fared after one more try.
pub(super) fn tried(tries: Tries, status: u16) -> Tries {
    Tries {
        attempts: tries.attempts.saturating_add(1),
        status,
        last_ms: now_ms(),
        ..tries
    }
}

impl Spool {
    pub(super) fn sources(&self) -> Vec<Arc<str>> {
        let shelf = self.shelf.lock();
        shelf
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.queue.is_empty())
            .map(|(source, _)| source.clone())
            .collect()
    }

    pub(super) fn first(&self, source: &str) -> First {
        let shelf = self.shelf.lock();
        let Some(lane) = shelf.lanes.get(source) else {
            return First::None;
        };
        match (lane.queue.first_key_value(), lane.arriving.first()) {
            (None, _) => First::None,
            (Some((order, _)), Some(arriving)) if arriving < order => First::Arriving,
            (Some((_, item)), _) => First::Item(item.clone()),
        }
    }

    /// What of a lane is being handed over, or comes next.
    fn in_hand(&self, source: &str) -> Option<Item> {
        let shelf = self.shelf.lock();
        let lane = shelf.lanes.get(source)?;
        let item = match lane.outlook {
            Outlook::InHand(order) => lane.queue.get(&order),
            Outlook::Now | Outlook::Again(_) | Outlook::Blocked(_) => lane.queue.values().next(),
        };
        item.cloned()
    }

    pub(super) fn settled(&self, source: &str) -> Option<Arc<Notify>> {
        Some(self.shelf.lock().lanes.get(source)?.settled.clone())
    }

    /// What wakes a lane, which listens to an upstream from now on.
    pub(super) fn wake(&self, source: &str, listens_to: Option<String>) -> Option<Arc<Notify>> {
        let mut shelf = self.shelf.lock();
        let lane = shelf.lanes.get_mut(source)?;
        if listens_to.is_some() {
            self.listening.fetch_add(1, Ordering::Relaxed);
        }
        lane.listens_to = listens_to;
        Some(lane.wake.clone())
    }

    pub(super) fn stop_listening(&self, source: &str) {
        if let Some(lane) = self.shelf.lock().lanes.get_mut(source) {
            lane.listens_to = None;
        }
    }

    pub(super) fn look(&self, source: &str, outlook: Outlook) {
        if let Some(lane) = self.shelf.lock().lanes.get_mut(source) {
            lane.outlook = outlook;
        }
    }

    /// The first of a lane is being handed over from now on; false where it is not there any more.
    pub(super) fn take_in_hand(&self, item: &Item) -> bool {
        let mut shelf = self.shelf.lock();
        let Some(lane) = shelf.lanes.get_mut(item.head.source.as_str()) else {
            return false;
        };
        let is_first = lane
            .queue
            .first_key_value()
            .is_some_and(|(order, _)| *order == item.order);
        if is_first {
            lane.outlook = Outlook::InHand(item.order);
        }
        is_first
    }

    /// A fault ended the hand-over of the first of a lane, which is tried again at this time. Its id.
    pub(super) fn faulted(&self, source: &str, again_at: i64) -> Option<String> {
        let item = self.in_hand(source)?;
        self.look(source, Outlook::Again(again_at));
        let tries = Tries {
            why: Why::Fault,
            ..tried(item.tries, 0)
        };
        self.rewrite(&item, tries);
        Some(item.head.id.clone())
    }

    /// Whether the budget was charged for this delivery, or for a later one that gives its charge to it. On the disk as well, for a
    /// restart; where the disk does not take it, the restart charges once too often or too seldom.
    pub(super) fn is_charged(&self, item: &Item) -> bool {
        let charge = self.shelf.lock().charge_of(&item.head.source, item.order);
        match charge {
            Charge::Paid => true,
            Charge::Due => false,
            Charge::GivenBy(giver) => {
                let _ = self.store.note(Place::Waiting, &giver.name(), &giver.tries);
                self.charged(item);
                true
            }
        }
    }

    pub(super) fn charged(&self, item: &Item) {
        self.rewrite(
            item,
            Tries {
                charged: Charged::Yes,
                ..item.tries
            },
        );
    }

    /// It was sent and not taken.
    pub(super) fn set_back(&self, item: &Item, setback: Setback) {
        let tries = Tries {
            why: setback.why,
            ..tried(item.tries, setback.status)
        };
        self.rewrite(item, tries);
    }

    /// It was not sent.
    pub(super) fn held_back(&self, item: &Item, why: Why) {
        self.rewrite(item, Tries { why, ..item.tries });
    }

    /// In the books, and on the disk where it takes it.
    fn rewrite(&self, item: &Item, tries: Tries) {
        let mut shelf = self.shelf.lock();
        let Some(kept) = shelf
            .lanes
            .get_mut(item.head.source.as_str())
            .and_then(|lane| lane.queue.get_mut(&item.order))
        else {
            return;
        };
        // Charged is charged, whoever writes.
        let charged = match kept.tries.charged {
            Charged::Yes => Charged::Yes,
            Charged::No => tries.charged,
        };
        kept.tries = Tries { charged, ..tries };
        let kept = kept.clone();
        drop(shelf);
        // How often it was tried may be forgotten.
        let _ = self.store.note(Place::Waiting, &kept.name(), &kept.tries);
    }

    /// It is done: known as such before it is gone from the disk.
    pub(super) fn finish(&self, item: &Item, status: u16) {
        self.done(&item.head);
        self.take_out(&item.head.source, item.order);
        self.remove(item);
        self.metrics
            .spool_handed_over
            .inc(&labels_of(&item.head.source));
        tracing::info!(
            event = "handed_over",
            source = item.head.source,
            id = item.head.id,
            request_id = item.head.request_id,
            status,
            attempts = item.tries.attempts.saturating_add(1),
            "a delivery of the spool was handed over"
        );
    }

    /// It has failed for good: kept aside, and the oldest of those make room, loudly.
    pub(in crate::spool) fn bury(
        &self,
        item: &Item,
        tries: Tries,
        bounds: SpoolBounds,
    ) -> std::io::Result<()> {
        self.store.bury(&item.name(), &tries)?;
        self.take_out(&item.head.source, item.order);
        self.metrics.spool_failed.inc(&labels_of(&item.head.source));
        tracing::warn!(
            target: "audit",
            event = "dead_letter",
            source = item.head.source,
            id = item.head.id,
            request_id = item.head.request_id,
            why = tries.why.word(),
            status = tries.status,
            "a delivery failed for good and is kept aside: orket-gateway spool list --dead"
        );
        self.shelf.lock().add_dead(Item {
            tries,
            ..item.clone()
        });
        loop {
            let oldest = self.shelf.lock().take_oldest_dead(bounds);
            let Some(oldest) = oldest else { break };
            self.metrics
                .spool_dead_dropped
                .inc(&labels_of(&oldest.head.source));
            let removed = self.store.remove(Place::Dead, &oldest.name());
            tracing::warn!(
                target: "audit",
                event = "dead_letter_dropped",
                source = oldest.head.source,
                id = oldest.head.id,
                request_id = oldest.head.request_id,
                removed = removed.is_ok(),
                "there are more dead letters than [spool] allows: the oldest is gone"
            );
        }
        Ok(())
    }

    /// Keeps aside what cannot be read.
    pub(super) fn set_aside(&self, item: &Item, why: &str) {
        let moved = self.store.set_aside(Place::Waiting, &item.name(), why);
        self.take_out(&item.head.source, item.order);
        match moved {
            Ok(()) => self.shelf.lock().unreadable += 1,
            Err(e) => {
                tracing::error!(target: "audit", event = "spool_unreadable", id = item.head.id, why, error = %e, "an entry of the spool cannot be read, nor moved");
            }
        }
    }

    /// Its file is gone, by nobody's order.
    pub(super) fn file_is_gone(&self, item: &Item) {
        self.take_out(&item.head.source, item.order);
        tracing::error!(
            target: "audit",
            event = "spool_lost",
            source = item.head.source,
            id = item.head.id,
            request_id = item.head.request_id,
            "the file of a delivery that waits is gone from the spool: redeliver it from its sender"
        );
    }

    /// It is known to be done: nothing is sent.
    pub(super) fn forget_done(&self, item: &Item) {
        done_before(&item.head);
        self.take_out(&item.head.source, item.order);
        self.remove(item);
    }

    fn remove(&self, item: &Item) {
        if let Err(e) = self.store.remove(Place::Waiting, &item.name()) {
            tracing::warn!(event = "spool_not_removed", error = %e, id = item.head.id, "a delivery that is done cannot be removed from the disk; after a restart it is sent again, under the same key");
        }
    }
}
