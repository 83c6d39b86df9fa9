//! The children of this process: the supervisors it started, and orphans.
//!
//! When a supervisor is killed, what it had below it becomes ours. Whatever such a process did to
//! its session and its environment, it is a child of ours, or below one, and below no supervisor
//! that lives: so it is found and ended.
//!
//! Everything this process starts must be started by [`start`]: any other child is an orphan to it.

use std::{
    collections::HashSet,
    io,
    process::{Child, Command, ExitStatus},
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::supervisor::tree;

static TAKEN_IN: AtomicBool = AtomicBool::new(false);
/// Children that were started and are not reaped, so that their numbers are theirs. Locked while one
/// is started or reaped, and while others are looked for.
static STARTED: LazyLock<Mutex<HashSet<u32>>> = LazyLock::new(Mutex::default);

/// Lets the orphans of killed supervisors become children of this process, and ends them when an
/// attempt is settled as lost. Only for a process that starts nothing but supervisors.
pub fn take_in() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    TAKEN_IN.store(true, Ordering::Release);
    Ok(())
}

/// Whether [`take_in`] was called.
pub(crate) fn are_taken_in() -> bool {
    TAKEN_IN.load(Ordering::Acquire)
}

/// Starts a child that is no orphan.
pub(super) fn start(command: &mut Command) -> io::Result<Child> {
    let mut started = STARTED.lock();
    let child = command.spawn()?;
    started.insert(child.id());
    Ok(child)
}

/// Reaps a child that is known to have ended.
pub(super) fn reap(child: &mut Child) -> io::Result<ExitStatus> {
    let mut started = STARTED.lock();
    let status = child.wait()?;
    started.remove(&child.id());
    Ok(status)
}

/// Ends what has become ours, and reaps it. Says how many lived still.
pub(super) fn end() -> io::Result<usize> {
    if !are_taken_in() {
        return Ok(0);
    }
    let started = STARTED.lock();
    let living = tree::kill_own_except(&started)?;
    for pid in tree::ended_children()? {
        let orphan = Some(pid)
            .filter(|pid| !started.contains(pid))
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(orphan) = orphan {
            // Only our lock's holder reaps, so it is there.
            let _ = waitid(
                WaitId::Pid(orphan),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            );
        }
    }
    Ok(living)
}

/// How a child of ours that has ended did so, without reaping it. `true` for success.
pub(super) fn succeeded(child: &Child) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(pid), options)?;
    Ok(status.is_some_and(|status| status.exit_status() == Some(0)))
}
