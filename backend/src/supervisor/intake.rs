//! Takes in what a command writes: out of its pipes, into the journal, and tells the backend.
//!
//! Every read is a record, and later a row of the backend's store, so reads are [paced](Pace), whatever
//! they bring. Who writes a little at a time is never waited for. Who writes without end is read from at
//! 8 MiB in a second: its pipe fills, and the command waits. It is so beyond the cap as well, where no
//! disk slows anybody.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{
    journal::Journal,
    record::{PAYLOAD_MAX, Stream},
};

/// Reads at once, before they are paced: as many as the default cap holds.
const BURST: u32 = 256;
/// One read after the other, then.
const PERIOD: Duration = Duration::from_nanos(1_000_000_000 / 128);
/// The backend is told of new output no more often than this,
const TELL_PERIOD: Duration = Duration::from_millis(20);
/// and of output that is dropped no more often than this: then it only has to know that the command is
/// not silent.
pub(crate) const TELL_PERIOD_DROPPING: Duration = Duration::from_millis(250);

/// When the next reads are due.
#[derive(Debug)]
struct Pace {
    /// When all reads so far would have been due, one [`PERIOD`] after the other.
    paid: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// When so many reads at once are due.
    fn due(&self, reads: u32) -> Instant {
        let ahead = PERIOD * BURST.saturating_sub(reads);
        self.paid.checked_sub(ahead).unwrap_or(self.paid)
    }

    fn count(&mut self, now: Instant) {
        self.paid = self.paid.max(now) + PERIOD;
    }
}

/// The pipes of a command, and what becomes of what is in them.
#[derive(Debug)]
pub(crate) struct Intake {
    streams: Vec<(Stream, File)>,
    journal: Journal,
    buffer: Vec<u8>,
    pace: Pace,
    /// There is something that the backend was not told of.
    news: bool,
    told: Option<Instant>,
}

impl Intake {
    /// `pipes` never make a read wait.
    pub(crate) fn new(pipes: Vec<(Stream, OwnedFd)>, journal: Journal) -> Self {
        let files = pipes.into_iter().map(|(of, pipe)| (of, File::from(pipe)));
        Self {
            streams: files.collect(),
            journal,
            buffer: vec![0; PAYLOAD_MAX],
            pace: Pace::new(Instant::now()),
            news: false,
            told: None,
        }
    }

    /// The pipes to wait for now.
    pub(crate) fn sources(&self, now: Instant) -> impl Iterator<Item = BorrowedFd<'_>> {
        let awaited = if self.reads_due() <= now {
            &self.streams[..]
        } else {
            &[]
        };
        awaited.iter().map(|(_, pipe)| pipe.as_fd())
    }

    /// When there is something to do even if nothing happens.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let reads = Some(self.reads_due()).filter(|due| *due > now && !self.streams.is_empty());
        let tell = self.news.then(|| self.tell_due()).flatten();
        [reads, tell, self.journal.sync_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due: takes one piece from each stream that has any, syncs, and tells with `tell`.
    pub(crate) fn attend(&mut self, now: Instant, tell: impl FnOnce()) {
        if self.reads_due() <= now {
            self.read(now);
        }
        self.journal.sync_if_due(now);
        if self.news && self.tell_due().is_none_or(|due| due <= now) {
            self.news = false;
            self.told = Some(now);
            tell();
        }
    }

    /// Takes what is left in the pipes now that everybody is gone who could write. No end of file is
    /// waited for, and no more is taken: somebody outside the tree may hold a pipe that was passed on.
    pub(crate) fn finish(&mut self) {
        let (journal, buffer) = (&mut self.journal, &mut self.buffer);
        for (stream, pipe) in &mut self.streams {
            let mut left = rustix::io::ioctl_fionread(&*pipe).unwrap_or(0);
            while left > 0 {
                let wanted = buffer
                    .len()
                    .min(usize::try_from(left).unwrap_or(usize::MAX));
                match pipe.read(&mut buffer[..wanted]) {
                    Ok(length @ 1..) => {
                        journal.append(*stream, &buffer[..length]);
                        left = left.saturating_sub(length as u64);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(_) | Err(_) => break,
                }
            }
        }
        let _ = self.journal.sync();
    }

    /// Bytes that were not kept.
    pub(crate) fn dropped(&self) -> u64 {
        self.journal.dropped()
    }

    /// When every stream can be read from: both at once, or one would keep the other waiting.
    fn reads_due(&self) -> Instant {
        self.pace
            .due(u32::try_from(self.streams.len()).unwrap_or(BURST))
    }

    fn tell_due(&self) -> Option<Instant> {
        let period = if self.journal.is_full() {
            TELL_PERIOD_DROPPING
        } else {
            TELL_PERIOD
        };
        self.told.map(|told| told + period)
    }

    fn read(&mut self, now: Instant) {
        let (journal, buffer) = (&mut self.journal, &mut self.buffer);
        let (pace, news) = (&mut self.pace, &mut self.news);
        self.streams
            .retain_mut(|(stream, pipe)| match pipe.read(buffer) {
                Ok(0) => false,
                Ok(length) => {
                    journal.append(*stream, &buffer[..length]);
                    pace.count(now);
                    *news = true;
                    true
                }
                Err(error) => matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ),
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many reads are made until `end` by somebody who always has something to read.
    fn reads(pace: &mut Pace, from: Instant, end: Instant) -> u32 {
        let (mut now, mut count) = (from, 0);
        loop {
            now = now.max(pace.due(1));
            if now >= end {
                return count;
            }
            pace.count(now);
            count += 1;
        }
    }

    #[test]
    fn a_flood_is_read_in_a_burst_and_then_one_after_the_other() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let second = Duration::from_secs(1);
        let first = reads(&mut pace, start, start + second);
        assert!((BURST..=BURST + 129).contains(&first), "{first} reads");
        let next = reads(&mut pace, start + second, start + second * 2);
        assert!((127..=129).contains(&next), "{next} reads");
        // A minute of silence is a burst, not a minute's reads.
        let later = start + second * 62;
        let again = reads(&mut pace, later, later + second);
        assert!((BURST..=BURST + 129).contains(&again), "{again} reads");
    }

    #[test]
    fn who_writes_little_is_never_waited_for() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for n in 0..10_000 {
            let now = start + Duration::from_millis(8) * n;
            assert!(pace.due(2) <= now, "read {n}");
            pace.count(now);
        }
    }
}
