//! The supervisor's life: one thread, one poll loop.
//!
//! The end is written only after `waitpid` said that no child is left. As child subreaper we
//! inherit every orphan below us, however often it forked or changed its session, so that answer is
//! proof that the tree is gone.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::fchown, process::CommandExt},
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
    process::{Pid, WaitOptions, WaitStatus, wait},
};

use crate::confine::{cgroup::Group, namespaces};

use super::{
    channel::{Job, Order, Report, Word},
    events::{Events, drain},
    exit::{Exit, Outcome},
    files::{AttemptDir, Claim, LaunchRefusal, Spec, private_dir},
    identity::Identity,
    intake::Intake,
    journal::Journal,
    record::Stream,
    tree,
};

/// How often those that are left are looked for again.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// How long to wait before an exit that the disk did not take is tried again.
const EXIT_RETRY: Duration = Duration::from_millis(500);

/// An attempt that is ours: what is needed to supervise it.
pub(crate) struct Taken {
    events: Events,
    wake: OwnedFd,
    spec: Spec,
}

/// Takes the attempt in `dir` on, before anything of it is executed; `None` when it was given up.
pub(crate) fn take_on(dir: &AttemptDir) -> io::Result<Option<Taken>> {
    let events = Events::listen()?;
    // Fails only for a process that leads a group already, and then the session is of no use to
    // anyone else either.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let wake = rustix::fs::open(
        dir.wake(),
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let spec = dir.spec()?;
    Ok(match dir.stake(&Claim::Supervisor(Identity::own()?))? {
        Claim::Abandoned => None,
        Claim::Supervisor(_) => Some(Taken { events, wake, spec }),
    })
}

/// Supervises the attempt in `dir` from its launch to its written end.
pub(crate) fn supervise(dir: &AttemptDir, taken: Taken) -> io::Result<()> {
    let Taken { events, wake, spec } = taken;
    let exit = if dir.cancel_requested() {
        Exit::now(Outcome::Canceled)
    } else {
        let journal = Journal::open(&dir.output(), spec.output_cap)?;
        match Supervision::launch(dir, &spec, &wake, events, journal) {
            Ok(supervision) => supervision.run(),
            Err(error) => Exit::now(Outcome::LaunchFailed {
                detail: format!("cannot start the launcher: {error}"),
            }),
        }
    };
    if let Err(error) = dir.clear_tmp() {
        super::complain(format_args!("a temporary directory stays behind: {error}"));
    }
    write_exit(dir, &exit)?;
    notify(&wake);
    Ok(())
}

/// Stays until the disk takes it: an end that is not written is an attempt that hangs. A command that
/// removed the whole directory has an end, too.
fn write_exit(dir: &AttemptDir, exit: &Exit) -> io::Result<()> {
    let mut complained = false;
    loop {
        match dir.write_exit(exit) {
            Ok(()) => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && private_dir(dir.path()).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Err(error) => {
                if !complained {
                    super::complain(format_args!(
                        "cannot write the exit, trying until it works: {error}"
                    ));
                    complained = true;
                }
                std::thread::sleep(EXIT_RETRY);
            }
        }
    }
}

/// "Look again." A full pipe says it already.
fn notify(wake: &OwnedFd) {
    let _ = rustix::io::write(wake, b"w");
}

enum Phase {
    Running,
    /// TERM was sent to all that were there.
    Ending {
        kill_at: Instant,
        next: Instant,
        asked: tree::Asked,
    },
    /// The grace is over; whoever is left is killed at every look.
    Killing {
        next: Instant,
    },
}

struct Supervision<'a> {
    dir: &'a AttemptDir,
    /// What became of the command is heard here.
    order: Order,
    /// The command has not begun, and asks us before it does.
    unbegun: bool,
    /// The first process of the command's own namespace, which inherits its orphans.
    init: Option<u32>,
    group: Option<Group>,
    grace: Duration,
    deadline: Option<Instant>,
    wake: &'a OwnedFd,
    events: Events,
    output: Intake,
    command: Pid,
    status: Option<WaitStatus>,
    /// Why the tree is being ended, when it is not the command's own doing.
    cause: Option<Outcome>,
    phase: Phase,
}

