//! Follows one attempt's files to their end and reports what is in them.
//!
//! Wake-ups come through the attempt's pipe: a byte says that there is output or an end, the end of
//! the pipe that its only writer, the supervisor, is gone. A slow tick covers a wake-up that went
//! to a reader of before.

use std::{io, process::Child, time::Duration};

use rustix::process::Signal;
use tokio::{
    net::unix::pipe,
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tracing::{error, warn};

use super::{Exit, Identity, Outcome, OutputRecord, Update, orphans};
use crate::confine::cgroup::Group;
use crate::supervisor::{
    UNBEGUN,
    files::{AttemptDir, Spec},
    record::RecordReader,
    tree,
};

const TICK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(500);
/// How often a process that is on its way out is looked at.
const LEAVING_PERIOD: Duration = Duration::from_millis(2);
const SWEEP_PERIOD: Duration = Duration::from_millis(10);
/// How long beyond timeout or cancel and grace a supervisor may take before it is helped along,
/// before its tree is ended without it, and before it is killed itself.
const OVERDUE: [Duration; 3] = [
    Duration::from_secs(3),
    Duration::from_secs(5),
    Duration::from_secs(8),
];

/// An attempt being followed.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) dir: AttemptDir,
    pub(super) identity: Identity,
    /// Set when the supervisor is our own child, which only we can reap.
    pub(super) child: Option<Child>,
    pub(super) reader: RecordReader,
    pub(super) updates: mpsc::Sender<Update>,
    /// When its supervisor last said that there is something new.
    pub(super) heard: watch::Sender<Instant>,
    pub(super) terms: Terms,
    /// Since when a cancel is asked for.
    pub(super) asked: watch::Receiver<Option<Instant>>,
    /// Whether the tree was ended from here, over its supervisor's head.
    pub(super) forced: bool,
}

/// What the attempt was started with, as far as its follower has to know it. Kept, for the command
/// may remove the files that say so.
#[derive(Debug)]
pub(super) struct Terms {
    nonce: Option<String>,
    group: Option<Group>,
    grace: Duration,
    /// When the timeout has passed.
    ends: Option<Instant>,
}

impl Terms {
    pub(super) fn new(spec: Option<Spec>, supervisor: &Identity) -> Self {
        let ends = spec.as_ref().and_then(|spec| spec.timeout_ms).map(|ms| {
            let left = Duration::from_millis(ms).saturating_sub(supervisor.age());
            Instant::now().checked_add(left)
        });
        Self {
            grace: Duration::from_millis(spec.as_ref().map_or(0, |spec| spec.grace_ms)),
            group: spec.as_ref().and_then(super::group_of),
            nonce: spec.map(|spec| spec.nonce),
            ends: ends.flatten(),
        }
    }
}

impl Follower {
    pub(super) async fn run(mut self) {
        let wake = pipe::OpenOptions::new().open_receiver(self.dir.wake());
        if let Err(error) = &wake {
            warn!(attempt = %self.dir.path().display(), %error, "no wake-ups for this attempt; looking once a second");
        }
        // What is read after a look holds for that look: a supervisor that is gone wrote nothing
        // later. While it lives, an exit may be the command's own invention.
        while self.identity.is_alive() {
            self.report_output().await;
            self.press().await;
            if wait(wake.as_ref().ok()).await {
                self.heard.send_replace(Instant::now());
            }
        }
        let exit = self.look_for_exit().await;
        self.report_output().await;
        let end = match exit {
            Some(exit) => Update::Ended(exit),
            None => self.settle_lost().await,
        };
        // The child first: who reads the end may look for it.
        if let Some(mut child) = self.child.take() {
            reap(&mut child);
        }
        // Nobody listening is fine.
        let _ = self.updates.send(end).await;
    }

    /// The exit that a supervisor left which is gone now.
    async fn look_for_exit(&self) -> Option<Exit> {
        // Ours succeeds when, and only when, it wrote its exit over whatever was there.
        if let Some(child) = &self.child
            && orphans::code(child) != Some(0)
        {
            return None;
        }
        loop {
            let dir = self.dir.clone();
            match spawn_blocking(move || dir.exit()).await {
                Ok(Ok(exit)) => {
                    return exit.map(|exit| Exit {
                        outcome: self.meant(exit.outcome),
                        ..exit
                    });
                }
                Ok(Err(error)) => {
                    error!(attempt = %self.dir.path().display(), %error, "cannot read the exit; trying again");
                    sleep(RETRY).await;
                }
                Err(_) => return None,
            }
        }
    }

    /// What the supervisor saw, as it was meant: it cannot know everything that we did.
    fn meant(&self, seen: Outcome) -> Outcome {
        let asked = self.asked.borrow().is_some();
        match seen {
            // The signal was ours, and the request could not be left for it.
            Outcome::Interrupted if asked => Outcome::Canceled,
            Outcome::Signaled { .. } | Outcome::Lost { .. } if self.forced => {
                if asked {
                    Outcome::Canceled
                } else {
                    Outcome::TimedOut
                }
            }
            Outcome::Lost { .. } if asked => Outcome::Canceled,
            Outcome::Exited { .. }
            | Outcome::Signaled { .. }
            | Outcome::TimedOut
            | Outcome::Canceled
            | Outcome::Interrupted
            | Outcome::CommandNotFound { .. }
            | Outcome::LaunchFailed { .. }
            | Outcome::Lost { .. } => seen,
        }
    }

