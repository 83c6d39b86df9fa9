//! Which process it is, beyond its recyclable number.

use std::{fs, io, os::fd::OwnedFd, sync::OnceLock, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::tree::ProcessStat;

/// A process, named so that a recycled pid is never mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start_ticks: u64,
    /// The boot it belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

impl Identity {
    /// The identity of a process that exists now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = ProcessStat::read(pid)?;
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
            boot_id: boot_id()?.to_owned(),
        })
    }

    /// The identity of this process.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether exactly this process exists and has not ended (a zombie has ended).
    pub fn is_alive(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot_id)
            && ProcessStat::read(self.pid)
                .is_ok_and(|stat| stat.start_ticks == self.start_ticks && !stat.has_ended())
    }

    /// Whether it exists and a signal, or somebody who traces it, keeps it from going on.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_alive()
            && ProcessStat::read(self.pid).is_ok_and(|stat| matches!(stat.state, 'T' | 't'))
    }

    /// How long it has existed; nothing when that cannot be read.
    pub(crate) fn age(&self) -> Duration {
        let uptime = fs::read_to_string("/proc/uptime").ok().and_then(|text| {
            let seconds = text.split_ascii_whitespace().next()?.parse().ok()?;
            Duration::try_from_secs_f64(seconds).ok()
        });
        let hertz = rustix::param::clock_ticks_per_second().max(1);
        let start = Duration::from_millis(self.start_ticks.saturating_mul(1000) / hertz);
        uptime.unwrap_or_default().saturating_sub(start)
    }

    /// A descriptor of exactly this process, or `NotFound` when it is gone or its number belongs to
    /// a stranger.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let gone = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {} is gone", self.pid),
            )
        };
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(gone)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
        // The order matters: the descriptor pins the process, so what is compared now is what was
        // opened.
        let stat = ProcessStat::read(self.pid).map_err(|_| gone())?;
        if stat.start_ticks == self.start_ticks && boot_id()? == self.boot_id {
            Ok(descriptor)
        } else {
            Err(gone())
        }
    }

    /// Sends a signal to exactly this process. `false` when it is gone already.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match self.open() {
            Ok(descriptor) => match pidfd_send_signal(descriptor, signal) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::SRCH) => Ok(false),
                Err(errno) => Err(errno.into()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The id of this boot, read once.
pub(crate) fn boot_id() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT.get() {
        return Ok(id);
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned();
    Ok(BOOT.get_or_init(|| id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn a_recycled_number_is_somebody_else() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive());
        assert!(own.open().is_ok());
        let before = Identity {
            start_ticks: own.start_ticks - 1,
            ..own.clone()
        };
        assert!(!before.is_alive());
        assert!(
            !before.signal(Signal::KILL).unwrap(),
            "the signal must not reach us"
        );
        let other_boot = Identity {
            boot_id: "another".into(),
            ..own
        };
        assert!(!other_boot.is_alive());
        assert!(!other_boot.signal(Signal::KILL).unwrap());
    }

    #[test]
    fn an_ended_child_is_not_alive_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let descriptor = identity.open().unwrap();
        let mut ready = [rustix::event::PollFd::new(
            &descriptor,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut ready, None).unwrap();
        assert!(!identity.is_alive());
        child.wait().unwrap();
        assert!(!identity.is_alive());
    }
}