impl<'a> Supervision<'a> {
    fn launch(
        dir: &'a AttemptDir,
        spec: &Spec,
        wake: &'a OwnedFd,
        events: Events,
        journal: Journal,
    ) -> io::Result<Self> {
        let group = spec.plan.cgroups.as_ref();
        let group = group.map(|base| base.group(&spec.nonce));
        let (order, theirs) = Order::new()?;
        let mut step = Command::new("/proc/self/exe");
        match spec.plan.namespaces {
            Some(namespaces) => {
                namespaces::enter(namespaces)?;
                step.arg0("orket-init").arg(super::INIT);
            }
            None => {
                step.arg0("orket-launch")
                    .arg(super::LAUNCH)
                    .arg(std::process::id().to_string());
            }
        }
        let mut child = step
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: a command that signals its group must not hit its supervisor.
            .process_group(0)
            .spawn()?;
        // Our copy of its end: nobody but the child may hold it.
        drop(step);
        let command = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::InvalidData)?;
        let stdout = child
            .stdout
            .take()
            .map(|pipe| (Stream::Stdout, OwnedFd::from(pipe)));
        let stderr = child
            .stderr
            .take()
            .map(|pipe| (Stream::Stderr, OwnedFd::from(pipe)));
        let streams: Vec<_> = stdout.into_iter().chain(stderr).collect();
        for (_, pipe) in &streams {
            rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK)?;
            if let Some(user) = spec.plan.user {
                // Or it could not open `/dev/stdout` again.
                fchown(pipe, Some(user.uid), Some(user.gid))?;
            }
        }
        order.send(&Job {
            spec: spec.clone(),
            tmp: dir.tmp(),
            root: dir.root(),
            group: group.clone(),
        })?;
        order.never_wait()?;
        Ok(Self {
            dir,
            order,
            unbegun: true,
            init: spec.plan.namespaces.map(|_| child.id()),
            group,
            grace: Duration::from_millis(spec.grace_ms),
            deadline: spec
                .timeout_ms
                .and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))),
            wake,
            events,
            output: Intake::new(streams, journal),
            command,
            status: None,
            cause: None,
            phase: Phase::Running,
        })
    }

    fn run(mut self) -> Exit {
        loop {
            if self.reap() {
                break;
            }
            self.advance();
            self.wait_for_something();
            self.let_begin();
            self.output.attend(Instant::now(), || notify(self.wake));
        }
        self.output.finish();
        self.exit()
    }

    /// Reaps whoever ended. `true` when no child is left.
    fn reap(&mut self) -> bool {
        let (command, status) = (self.command, &mut self.status);
        self.events.look_for_ended(|| reap(command, status))
    }

    /// Moves the phase on when something happened or time has come.
    fn advance(&mut self) {
        let now = Instant::now();
        if drain(&self.events.stop) {
            let cause = if self.dir.cancel_requested() {
                Outcome::Canceled
            } else {
                Outcome::Interrupted
            };
            self.end_tree(Some(cause), now);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.end_tree(Some(Outcome::TimedOut), now);
        }
        if self.status.is_some() {
            // The command is done; what it left behind is not part of anything any more.
            self.end_tree(None, now);
        }
        match &mut self.phase {
            Phase::Running => {}
            Phase::Ending { kill_at, .. } if *kill_at <= now => self.kill(now),
            Phase::Ending { next, asked, .. } => {
                if *next <= now {
                    *next = now + LOOK_PERIOD;
                    tree::ask_orphans(asked, self.init);
                }
            }
            Phase::Killing { next } => {
                if *next <= now {
                    self.kill(now);
                }
            }
        }
    }

    /// Lets a command begin that is ready to, unless its end was asked for by now.
    fn let_begin(&mut self) {
        if !self.unbegun {
            return;
        }
        let word = self.order.hear();
        self.unbegun = word == Word::Nothing;
        if word != Word::Ready {
            return;
        }
        if self.dir.cancel_requested() {
            self.end_tree(Some(Outcome::Canceled), Instant::now());
        }
        // Otherwise the order is taken back.
        if matches!(self.phase, Phase::Running)
            && let Err(error) = self.order.allow()
        {
            super::complain(format_args!("cannot let the command begin: {error}"));
        }
    }

    fn end_tree(&mut self, cause: Option<Outcome>, now: Instant) {
        match self.phase {
            Phase::Running => {
                if self.status.is_none() {
                    self.cause = cause;
                    // First this, then the signals: who is not there to get one does not begin.
                    if let Err(error) = self.order.recall() {
                        super::complain(format_args!("cannot take the order back: {error}"));
                    }
                }
                self.phase = Phase::Ending {
                    kill_at: now.checked_add(self.grace).unwrap_or(now),
                    next: now + LOOK_PERIOD,
                    asked: tree::ask_to_end(|_| true),
                };
            }
            Phase::Ending { .. } | Phase::Killing { .. } => {}
        }
    }

    fn kill(&mut self, now: Instant) {
        if let Some(group) = &self.group {
            group.kill();
        }
        if let Err(error) = Identity::own().and_then(|own| tree::kill_below(&own)) {
            super::complain(format_args!("cannot kill the tree, trying again: {error}"));
        }
        self.phase = Phase::Killing {
            next: now + LOOK_PERIOD,
        };
    }

    fn wait_for_something(&self) {
        let phase_due = match &self.phase {
            Phase::Running => self.deadline,
            Phase::Ending { kill_at, next, .. } => Some(*kill_at.min(next)),
            Phase::Killing { next } => Some(*next),
        };
        let now = Instant::now();
        let due = [phase_due, self.output.due(now)]
            .into_iter()
            .flatten()
            .min();
        // A remainder of nanoseconds rounds up, or the loop would spin through the last of it.
        let timeout =
            due.map(|due| due.saturating_duration_since(now) + Duration::from_micros(100));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let order = self.unbegun.then(|| self.order.as_fd());
        let mut sources: Vec<PollFd<'_>> = [self.events.child.as_fd(), self.events.stop.as_fd()]
            .into_iter()
            .chain(order)
            .chain(self.output.sources(now))
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                super::complain(format_args!("cannot poll: {errno}"));
                std::thread::sleep(LOOK_PERIOD);
            }
        }
    }

    fn exit(self) -> Exit {
        if let Some(group) = &self.group {
            group.remove();
        }
        let outcome = match (self.cause, self.status) {
            (Some(cause), _) => cause,
            (None, Some(status)) => ended_by_itself(&self.order, status),
            (None, None) => Outcome::Lost {
                detail: "the command's end was not seen".into(),
            },
        };
        let (cpu_ms, memory_peak_bytes) = usage();
        Exit {
            outcome,
            cpu_ms,
            memory_peak_bytes,
            dropped_bytes: self.output.dropped(),
            ended_at: Timestamp::now(),
        }
    }
}

