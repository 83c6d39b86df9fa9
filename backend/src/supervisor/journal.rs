//! The supervisor's side of the output file: appends records, keeps to the cap, and syncs.
//!
//! Data is written at once (a reader, and a later backend, sees it) and synced after [`SYNC_BYTES`]
//! or [`SYNC_AFTER`], whichever is first, and at the end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::record::{OutputRecord, Stream};

const SYNC_BYTES: u64 = 1024 * 1024;
const SYNC_AFTER: Duration = Duration::from_millis(250);

/// Appends output. Never fails its caller: what the disk does not take is dropped and counted, like
/// what is beyond the cap, and the file stays readable.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    length: u64,
    next_seq: u64,
    room: u64,
    cap: u64,
    dropped: u64,
    remarked: bool,
    unsynced: u64,
    oldest_unsynced: Option<Instant>,
}

impl Journal {
    pub(crate) fn open(path: &Path, cap: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            length,
            next_seq: 1,
            room: cap,
            cap,
            dropped: 0,
            remarked: false,
            unsynced: 0,
            oldest_unsynced: None,
        })
    }

    /// Appends what was read from a stream, as far as there is room.
    pub(crate) fn append(&mut self, stream: Stream, bytes: &[u8]) {
        let kept = usize::try_from(self.room).map_or(bytes.len(), |room| room.min(bytes.len()));
        if kept > 0 && !self.write(stream, &bytes[..kept]) {
            self.dropped += bytes.len() as u64;
            return;
        }
        self.room -= kept as u64;
        self.dropped += (bytes.len() - kept) as u64;
        if kept < bytes.len() && !self.remarked {
            let remark = format!(
                "output cap reached: {} bytes of this attempt are kept, what follows is dropped",
                self.cap
            );
            self.remarked = self.write(Stream::System, remark.as_bytes());
        }
    }

    /// Whether nothing more is kept.
    pub(crate) fn is_full(&self) -> bool {
        self.room == 0
    }

    /// Bytes that were not kept.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// When the next sync is due, if anything is waiting for one.
    pub(crate) fn sync_due(&self) -> Option<Instant> {
        self.oldest_unsynced.map(|since| since + SYNC_AFTER)
    }

    /// Syncs if it is time.
    pub(crate) fn sync_if_due(&mut self, now: Instant) {
        if self.unsynced >= SYNC_BYTES || self.sync_due().is_some_and(|due| due <= now) {
            // A disk that cannot sync now is asked again after the next write, and once more at the
            // end.
            let _ = self.sync();
        }
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.unsynced = 0;
        self.oldest_unsynced = None;
        self.file.sync_data()
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let record = OutputRecord {
            seq: self.next_seq,
            stream,
            time: Timestamp::now(),
            bytes: bytes.to_vec(),
        };
        let mut frame = Vec::with_capacity(bytes.len() + 32);
        record.encode(&mut frame);
        if self.file.write_all(&frame).is_err() {
            // Half a record would end the reading for good: take it back.
            let _ = self.file.set_len(self.length);
            let _ = self.file.seek(SeekFrom::Start(self.length));
            return false;
        }
        let length = frame.len() as u64;
        self.length += length;
        self.unsynced += length;
        self.oldest_unsynced.get_or_insert_with(Instant::now);
        self.next_seq += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::{super::record::RecordReader, *};

    #[test]
    fn beyond_the_cap_output_is_dropped_counted_and_remarked_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut journal = Journal::open(file.path(), 5).unwrap();
        journal.append(Stream::Stdout, b"abc");
        journal.append(Stream::Stderr, b"defg");
        journal.append(Stream::Stdout, b"hi");
        assert_eq!(journal.dropped(), 4);
        let read = RecordReader::open(file.path(), 0)
            .unwrap()
            .read_batch()
            .unwrap();
        let texts: Vec<_> = read
            .iter()
            .map(|record| String::from_utf8(record.bytes.clone()).unwrap())
            .collect();
        assert_eq!(
            texts,
            [
                "abc",
                "de",
                "output cap reached: 5 bytes of this attempt are kept, what follows is dropped"
            ]
        );
        assert_eq!(read[2].stream, Stream::System);
    }
}
