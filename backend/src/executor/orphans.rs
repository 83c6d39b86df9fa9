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
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::supervisor::tree;

/// How often a short command is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

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

/// Runs a short command to its end, or kills it after `limit`: how it ended. Blocks.
pub(crate) fn run_briefly(command: &mut Command, limit: Duration) -> io::Result<ExitStatus> {
    let mut child = start(command)?;
    let deadline = Instant::now().checked_add(limit);
    while !has_ended(&child)? {
        if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
            // Ours until it is reaped, so the number is its own. It ends in a moment.
            child.kill()?;
        }
        thread::sleep(LOOK_PERIOD);
    }
    reap(&mut child)
}

/// Whether a child of ours has ended, without reaping it.
fn has_ended(child: &Child) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
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

/// The exit code of a child of ours that has ended, without reaping it; `None` for one that a signal
/// ended.
pub(super) fn code(child: &Child) -> Option<i32> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), options).ok()??.exit_status()
}