/// Reaps whoever ended and keeps how the command did. `true` when no child is left.
fn reap(command: Pid, seen: &mut Option<WaitStatus>) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if pid == command {
                    *seen = Some(status);
                }
            }
            Ok(None) => return false,
            Err(Errno::CHILD) => return true,
            Err(Errno::INTR) => {}
            Err(errno) => {
                super::complain(format_args!("cannot wait for children: {errno}"));
                return false;
            }
        }
    }
}

fn ended_by_itself(order: &Order, status: WaitStatus) -> Outcome {
    match order.report() {
        Some(Report::Refused(LaunchRefusal::NotFound(detail))) => {
            Outcome::CommandNotFound { detail }
        }
        Some(Report::Refused(LaunchRefusal::Failed(detail))) => Outcome::LaunchFailed { detail },
        Some(Report::Exited(code)) => Outcome::Exited { code },
        Some(Report::Signaled(signal)) => Outcome::Signaled { signal },
        None => match status.terminating_signal() {
            Some(signal) => Outcome::Signaled { signal },
            None => Outcome::Exited {
                code: status.exit_status().unwrap_or_default(),
            },
        },
    }
}

/// CPU milliseconds of all that was reaped, and the largest resident size of any one of it in
/// bytes.
fn usage() -> (u64, u64) {
    let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)
    else {
        return (0, 0);
    };
    let millis =
        |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1000 + time.tv_usec() / 1000);
    let cpu = millis(usage.user_time()).unwrap_or(0) + millis(usage.system_time()).unwrap_or(0);
    (cpu, u64::try_from(usage.max_rss()).unwrap_or(0) * 1024)
}
