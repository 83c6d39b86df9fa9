//! One attempt as its owner sees it.

use std::{io, sync::Arc};

use rustix::process::Signal;
use tokio::{sync::watch, time::Instant};

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
    /// When its command last wrote something, also what is beyond its output's limit and not kept.
    pub heard: watch::Receiver<Instant>,
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
    /// Known from the start: the command may remove every file that would tell.
    pub(super) supervisor: Identity,
    /// Tells the follower since when an end is due.
    pub(super) asked: Arc<watch::Sender<Option<Instant>>>,
}

impl Canceler {
    /// As [`Attempt::cancel`]. An attempt that ended or was forgotten is fine.
    pub fn cancel(&self) -> io::Result<()> {
        // First the request, then the look for somebody to wake. A supervisor claims first and
        // looks for a request then, so one of the two sees the other, and none is signalled before
        // it listens.
        let requested = self.dir.request_cancel();
        self.asked.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert_with(Instant::now);
            first
        });
        let listens = match (&requested, self.dir.claim()) {
            (Ok(()), Ok(Some(Claim::Abandoned) | None)) => false,
            (Ok(()), Ok(Some(Claim::Supervisor(_)))) => true,
            // The files are gone or not what they were: somebody works against us, so it runs.
            (Err(_), _) | (_, Err(_)) => true,
        };
        if listens && self.supervisor.signal(Signal::TERM)? {
            // One that was stopped would never hear it.
            self.supervisor.signal(Signal::CONT)?;
        }
        Ok(())
    }
}
