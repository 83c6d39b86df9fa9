//! The memory of done deliveries on disk: an append-only log of marks, each with its checksum.
//!
//! Forgetting is safe, a false memory is not: what does not check out is left out, a torn end is cut off, and
//! nothing is waited for. A thread of its own writes what has come together; what it cannot keep up with, or
//! cannot write, is remembered by the process alone.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use rustix::fs::{fsync, ftruncate};

use super::Mark;
use crate::state::StateDir;

const LOG: &str = "replay.log";
const NEW: &str = "replay.log.new";
const UNREADABLE: &str = "replay.log.unreadable";
/// What the log begins with: its kind and version.
const MAGIC: &[u8; 8] = b"orkdone1";
/// A mark and its CRC-32.
const RECORD: usize = 36;
/// How many marks may wait to be written.
const WAITING: usize = 65_536;
/// How many marks are written at once.
const BATCH: usize = 4096;
/// How long they are gathered while they keep coming: who notes one while the writer sleeps on the clock pays no
/// system call to wake it. A kill takes what was gathered, as it takes what the system has not written yet.
const GATHER: Duration = Duration::from_millis(4);
/// How long a stop waits for the last of them.
const FLUSH: Duration = Duration::from_secs(2);

enum Note {
    Done(Mark),
    /// Write everything to the disk, then say so.
    Flush(SyncSender<()>),
}

/// The log's writing end.
#[derive(Debug)]
pub(super) struct Journal {
    notes: SyncSender<Note>,
    lost: Arc<AtomicU64>,
}

impl Journal {
    /// Opens the log: the last `capacity` marks it holds, and the journal that goes on with it.
    pub(super) fn open(state: &Arc<StateDir>, capacity: usize) -> io::Result<(Vec<Mark>, Self)> {
        let log = Log::open(state, capacity)?;
        let marks = log.marks()?;
        let (notes, incoming) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        std::thread::Builder::new()
            .name("replay-journal".into())
            .spawn(move || write_all(log, &incoming, &counter))?;
        Ok((marks, Self { notes, lost }))
    }

    /// Notes a mark. Never waits: where too many wait already, this one is not kept.
    pub(super) fn note(&self, mark: Mark) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.notes.try_send(Note::Done(mark))
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many marks were not written.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits, not for long, until all that was noted is on the disk.
    pub(super) fn flush(&self) {
        let (done, flushed) = sync_channel(1);
        if self.notes.try_send(Note::Flush(done)).is_ok() && flushed.recv_timeout(FLUSH).is_err() {
            tracing::warn!(
                event = "replay_not_flushed",
                "the disk did not take the memory of done deliveries in time; the backend settles what is forgotten"
            );
        }
    }
}

fn write_all(mut log: Log, incoming: &Receiver<Note>, lost: &AtomicU64) {
    let mut told = false;
    while let Ok(first) = incoming.recv() {
        let mut batch = Vec::new();
        let mut flushes = Vec::new();
        let mut next = Some(first);
        while let Some(note) = next {
            match note {
                Note::Done(mark) => batch.push(mark),
                Note::Flush(done) => flushes.push(done),
            }
            next = (batch.len() < BATCH)
                .then(|| incoming.try_recv().ok())
                .flatten();
        }
        let sync = if flushes.is_empty() {
            Sync::Later
        } else {
            Sync::Now
        };
        match log.append(&batch, sync) {
            Ok(()) => told = false,
            Err(e) => {
                lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
                if !told {
                    tracing::warn!(event = "replay_not_written", error = %e, "done deliveries are remembered in memory only: mend the disk under [state] dir");
                }
                told = true;
            }
        }
        if flushes.is_empty() {
            std::thread::sleep(GATHER);
        }
        for done in flushes {
            let _ = done.try_send(());
        }
    }
}

/// Whether the disk is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    Now,
    Later,
}

