//! How an attempt ended.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Why it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The command ended by itself with this code.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// The command was ended by a signal that was not ours.
    Signaled {
        /// The signal's number.
        signal: i32,
    },
    /// The timeout passed and the tree was ended.
    TimedOut,
    /// A cancel was asked for and the tree was ended.
    Canceled,
    /// The supervisor was told to stop by somebody else than the backend (a machine shutting down);
    /// the tree was ended.
    Interrupted,
    /// No such command.
    CommandNotFound {
        /// What was looked for.
        detail: String,
    },
    /// The command exists and could not be started (not executable, no such working directory, …).
    LaunchFailed {
        /// What the system said.
        detail: String,
    },
    /// The supervisor died without writing an exit (killed, or the machine went down). What was
    /// left of its tree has been ended.
    Lost {
        /// What is known.
        detail: String,
    },
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Why it ended.
    pub outcome: Outcome,
    /// CPU time of the whole tree (user and system), milliseconds; 0 when unknown.
    pub cpu_ms: u64,
    /// Largest resident memory of any one process of the tree; 0 when unknown. The launcher that
    /// becomes the command is counted, so a few megabytes are the least there can be.
    pub memory_peak_bytes: u64,
    /// Bytes of output dropped beyond the cap.
    pub dropped_bytes: u64,
    /// When the last process was seen gone.
    pub ended_at: Timestamp,
}

impl Exit {
    /// An end at this moment, of which nothing was measured.
    pub fn now(outcome: Outcome) -> Self {
        Self {
            outcome,
            cpu_ms: 0,
            memory_peak_bytes: 0,
            dropped_bytes: 0,
            ended_at: Timestamp::now(),
        }
    }
}
