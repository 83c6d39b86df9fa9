//! The word between a supervisor and the steps it executes: one socket, which is standard input at
//! the beginning. Down it goes what to do, up it comes what became of it. It is closed the moment
//! the command begins, which gets nothing of it.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::files::{LaunchRefusal, Spec};
use crate::confine::cgroup::Group;

/// What a step is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Job {
    pub(crate) spec: Spec,
    /// The command's temporary directory.
    pub(crate) tmp: PathBuf,
    /// An empty folder, to build a root on.
    pub(crate) root: PathBuf,
    /// The control group to go to.
    pub(crate) group: Option<Group>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The command did not begin.
    Refused(LaunchRefusal),
    /// It ended by itself.
    Exited(i32),
    /// It was ended by a signal.
    Signaled(i32),
}

/// The end of the one who waits.
#[derive(Debug)]
pub(crate) struct Order(UnixStream);

impl Order {
    /// A channel; the other end is for a child's standard input.
    pub(crate) fn new() -> io::Result<(Self, Stdio)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self(ours), Stdio::from(OwnedFd::from(theirs))))
    }

    /// Sends the job. A child that is gone already is seen by its end.
    pub(crate) fn send(&self, job: &Job) -> io::Result<()> {
        let text = serde_json::to_vec(job)?;
        match (&self.0).write_all(&text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            sent => sent?,
        }
        match self.0.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            shut => shut,
        }
    }

    /// What was reported, once nobody is left to report; nothing when the child said nothing.
    pub(crate) fn report(&self) -> Option<Report> {
        /// A dead child's end is closed; nobody is waited for.
        const PATIENCE: Duration = Duration::from_secs(1);
        const LENGTH: u64 = 64 * 1024;
        self.0.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut text = Vec::new();
        let _ = (&self.0).take(LENGTH).read_to_end(&mut text);
        serde_json::from_slice(&text).ok()
    }
}

/// The end of the one who does it.
#[derive(Debug)]
pub(crate) struct Errand(UnixStream);

impl Errand {
    /// Takes the channel from standard input, which is empty from now on, and reads the job.
    pub(crate) fn take() -> io::Result<(Self, Job)> {
        let channel = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        let nothing = File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        let errand = Self(UnixStream::from(channel));
        let mut text = Vec::new();
        (&errand.0).read_to_end(&mut text)?;
        let job = serde_json::from_slice(&text)?;
        Ok((errand, job))
    }

    /// Reports.
    pub(crate) fn report(&self, report: &Report) -> io::Result<()> {
        (&self.0).write_all(&serde_json::to_vec(report)?)
    }

    /// Whether somebody waits for the report.
    pub(crate) fn is_awaited(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut ends = [PollFd::new(&self.0, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut ends, Some(&now)).is_ok()
            && !ends
                .iter()
                .any(|end| end.revents().contains(PollFlags::HUP))
    }
}
