//! The thread that writes entries. What has come together is written, then flushed, then renamed, and counts as one.
//!
//! It alone decides whether there is room and whether a delivery is known already, so that no two of the same are kept.
//! Who asked and what the disk did are settled once: either the asker has given up, or it hears that its delivery is kept.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    KeepError, Kept, Spool,
    entry::{self, Tries},
    letter::Letter,
    shelf::{Item, More},
};
use crate::policy::SpoolBounds;

/// How many deliveries may wait to be written.
const WAITING: usize = 1024;
/// How many are written as one, and how many bytes of bodies: the first has to wait for the last.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// One delivery to be written.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) place: u64,
    pub(super) letter: Letter,
    pub(super) tries: Tries,
    pub(super) bounds: SpoolBounds,
}

/// Whoever waits for the outcome.
#[derive(Debug)]
struct Asker {
    reply: oneshot::Sender<Result<Kept, KeepError>>,
    settled: Arc<Settled>,
}

/// Whether it is settled what the asker is told.
#[derive(Debug, Default)]
struct Settled(AtomicBool);

impl Settled {
    /// Settles it; false where the other side was first.
    fn first(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Asker {
    /// One that is gone hears nothing.
    fn tell(self, outcome: Result<Kept, KeepError>) {
        let _ = self.reply.send(outcome);
    }
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<(Order, Asker)>,
}

/// The orders as the thread gets them.
#[derive(Debug)]
pub(super) struct Orders(mpsc::Receiver<(Order, Asker)>);

impl Writer {
    pub(super) fn new() -> (Self, Orders) {
        let (orders, incoming) = mpsc::channel(WAITING);
        (Self { orders }, Orders(incoming))
    }

    /// Waits for the disk until this moment. What the disk takes later is kept if its key tells a repetition of it, and taken
    /// back if not: either way it acts once.
    pub(super) async fn write(&self, order: Order, until: Instant) -> Result<Kept, KeepError> {
        let settled = Arc::new(Settled::default());
        let (reply, mut outcome) = oneshot::channel();
        let asker = Asker {
            reply,
            settled: settled.clone(),
        };
        match timeout_at(until, self.orders.send((order, asker))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(KeepError::Unavailable),
        }
        let told = match timeout_at(until, &mut outcome).await {
            Ok(told) => told,
            Err(_) if settled.first() => return Err(KeepError::Unavailable),
            // It is kept, and on its way to say so.
            Err(_) => outcome.await,
        };
        told.unwrap_or(Err(KeepError::Unavailable))
    }
}

pub(super) fn start(spool: Weak<Spool>, Orders(mut orders): Orders) -> io::Result<()> {
    std::thread::Builder::new()
        .name("spool-writer".into())
        .spawn(move || {
            while let Some(first) = orders.blocking_recv() {
                let mut bytes = first.0.letter.body.len();
                let mut batch = vec![first];
                while batch.len() < BATCH
                    && bytes < BATCH_BYTES
                    && let Ok(next) = orders.try_recv()
                {
                    bytes += next.0.letter.body.len();
                    batch.push(next);
                }
                let Some(spool) = spool.upgrade() else { return };
                write_all(&spool, batch);
            }
        })
        .map(|_| ())
}

/// Writes a batch. Two of the same delivery are never in one: the second waits for what becomes of the first.
fn write_all(spool: &Arc<Spool>, batch: Vec<(Order, Asker)>) {
    let mut rest = batch;
    while !rest.is_empty() {
        let mut keys = HashSet::new();
        let (now, later): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(order, _)| {
            let head = &order.letter.head;
            !head.remember
                || keys.insert((head.source.clone(), head.upstream.clone(), head.key.clone()))
        });
        write_distinct(spool, now);
        rest = later;
    }
}

/// One that is written and does not count yet.
struct Written {
    item: Item,
    asker: Asker,
    file: File,
}

fn write_distinct(spool: &Arc<Spool>, batch: Vec<(Order, Asker)>) {
    let mut written = Vec::new();
    let mut more = More::default();
    let mut more_of: HashMap<String, More> = HashMap::new();
    for (order, asker) in batch {
        let Order {
            place,
            letter,
            tries,
            bounds,
        } = order;
        let head = &letter.head;
        if head.remember && spool.replay.knows(&head.source, &head.upstream, &head.key) {
            asker.tell(Ok(Kept::Known));
            continue;
        }
        if !head.remember && asker.settled.is() {
            // Refused long ago, and nothing would tell its repetition from it.
            continue;
        }
        let item = Item::of(place, head, tries, letter.body.len() as u64);
        let of_source = more_of.entry(head.source.clone()).or_default();
        let (sum, sum_of_source) = (more.and(item.bytes), of_source.and(item.bytes));
        let room = spool
            .shelf
            .lock()
            .has_room(&head.source, sum, sum_of_source, bounds);
        if let Err(e) = room {
            asker.tell(Err(e));
            continue;
        }
        let before_body = entry::encode(head, &tries, &letter.body);
        match spool
            .store
            .prepare(&item.name(), &before_body, &letter.body)
        {
            Ok(file) => {
                (more, *of_source) = (sum, sum_of_source);
                written.push(Written { item, asker, file });
            }
            Err(e) => not_written(&e, asker),
        }
    }
    flush_and_commit(spool, written);
}

fn not_written(e: &io::Error, asker: Asker) {
    tracing::error!(event = "spool_not_written", error = %e, "a delivery could not be kept: is the disk under [state] dir full or read-only?");
    asker.tell(Err(KeepError::Unavailable));
}

/// Lets count what was written and what the disk has.
fn flush_and_commit(spool: &Arc<Spool>, written: Vec<Written>) {
    let store = &spool.store;
    let mut flushed = Vec::new();
    // All of them are written by now, so that the disk has them at hand together.
    for Written { item, asker, file } in written {
        let name = item.name();
        match store.flush(&file) {
            Ok(()) => flushed.push((item, asker)),
            Err(e) => {
                store.take_back(&name);
                not_written(&e, asker);
            }
        }
    }
    let mut renamed = Vec::new();
    for (item, asker) in flushed {
        match store.commit(&item.name()) {
            Ok(()) => renamed.push((item, asker)),
            Err(e) => {
                store.take_back(&item.name());
                not_written(&e, asker);
            }
        }
    }
    if renamed.is_empty() {
        return;
    }
    if let Err(e) = store.settle() {
        for (item, asker) in renamed {
            store.take_back(&item.name());
            not_written(&e, asker);
        }
        return;
    }
    for (item, asker) in renamed {
        take_in(spool, item, asker);
    }
}

/// The disk has it. Whoever asked hears so, or has given up and been refused.
fn take_in(spool: &Arc<Spool>, item: Item, asker: Asker) {
    let in_time = asker.settled.first();
    let (id, name) = (item.head.id.clone(), item.name());
    if !in_time && !item.head.remember {
        spool.store.take_back(&name);
        return;
    }
    if !in_time {
        tracing::warn!(
            event = "spooled_late",
            source = item.head.source,
            id,
            request_id = item.head.request_id,
            "the disk took a delivery after its sender was answered 503: it is handed over all the same, and a repetition is known"
        );
    }
    if spool.take_in(item) {
        asker.tell(Ok(Kept::Waits(id)));
    } else {
        spool.store.take_back(&name);
        asker.tell(Ok(Kept::Known));
    }
}