/// The log's file.
#[derive(Debug)]
struct Log {
    state: Arc<StateDir>,
    file: File,
    /// Whole records, as far as they were written without a fault.
    records: usize,
    capacity: usize,
}

impl Log {
    fn open(state: &Arc<StateDir>, capacity: usize) -> io::Result<Self> {
        let dir = state.directory();
        dir.remove(NEW)?;
        let opened = dir.append_to(LOG).and_then(|file| {
            let bytes = dir.read(LOG, limit(capacity))?;
            if bytes.starts_with(MAGIC) || MAGIC.starts_with(&bytes) {
                Ok((file, bytes))
            } else {
                Err(io::Error::other("it is not one"))
            }
        });
        let (file, bytes) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                dir.rename(LOG, dir, UNREADABLE)?;
                tracing::error!(event = "replay_unreadable", error = %e, "the log of done deliveries cannot be used; it is set aside as {UNREADABLE} and a new one is begun");
                (dir.append_to(LOG)?, Vec::new())
            }
        };
        let mut log = Self {
            file,
            records: 0,
            capacity,
            state: state.clone(),
        };
        if bytes.len() < MAGIC.len() {
            ftruncate(&log.file, 0)?;
            log.file.write_all(MAGIC)?;
            return Ok(log);
        }
        let (marks, left_out) = decode(bytes.get(MAGIC.len()..).unwrap_or_default());
        if left_out > 0 {
            tracing::warn!(
                event = "replay_damaged",
                left_out,
                "some records of done deliveries do not check out and are forgotten; the backend settles them"
            );
        }
        log.records = marks.len();
        log.cut()?;
        if left_out > 0 || marks.len() > capacity {
            log.compact(&marks)?;
        }
        Ok(log)
    }

    /// The last marks, oldest first.
    fn marks(&self) -> io::Result<Vec<Mark>> {
        let bytes = self.state.directory().read(LOG, limit(self.capacity))?;
        let (marks, _) = decode(bytes.get(MAGIC.len()..).unwrap_or_default());
        let from = marks.len().saturating_sub(self.capacity);
        Ok(marks.get(from..).unwrap_or_default().to_vec())
    }

    fn append(&mut self, marks: &[Mark], sync: Sync) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(marks.len() * RECORD);
        for mark in marks {
            encode(mark, &mut bytes);
        }
        if let Err(e) = self.file.write_all(&bytes) {
            // Half a record would make nonsense of all that follow.
            self.cut()?;
            return Err(e);
        }
        self.records += marks.len();
        if self.records > self.capacity * 2 {
            let marks = self.marks()?;
            self.compact(&marks)?;
        }
        if sync == Sync::Now {
            fsync(&self.file)?;
        }
        Ok(())
    }

    /// Cuts off what is behind the last whole record.
    fn cut(&self) -> io::Result<()> {
        Ok(ftruncate(
            &self.file,
            (MAGIC.len() + self.records * RECORD) as u64,
        )?)
    }

    /// Puts a log of these marks in place of this one.
    fn compact(&mut self, marks: &[Mark]) -> io::Result<()> {
        let from = marks.len().saturating_sub(self.capacity);
        let marks = marks.get(from..).unwrap_or_default();
        let mut bytes = Vec::with_capacity(MAGIC.len() + marks.len() * RECORD);
        bytes.extend_from_slice(MAGIC);
        for mark in marks {
            encode(mark, &mut bytes);
        }
        let dir = self.state.directory();
        dir.remove(NEW)?;
        dir.create(NEW, &[&bytes])?;
        dir.rename(NEW, dir, LOG)?;
        dir.sync()?;
        self.file = dir.append_to(LOG)?;
        self.records = marks.len();
        Ok(())
    }
}

/// The largest log there can be: it is compacted at twice the capacity, and a batch may go beyond.
fn limit(capacity: usize) -> u64 {
    (MAGIC.len() + (capacity * 2 + 2 * BATCH) * RECORD) as u64
}

