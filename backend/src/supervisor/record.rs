//! Output as records: a sequence number, a time, a stream, bytes.
//!
//! On disk a record is a head of 28 bytes (little endian: payload length, CRC-32 of all that
//! follows, sequence number, microseconds since 1970, stream) and its payload. A tail that is too
//! short, does not match its sum or is out of sequence is torn: everything before it counts, it
//! does not.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::files::open_regular;

/// The largest payload of one record.
pub(crate) const PAYLOAD_MAX: usize = 64 * 1024;
const HEAD: usize = 28;
/// Bytes taken from the file at once.
const BATCH: u64 = 4 * (PAYLOAD_MAX + HEAD) as u64;

/// Which of a command's streams a record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The supervisor's own remarks (output dropped beyond the cap).
    System,
}

impl Stream {
    /// The name used in answers and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::System => 3,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::System),
            _ => None,
        }
    }
}

/// A piece of output as it was read. Boundaries are those of the reads, not of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord {
    /// Counts from 1 without gaps within an attempt.
    pub seq: u64,
    /// Where it came from.
    pub stream: Stream,
    /// When it was read.
    pub time: Timestamp,
    /// Exactly what was written, valid UTF-8 or not.
    pub bytes: Vec<u8>,
}

impl OutputRecord {
    /// Appends the record as it stands on disk. The payload is at most [`PAYLOAD_MAX`] bytes.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        debug_assert!(
            self.bytes.len() <= PAYLOAD_MAX,
            "the journal cuts its reads"
        );
        let start = to.len();
        to.extend_from_slice(
            &u32::try_from(self.bytes.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        to.extend_from_slice(&[0; 4]);
        to.extend_from_slice(&self.seq.to_le_bytes());
        to.extend_from_slice(&self.time.as_microsecond().to_le_bytes());
        to.extend_from_slice(&self.stream.code().to_le_bytes());
        to.extend_from_slice(&self.bytes);
        let sum = crc32fast::hash(&to[start + 8..]);
        to[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    }

    /// The first record of `from` and how many bytes it takes; `None` when it is incomplete or
    /// torn.
    fn decode(from: &[u8]) -> Option<(Self, usize)> {
        let word = |at: usize| Some(u32::from_le_bytes(from.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(from.get(at..at + 8)?.try_into().ok()?));
        let length = usize::try_from(word(0)?)
            .ok()
            .filter(|length| *length <= PAYLOAD_MAX)?;
        let summed = from.get(8..HEAD + length)?;
        if crc32fast::hash(summed) != word(4)? {
            return None;
        }
        let record = Self {
            seq: long(8)?,
            time: Timestamp::from_microsecond(long(16)?.cast_signed()).ok()?,
            stream: Stream::from_code(word(24)?)?,
            bytes: from[HEAD..HEAD + length].to_vec(),
        };
        Some((record, HEAD + length))
    }
}

/// Reads records in sequence from a file that may still grow.
#[derive(Debug)]
pub struct RecordReader {
    file: File,
    pending: Vec<u8>,
    next_seq: u64,
    after_seq: u64,
}

impl RecordReader {
    /// A reader of the records behind `after_seq` (0: all of them; the largest number: none).
    pub(crate) fn open(path: &Path, after_seq: u64) -> io::Result<Self> {
        let file = open_regular(path)?;
        Ok(Self {
            file,
            pending: Vec::new(),
            next_seq: 1,
            after_seq,
        })
    }

    /// A reader of output that is not there any more: it never finds a record.
    pub(crate) fn nothing() -> io::Result<Self> {
        Ok(Self {
            file: File::open("/dev/null")?,
            pending: Vec::new(),
            next_seq: 1,
            after_seq: u64::MAX,
        })
    }

    /// The records that are complete by now, about 256 KiB at most; empty when there is nothing
    /// new.
    pub fn read_batch(&mut self) -> io::Result<Vec<OutputRecord>> {
        if self.after_seq == u64::MAX {
            return Ok(Vec::new());
        }
        loop {
            if self.pending.len() >= HEAD + PAYLOAD_MAX {
                // A whole record's room and still none to be had: the file is damaged here, nothing
                // behind it counts.
                return Ok(Vec::new());
            }
            let read = (&mut self.file)
                .take(BATCH)
                .read_to_end(&mut self.pending)?;
            let mut batch = Vec::new();
            let mut used = 0;
            while let Some((record, length)) = OutputRecord::decode(&self.pending[used..]) {
                if record.seq != self.next_seq {
                    break;
                }
                used += length;
                self.next_seq += 1;
                if record.seq > self.after_seq {
                    batch.push(record);
                }
            }
            self.pending.drain(..used);
            // Skipped records alone are no reason to say "nothing new".
            if !batch.is_empty() || used == 0 || read == 0 {
                return Ok(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn record(seq: u64, bytes: &[u8]) -> OutputRecord {
        let stream = if seq.is_multiple_of(2) {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        OutputRecord {
            seq,
            stream,
            time: Timestamp::from_microsecond(1_700_000_000_000_001).unwrap(),
            bytes: bytes.to_vec(),
        }
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_torn_tail_is_left_out_whatever_its_length() {
        let mut bytes = Vec::new();
        record(1, b"one").encode(&mut bytes);
        let whole = bytes.len();
        record(2, b"\xff\xfe two").encode(&mut bytes);
        for cut in whole..bytes.len() {
            let file = file(&bytes[..cut]);
            let mut reader = RecordReader::open(file.path(), 0).unwrap();
            assert_eq!(
                reader.read_batch().unwrap(),
                [record(1, b"one")],
                "cut at {cut}"
            );
            assert!(reader.read_batch().unwrap().is_empty());
        }
    }

    #[test]
    fn a_record_completed_later_is_read_then() {
        let mut bytes = Vec::new();
        record(1, b"one").encode(&mut bytes);
        let mut file = file(&bytes[..10]);
        let mut reader = RecordReader::open(file.path(), 0).unwrap();
        assert!(reader.read_batch().unwrap().is_empty());
        file.write_all(&bytes[10..]).unwrap();
        assert_eq!(reader.read_batch().unwrap(), [record(1, b"one")]);
    }

    #[test]
    fn reading_resumes_behind_a_sequence_number() {
        let mut bytes = Vec::new();
        let all: Vec<_> = (1..=5000).map(|seq| record(seq, &[7; 900])).collect();
        for record in &all {
            record.encode(&mut bytes);
        }
        let file = file(&bytes);
        let mut reader = RecordReader::open(file.path(), 4321).unwrap();
        let mut read = Vec::new();
        loop {
            let batch = reader.read_batch().unwrap();
            if batch.is_empty() {
                break;
            }
            read.extend(batch);
        }
        assert_eq!(read, all[4321..]);
    }

    #[test]
    fn a_gap_or_a_repetition_ends_the_reading() {
        for second in [1, 3] {
            let mut bytes = Vec::new();
            record(1, b"one").encode(&mut bytes);
            record(second, b"wrong").encode(&mut bytes);
            let file = file(&bytes);
            let mut reader = RecordReader::open(file.path(), 0).unwrap();
            assert_eq!(reader.read_batch().unwrap().len(), 1);
            assert!(reader.read_batch().unwrap().is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_payload_survives_and_any_flipped_bit_is_seen(
            payload in proptest::collection::vec(any::<u8>(), 0..2000), flip in any::<prop::sample::Index>(), bit in 0u8..8
        ) {
            let mut bytes = Vec::new();
            let original = record(1, &payload);
            original.encode(&mut bytes);
            prop_assert_eq!(OutputRecord::decode(&bytes), Some((original, bytes.len())));
            let at = flip.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(OutputRecord::decode(&bytes), None);
        }
    }
}
