//! The word between a supervisor and the steps it executes: one socket, which is standard input at
//! the beginning. Down it goes what to do, up it comes what became of it. It is closed the moment
//! the command begins, which gets nothing of it.
//!
//! Just before that the last step asks whether it may begin, and begins only when told so. So an end
//! that is asked for at any moment either finds the word not given, and then it never is, or finds
//! somebody in the process tree to signal: nobody begins behind its back.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
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

/// "May it begin?" No report starts with it.
const ASK: u8 = b'?';
/// "It may."
const GO: u8 = b'!';
/// The end of the job.
const END: u8 = b'\n';

/// What a child said before the command began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing so far.
    Nothing,
    /// It asks whether it may begin, and waits.
    Ready,
    /// It will not begin: it has reported why, or is gone.
    Over,
}

/// The end of the one who waits.
#[derive(Debug)]
pub(crate) struct Order {
    channel: UnixStream,
    /// The beginning of a report.
    heard: Option<u8>,
}

impl Order {
    /// A channel; the other end is for a child's standard input.
    pub(crate) fn new() -> io::Result<(Self, Stdio)> {
        let (channel, theirs) = UnixStream::pair()?;
        let ours = Self {
            channel,
            heard: None,
        };
        Ok((ours, Stdio::from(OwnedFd::from(theirs))))
    }

    /// Sends the job. A child that is gone already is seen by its end.
    pub(crate) fn send(&self, job: &Job) -> io::Result<()> {
        let mut text = serde_json::to_vec(job)?;
        text.push(END);
        unless_gone((&self.channel).write_all(&text))
    }

    /// From now on nothing here waits, but for the [report](Self::report).
    pub(crate) fn never_wait(&self) -> io::Result<()> {
        self.channel.set_nonblocking(true)
    }

    /// What the child says before the command begins. After [`Word::Ready`] it waits for an answer.
    pub(crate) fn hear(&mut self) -> Word {
        let mut byte = [0];
        loop {
            match (&self.channel).read(&mut byte) {
                Ok(1..) if byte == [ASK] => return Word::Ready,
                Ok(read) => {
                    self.heard = (read > 0).then_some(byte[0]);
                    return Word::Over;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Word::Nothing,
                Err(_) => return Word::Over,
            }
        }
    }

    /// Lets the child that asked begin. One that is gone is seen by its end.
    pub(crate) fn allow(&self) -> io::Result<()> {
        unless_gone((&self.channel).write_all(&[GO]))
    }

    /// Takes the order back: who was not allowed to begin by now never will. Nothing more is heard.
    pub(crate) fn recall(&self) -> io::Result<()> {
        unless_gone(self.channel.shutdown(Shutdown::Both))
    }

    /// What was reported, once nobody is left to report; nothing when the child said nothing.
    pub(crate) fn report(&self) -> Option<Report> {
        /// A dead child's end is closed; nobody is waited for.
        const PATIENCE: Duration = Duration::from_secs(1);
        const LENGTH: u64 = 64 * 1024;
        self.channel.set_nonblocking(false).ok()?;
        self.channel.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut text = Vec::from_iter(self.heard);
        let _ = (&self.channel).take(LENGTH).read_to_end(&mut text);
        serde_json::from_slice(&text).ok()
    }
}

impl AsFd for Order {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn unless_gone(sent: io::Result<()>) -> io::Result<()> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    match sent {
        Err(error) if [BrokenPipe, ConnectionReset, NotConnected].contains(&error.kind()) => Ok(()),
        other => other,
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
        // Nothing follows before we have asked.
        BufReader::new(&errand.0).read_until(END, &mut text)?;
        let job = serde_json::from_slice(&text)?;
        Ok((errand, job))
    }

    /// Reports.
    pub(crate) fn report(&self, report: &Report) -> io::Result<()> {
        (&self.0).write_all(&serde_json::to_vec(report)?)
    }

    /// Whether the command may begin; waits for the answer. It may not when the order was taken back
    /// or whoever gave it is gone.
    pub(crate) fn may_begin(&self) -> bool {
        let mut answer = [0];
        (&self.0).write_all(&[ASK]).is_ok()
            && (&self.0).read_exact(&mut answer).is_ok()
            && answer == [GO]
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
