//! The way from a request to the writer: bounded, and never waited for.

use std::{
    io::{self, Write},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
};

use jiff::Timestamp;

use super::record::RequestRecord;

/// How many records may wait to be written: a fraction of a second of the worst flood, and about 10 MB.
pub(super) const CAPACITY: usize = 32 * 1024;

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// A record for every request.
    Access,
    /// Refusals and what an operator did.
    Audit,
    /// This program's own.
    Gateway,
}

/// How many records of what an operator did may wait, besides.
pub(super) const ACTS: usize = 1024;

/// What a record of this program's own is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of the audit log: what an operator did.
    Act,
    /// Of the audit log otherwise: what came of requests.
    Audit,
    /// Of the program's own log.
    Own,
}

/// What passes through the queue.
#[derive(Debug)]
pub(super) enum Entry {
    /// A request that has come to its end.
    Request(Box<RequestRecord>),
    /// A connection that was closed before a request was read on it.
    Connection {
        at: Timestamp,
        event: &'static str,
        client: IpAddr,
        reason: &'static str,
    },
    /// A record that has its form already.
    Line(Log, Vec<u8>),
    /// Look whether it is time to stop.
    Wake,
}

/// What passes through the queue of what an operator did.
#[derive(Debug)]
pub(super) enum Act {
    /// A record that has its form.
    Line(Vec<u8>),
    /// Look whether it is time to stop.
    Wake,
}

/// The entrance of the queue.
#[derive(Debug, Clone)]
pub struct Queue {
    sender: Option<SyncSender<Entry>>,
    acts: Option<SyncSender<Act>>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    pub(super) fn into_writers(sender: SyncSender<Entry>, acts: SyncSender<Act>) -> Self {
        Self {
            sender: Some(sender),
            acts: Some(acts),
            dropped: Arc::default(),
        }
    }

    /// A queue that leads nowhere, for a gateway that only judges.
    pub fn nowhere() -> Self {
        Self {
            sender: None,
            acts: None,
            dropped: Arc::default(),
        }
    }

    /// Whether it leads nowhere.
    pub(super) fn is_nowhere(&self) -> bool {
        self.sender.is_none()
    }

    /// How many records were dropped because the queue was full or could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn count_dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Writes down a request that has come to its end.
    pub fn request(&self, record: Box<RequestRecord>) {
        self.put(Entry::Request(record));
    }

    /// Writes down a connection that was closed at once. `reason` is a word of the source.
    pub fn connection_refused(&self, client: IpAddr, reason: &'static str) {
        self.connection("connection_refused", client, reason);
    }

    /// Writes down a TLS handshake that failed. `reason` is a word of the source.
    pub fn handshake_failed(&self, client: IpAddr, reason: &'static str) {
        self.connection("handshake_failed", client, reason);
    }

    fn connection(&self, event: &'static str, client: IpAddr, reason: &'static str) {
        self.put(Entry::Connection {
            at: Timestamp::now(),
            event,
            client,
            reason,
        });
    }

    pub(super) fn wake(&self) {
        if let Some(sender) = &self.sender {
            // A full queue has the writer awake.
            let _ = sender.try_send(Entry::Wake);
        }
        if let Some(acts) = &self.acts {
            let _ = acts.try_send(Act::Wake);
        }
    }

    /// A record of what an operator did: where its own queue is full it takes its chance with the others.
    fn put_act(&self, line: Vec<u8>) {
        let Some(acts) = &self.acts else {
            return;
        };
        match acts.try_send(Act::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(act) | TrySendError::Disconnected(act)) => {
                if let Act::Line(line) = act {
                    self.put(Entry::Line(Log::Audit, line));
                }
            }
        }
    }

    fn put(&self, entry: Entry) {
        let Some(sender) = &self.sender else {
            return;
        };
        match sender.try_send(entry) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.count_dropped(1),
        }
    }
}

/// One record of this program's own while it is given its form; put in the queue when it is complete.
#[derive(Debug)]
pub struct Line {
    queue: Queue,
    kind: Kind,
    bytes: Vec<u8>,
}

impl Line {
    pub(super) fn new(queue: Queue, kind: Kind) -> Self {
        Self {
            queue,
            kind,
            bytes: Vec::new(),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            match self.kind {
                Kind::Act => self.queue.put_act(bytes),
                Kind::Audit => self.queue.put(Entry::Line(Log::Audit, bytes)),
                Kind::Own => self.queue.put(Entry::Line(Log::Gateway, bytes)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_whole(mut line: Line, text: &[u8]) -> Line {
        let _ = line.write_all(text);
        line
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let (sender, receiver) = std::sync::mpsc::sync_channel(2);
        let (acts, acted) = std::sync::mpsc::sync_channel(1);
        let queue = Queue::into_writers(sender, acts);
        for _ in 0..5 {
            queue.connection_refused(IpAddr::from([192, 0, 2, 1]), "all");
        }
        assert_eq!(queue.dropped(), 3);
        drop(receiver);
        queue.connection_refused(IpAddr::from([192, 0, 2, 1]), "all");
        assert_eq!(queue.dropped(), 4);
        // What an operator did passes the full queue by.
        let line = |text: &[u8]| drop(write_whole(Line::new(queue.clone(), Kind::Act), text));
        line(b"one");
        assert!(matches!(acted.try_recv(), Ok(Act::Line(line)) if line == b"one"));
        line(b"two");
        line(b"three");
        assert_eq!(queue.dropped(), 5, "the third found both full");
    }
}
