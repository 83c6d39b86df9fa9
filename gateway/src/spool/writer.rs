//! The thread that writes entries: what has come together is written, flushed and renamed as one.
//!
//! It alone decides whether there is room and whether a delivery is known already, so that no two of the same are kept.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Weak},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Item, KeepError, Kept, Spool,
    entry::{self, Entry, Tries},
    letter::Letter,
};
use crate::policy::SpoolBounds;

/// How many deliveries may wait to be written.
const WAITING: usize = 1024;
/// How many are written as one.
const BATCH: usize = 64;

/// One delivery to be written.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) place: u64,
    pub(super) letter: Letter,
    pub(super) tries: Tries,
    pub(super) bounds: SpoolBounds,
}

type Reply = oneshot::Sender<Result<Kept, KeepError>>;

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<(Order, Reply)>,
}

impl Writer {
    pub(super) fn new() -> (Self, mpsc::Receiver<(Order, Reply)>) {
        let (orders, incoming) = mpsc::channel(WAITING);
        (Self { orders }, incoming)
    }

    pub(super) async fn write(&self, order: Order) -> Result<Kept, KeepError> {
        let (reply, outcome) = oneshot::channel();
        self.orders
            .send((order, reply))
            .await
            .map_err(|_| KeepError::Unavailable)?;
        outcome.await.map_err(|_| KeepError::Unavailable)?
    }
}

pub(super) fn start(
    spool: Weak<Spool>,
    mut orders: mpsc::Receiver<(Order, Reply)>,
) -> io::Result<()> {
    std::thread::Builder::new()
        .name("spool-writer".into())
        .spawn(move || {
            while let Some(first) = orders.blocking_recv() {
                let mut batch = vec![first];
                while batch.len() < BATCH
                    && let Ok(next) = orders.try_recv()
                {
                    batch.push(next);
                }
                let Some(spool) = spool.upgrade() else { return };
                write_all(&spool, batch);
            }
        })
        .map(|_| ())
}

/// Writes a batch. Two of the same delivery are never in one: the second waits for what becomes of the first.
fn write_all(spool: &Arc<Spool>, batch: Vec<(Order, Reply)>) {
    let mut rest = batch;
    while !rest.is_empty() {
        let mut keys = HashSet::new();
        let (now, later): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(order, _)| {
            let head = &order.letter.head;
            !head.remember || keys.insert((head.source.clone(), head.key.clone()))
        });
        write_distinct(spool, now);
        rest = later;
    }
}

fn write_distinct(spool: &Arc<Spool>, batch: Vec<(Order, Reply)>) {
    let mut written = Vec::new();
    let (mut entries, mut bytes) = {
        let shelf = spool.shelf.lock();
        (shelf.entries, shelf.bytes)
    };
    for (order, reply) in batch {
        let head = &order.letter.head;
        if head.remember && spool.replay.knows(&head.source, &head.upstream, &head.key) {
            answer(reply, Ok(Kept::Known));
            continue;
        }
        let Order {
            place,
            letter,
            tries,
            bounds,
        } = order;
        let entry = Entry {
            head: letter.head,
            tries,
            body: letter.body,
        };
        let item = Item::of(place, &entry);
        if entries + 1 > bounds.entries || bytes + item.bytes > bounds.bytes {
            answer(reply, Err(KeepError::Full));
            continue;
        }
        let before_body = entry::encode(&entry.head, &tries, &entry.body);
        match spool.store.prepare(&item.name(), &before_body, &entry.body) {
            Ok(()) => {
                entries += 1;
                bytes += item.bytes;
                written.push((item, reply));
            }
            Err(e) => {
                tracing::error!(event = "spool_not_written", error = %e, "a delivery could not be kept: is the disk under [state] dir full or read-only?");
                answer(reply, Err(KeepError::Unavailable));
            }
        }
    }
    commit(spool, written);
}

/// Lets what was written count, all of it or none.
fn commit(spool: &Arc<Spool>, written: Vec<(Item, Reply)>) {
    if written.is_empty() {
        return;
    }
    let store = &spool.store;
    let committed = written
        .iter()
        .try_for_each(|(item, _)| store.commit(&item.name()))
        .and_then(|()| store.settle());
    let (items, replies): (Vec<Item>, Vec<Reply>) = written.into_iter().unzip();
    match committed {
        Ok(()) => {
            let ids: Vec<String> = items.iter().map(|item| item.head.id.clone()).collect();
            spool.take_in(items);
            for (id, reply) in ids.into_iter().zip(replies) {
                answer(reply, Ok(Kept::Waits(id)));
            }
        }
        Err(e) => {
            tracing::error!(event = "spool_not_written", error = %e, "deliveries could not be kept: is the disk under [state] dir full or read-only?");
            for item in &items {
                store.take_back(&item.name());
            }
            for reply in replies {
                answer(reply, Err(KeepError::Unavailable));
            }
        }
    }
}

/// Whoever asked may have gone; what was written is kept all the same.
fn answer(reply: Reply, outcome: Result<Kept, KeepError>) {
    let _ = reply.send(outcome);
}