fn encode(mark: &Mark, out: &mut Vec<u8>) {
    out.extend_from_slice(mark);
    out.extend_from_slice(&crc32fast::hash(mark).to_le_bytes());
}

/// The marks that check out, and how many records do not. A torn end is no record.
fn decode(bytes: &[u8]) -> (Vec<Mark>, usize) {
    let mut marks = Vec::with_capacity(bytes.len() / RECORD);
    let mut left_out = 0;
    for record in bytes.chunks_exact(RECORD) {
        match record.split_first_chunk::<32>() {
            Some((mark, sum)) if crc32fast::hash(mark).to_le_bytes() == *sum => marks.push(*mark),
            Some(_) | None => left_out += 1,
        }
    }
    (marks, left_out)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, Arc<StateDir>) {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::open(&dir.path().join("state")).unwrap());
        (dir, state)
    }

    fn mark(n: u32) -> Mark {
        let mut mark = [7; 32];
        mark[..4].copy_from_slice(&n.to_le_bytes());
        mark
    }

    fn marks(range: std::ops::Range<u32>) -> Vec<Mark> {
        range.map(mark).collect()
    }

    #[test]
    fn what_was_written_is_read_again_and_a_torn_end_is_cut() {
        let (dir, state) = state();
        let mut log = Log::open(&state, 100).unwrap();
        log.append(&marks(0..10), Sync::Now).unwrap();
        let file = dir.path().join("state").join(LOG);
        let whole = std::fs::read(&file).unwrap();
        for torn in 1..RECORD {
            std::fs::write(&file, &whole[..whole.len() - torn]).unwrap();
            let mut log = Log::open(&state, 100).unwrap();
            assert_eq!(log.marks().unwrap(), marks(0..9), "{torn}");
            log.append(&[mark(77)], Sync::Later).unwrap();
            let log = Log::open(&state, 100).unwrap();
            assert_eq!(log.marks().unwrap().last(), Some(&mark(77)), "{torn}");
        }
    }

    #[test]
    fn a_damaged_record_is_forgotten_and_never_taken_for_another() {
        let (dir, state) = state();
        Log::open(&state, 100)
            .unwrap()
            .append(&marks(0..5), Sync::Now)
            .unwrap();
        let file = dir.path().join("state").join(LOG);
        let whole = std::fs::read(&file).unwrap();
        for at in MAGIC.len()..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&file, &bytes).unwrap();
            let log = Log::open(&state, 100).unwrap();
            let kept = log.marks().unwrap();
            assert_eq!(kept.len(), 4, "{at}");
            assert!(kept.iter().all(|m| marks(0..5).contains(m)), "{at}");
        }
    }

    #[test]
    fn it_is_compacted_to_the_newest() {
        let (dir, state) = state();
        let mut log = Log::open(&state, 10).unwrap();
        for n in 0..1000 {
            log.append(&[mark(n)], Sync::Later).unwrap();
        }
        let size = std::fs::metadata(dir.path().join("state").join(LOG))
            .unwrap()
            .len();
        assert!(size <= (MAGIC.len() + 21 * RECORD) as u64, "{size}");
        let log = Log::open(&state, 10).unwrap();
        assert_eq!(log.marks().unwrap(), marks(990..1000));
    }

    #[test]
    fn what_is_no_log_is_set_aside() {
        let (dir, state) = state();
        Log::open(&state, 10).unwrap();
        let file = dir.path().join("state").join(LOG);
        std::fs::write(&file, "something else, and long enough").unwrap();
        let log = Log::open(&state, 10).unwrap();
        assert!(log.marks().unwrap().is_empty());
        assert!(dir.path().join("state").join(UNREADABLE).exists());
        assert_eq!(std::fs::read(&file).unwrap(), MAGIC);
    }

    #[test]
    fn all_bytes_zero_are_no_record() {
        assert_eq!(decode(&[0; RECORD * 3]), (Vec::new(), 3));
    }
}
