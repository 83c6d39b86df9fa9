//! The first process of a command's own namespace of processes: this program once more. It builds
//! what the command sees, starts it, buries the dead, and when the command has ended asks what is
//! left to end and ends itself; the kernel lets nothing of the namespace outlive it.
//!
//! It belongs to our own user, whoever the command is, so that the command has no power over it.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, wait},
};

use super::{
    channel::{Errand, Job, Order, Report, Word},
    files::LaunchRefusal,
    tree,
};
use crate::confine::{mounts, namespaces};

/// How often it is looked for who is left.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Runs as the first process of a namespace, to its end.
pub(crate) fn begin() -> ExitCode {
    let (errand, job) = match Errand::take() {
        Ok(taken) => taken,
        Err(error) => {
            super::complain(format_args!("orket: no word from the supervisor: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let report = lead(&errand, &job).unwrap_or_else(|error| {
        Report::Refused(LaunchRefusal::Failed(format!(
            "cannot confine the command: {error}"
        )))
    });
    match errand.report(&report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn lead(errand: &Errand, job: &Job) -> io::Result<Report> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that call took hold.
    if !errand.is_awaited() {
        return Err(io::Error::other("the supervisor is gone"));
    }
    if let Some(group) = &job.group {
        group.join()?;
    }
    let plan = &job.spec.plan;
    namespaces::enter_rest(plan.network)?;
    mounts::enter(plan, &job.root, &job.tmp)?;
    let (mut order, theirs) = Order::new()?;
    let child = Command::new("/proc/self/exe")
        .arg0("orket-launch")
        .arg(super::LAUNCH)
        .arg(std::process::id().to_string())
        .env_clear()
        .stdin(theirs)
        .process_group(0)
        .spawn()?;
    order.send(&Job {
        tmp: Path::new("/tmp").to_owned(),
        group: None,
        ..job.clone()
    })?;
    match order.hear() {
        // As first process of a namespace we do not die of the signal that asks for the end: the
        // answer tells us of it.
        Word::Ready if errand.may_begin() => order.allow()?,
        Word::Ready => order.recall()?,
        Word::Nothing | Word::Over => {}
    }
    let command = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let status = bury_until(command)?;
    let report = order.report().or_else(|| {
        let signaled = status.terminating_signal().map(Report::Signaled);
        signaled.or_else(|| status.exit_status().map(Report::Exited))
    });
    end_rest(Duration::from_millis(job.spec.grace_ms));
    report.ok_or_else(|| io::Error::other("the command's end was not seen"))
}

/// Reaps whoever ends until the command has.
fn bury_until(command: Option<Pid>) -> io::Result<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == command => return Ok(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Asks everybody that is left to end, also who is forked meanwhile by one that ends of it, and waits
/// for that no longer than `grace`.
fn end_rest(grace: Duration) {
    let limit = Instant::now() + grace;
    let mut asked = tree::ask_to_end(|_| true);
    loop {
        match wait(WaitOptions::NOHANG) {
            Err(Errno::CHILD) => return,
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => {
                if Instant::now() >= limit {
                    return;
                }
                sleep(LOOK_PERIOD);
                tree::ask_orphans(&mut asked, None);
            }
        }
    }
}
