//! Locks on files and directories (`flock`): seen by this machine's programs only, released by the kernel however a program ends.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How long a program that only looks whether a lock is held may hold it itself.
pub const MOMENT: Duration = Duration::from_millis(200);

/// How long between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// A lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Together with others who share it.
    Shared,
    /// Alone.
    Alone,
}

/// Takes a lock, if it can be had within `patience`; false where somebody else has it for longer. It is held until the file is closed.
///
/// # Errors
/// Those of the system: the file system may know no locks.
pub fn take(file: impl AsFd, lock: Lock, patience: Duration) -> io::Result<bool> {
    let operation = match lock {
        Lock::Shared => FlockOperation::NonBlockingLockShared,
        Lock::Alone => FlockOperation::NonBlockingLockExclusive,
    };
    let end = Instant::now() + patience;
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

/// Takes a shared lock, however long somebody else has it alone.
///
/// # Errors
/// Those of the system.
pub fn wait_to_share(file: impl AsFd) -> io::Result<()> {
    loop {
        match flock(&file, FlockOperation::LockShared) {
            Err(Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}