    /// Brings an end about that is overdue: a command can stop its supervisor, again and again.
    async fn press(&mut self) {
        let asked = *self.asked.borrow();
        let Some(due) = asked.into_iter().chain(self.terms.ends).min() else {
            return;
        };
        let late = Instant::now().saturating_duration_since(due + self.terms.grace);
        let [helped, ended, killed] = OVERDUE;
        if late < helped {
            return;
        }
        let attempt = self.dir.path().display();
        if late >= ended {
            let supervisor = self.identity.clone();
            // One without a tree is left alone: it may wait for a disk that takes its exit.
            match spawn_blocking(move || tree::kill_below(&supervisor)).await {
                Ok(Ok(0)) | Err(_) => {}
                Ok(Ok(count)) => {
                    self.forced = true;
                    warn!(%attempt, count, "its supervisor did not end them in time");
                }
                Ok(Err(error)) => error!(%attempt, %error, "cannot end an overdue tree"),
            }
        }
        let signals: &[Signal] = if late >= killed && self.identity.is_stopped() {
            self.forced = true;
            warn!(%attempt, "its supervisor is kept from going on; killing it");
            &[Signal::KILL]
        } else if asked.is_some() {
            &[Signal::TERM, Signal::CONT]
        } else {
            &[Signal::CONT]
        };
        for signal in signals {
            if let Err(error) = self.identity.signal(*signal) {
                error!(%attempt, %error, "cannot signal a supervisor");
            }
        }
    }

    /// Reports everything that is complete by now, as fast as it is taken. Reads on this thread: a
    /// few hundred kilobytes from the page cache, mostly none at all.
    async fn report_output(&mut self) {
        while !self.updates.is_closed() {
            let batch: Vec<OutputRecord> = match self.reader.read_batch() {
                Ok(batch) => batch,
                Err(error) => {
                    error!(attempt = %self.dir.path().display(), %error, "cannot read output");
                    return;
                }
            };
            if batch.is_empty() || self.updates.send(Update::Output(batch)).await.is_err() {
                return;
            }
        }
    }

    /// The supervisor died without a word: ends what is left of its tree and writes the end in its
    /// place.
    async fn settle_lost(&mut self) -> Update {
        // Its own word, which a command cannot give for it: files it could remove.
        let code = self.child.as_ref().and_then(orphans::code);
        let begun = code != Some(i32::from(UNBEGUN));
        let nonce = self.terms.nonce.clone();
        // Our own child is a zombie until we reap it, which keeps its session's number from
        // being reused.
        let session = self.child.is_some().then_some(self.identity.pid);
        if let Some(group) = &self.terms.group {
            group.kill();
        }
        loop {
            let nonce = nonce.clone();
            let sweep = move || Ok(tree::remains(nonce.as_deref(), session)? + orphans::end()?);
            match spawn_blocking(sweep).await {
                Ok(Ok(0)) | Err(_) => break,
                Ok(Ok(_)) => sleep(SWEEP_PERIOD).await,
                Ok(Err(error)) => {
                    let error: io::Error = error;
                    error!(attempt = %self.dir.path().display(), %error, "cannot look for what is left of the tree");
                    sleep(RETRY).await;
                }
            }
        }
        if let Some(group) = &self.terms.group {
            group.remove();
        }
        let how = self
            .child
            .take()
            .map(|mut child| reap(&mut child))
            .unwrap_or_default();
        let detail = [
            String::from("the supervisor ended without writing an exit"),
            how,
            self.dir.last_words(),
        ]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
        if !begun {
            return Update::Unbegun { detail };
        }
        let outcome = self.meant(Outcome::Lost { detail });
        let exit = Exit::now(outcome);
        if let Err(error) = self.dir.write_exit(&exit) {
            warn!(attempt = %self.dir.path().display(), %error, "cannot write the end of a lost attempt");
        }
        Update::Ended(exit)
    }
}

/// Reaps a supervisor that is known to have ended; says how, when that is of interest.
fn reap(child: &mut Child) -> String {
    match orphans::reap(child) {
        Ok(status) if status.success() => String::new(),
        Ok(status) => status.to_string(),
        Err(error) => format!("cannot reap it: {error}"),
    }
}

/// Waits for a reason to look again; whether somebody gave one.
async fn wait(wake: Option<&pipe::Receiver>) -> bool {
    let Some(wake) = wake else {
        sleep(TICK).await;
        return false;
    };
    if timeout(TICK, wake.readable())
        .await
        .is_ok_and(|ready| ready.is_ok())
    {
        let mut bytes = [0; 256];
        let mut any = false;
        loop {
            match wake.try_read(&mut bytes) {
                Ok(1..) => any = true,
                // The writer closed it, and is gone in a moment.
                Ok(0) => {
                    sleep(LEAVING_PERIOD).await;
                    return any;
                }
                Err(_) => return any,
            }
        }
    }
    false
}

/// Waits until exactly this process is gone, at most `limit`. `true` when it is.
pub(super) async fn wait_gone(identity: &Identity, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while identity.is_alive() {
        if Instant::now() >= end {
            return false;
        }
        sleep(LEAVING_PERIOD).await;
    }
    true
}
