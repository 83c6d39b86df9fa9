//! One attempt as its owner sees it.

use std::io;

use rustix::process::Signal;

use super::{Identity, Isolation, Updates};
use crate::supervisor::files::{AttemptDir, Claim};

/// A supervised command that runs, or ran and has things left to report.
#[derive(Debug)]
pub struct Attempt {
    /// As in [`super::Launch::id`].
    pub id: String,
    /// The supervisor's identity, to be stored with the attempt.
    pub identity: Identity,
    /// What confines it.
    pub isolation: Isolation,
    /// Output and end; bounded, so read it. Dropping it leaves the command running.
    pub updates: Updates,
    /// Ends it early; can be cloned and kept after `updates` was moved away.
    pub canceler: Canceler,
}

impl Attempt {
    /// Asks for the end of the whole tree: TERM, grace, KILL. Survives us, and fine to repeat; the
    /// end itself is reported by [`super::Update::Ended`].
    pub fn cancel(&self) -> io::Result<()> {
        self.canceler.cancel()
    }
}

/// The right to end one attempt.
#[derive(Debug, Clone)]
pub struct Canceler {
    pub(super) dir: AttemptDir,
}

impl Canceler {
    /// As [`Attempt::cancel`]. An attempt that ended or was forgotten is fine.
    pub fn cancel(&self) -> io::Result<()> {
        // First the request, then the look for somebody to wake. A supervisor claims first and
        // looks for a request then, so one of the two sees the other, and none is signalled before
        // it listens.
        match self.dir.request_cancel() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        match self.dir.claim()? {
            Some(Claim::Supervisor(supervisor)) => supervisor.signal(Signal::TERM).map(drop),
            Some(Claim::Abandoned) | None => Ok(()),
        }
    }
}
