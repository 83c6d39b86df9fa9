//! Output as records: a sequence number, a time, a stream, bytes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
