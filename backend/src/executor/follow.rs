//! Follows one attempt's files to their end and reports what is in them.
//!
//! Wake-ups come through the attempt's pipe: a byte says that there is output or an end, the end of
//! the pipe that its only writer, the supervisor, is gone. A slow tick covers a wake-up that went
//! to a reader of before.

use std::{io, process::Child, time::Duration};

use jiff::Timestamp;
use tokio::{
    net::unix::pipe,
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tracing::{error, warn};

use super::{Exit, Identity, Outcome, OutputRecord, Update};
use crate::supervisor::{files::AttemptDir, record::RecordReader, tree};

const TICK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(500);
/// How often a process that is on its way out is looked at.
const LEAVING_PERIOD: Duration = Duration::from_millis(2);
const SWEEP_PERIOD: Duration = Duration::from_millis(10);

/// An attempt being followed.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) dir: AttemptDir,
    pub(super) identity: Identity,
    /// Set when the supervisor is our own child, which only we can reap.
    pub(super) child: Option<Child>,
    pub(super) reader: RecordReader,
    pub(super) updates: mpsc::Sender<Update>,
}

impl Follower {
    pub(super) async fn run(mut self) {
        let wake = pipe::OpenOptions::new().open_receiver(self.dir.wake());
        if let Err(error) = &wake {
            warn!(attempt = %self.dir.path().display(), %error, "no wake-ups for this attempt; looking once a second");
        }
        let exit = loop {
            // What is read after a look holds for that look: an exit that is there has all its
            // output before it, and a supervisor that is gone wrote nothing later.
            let gone = !self.identity.is_alive();
            let exit = self.look_for_exit().await;
            self.report_output().await;
            match exit {
                Some(exit) => break exit,
                None if gone => break self.settle_lost().await,
                None => wait(wake.as_ref().ok()).await,
            }
        };
        // Nobody listening is no reason to stop: the child has to be reaped all the same.
        let _ = self.updates.send(Update::Ended(exit)).await;
        if let Some(mut child) = self.child.take() {
            while self.identity.is_alive() {
                sleep(LEAVING_PERIOD).await;
            }
            reap(&mut child);
        }
    }

    async fn look_for_exit(&self) -> Option<Exit> {
        let dir = self.dir.clone();
        match spawn_blocking(move || dir.exit()).await {
            Ok(Ok(exit)) => exit,
            Ok(Err(error)) => {
                error!(attempt = %self.dir.path().display(), %error, "cannot read the exit");
                None
            }
            Err(_) => None,
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
    async fn settle_lost(&mut self) -> Exit {
        let nonce = loop {
            match self.dir.spec() {
                Ok(spec) => break Some(spec.nonce),
                Err(error)
                    if matches!(
                        error.kind(),
                        // Forgotten, or torn by the fall of a machine: its processes fell too.
                        io::ErrorKind::NotFound | io::ErrorKind::InvalidData
                    ) =>
                {
                    break None;
                }
                Err(error) => {
                    error!(attempt = %self.dir.path().display(), %error, "cannot read what was to run");
                    sleep(RETRY).await;
                }
            }
        };
        if let Some(nonce) = nonce {
            // Our own child is a zombie until we reap it, which keeps its session's number from
            // being reused.
            let session = self.child.is_some().then_some(self.identity.pid);
            loop {
                let nonce = nonce.clone();
                match spawn_blocking(move || tree::remains(&nonce, session)).await {
                    Ok(Ok(0)) | Err(_) => break,
                    Ok(Ok(_)) => sleep(SWEEP_PERIOD).await,
                    Ok(Err(error)) => {
                        error!(attempt = %self.dir.path().display(), %error, "cannot look for what is left of the tree");
                        sleep(RETRY).await;
                    }
                }
            }
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
        let exit = Exit {
            outcome: Outcome::Lost { detail },
            cpu_ms: 0,
            memory_peak_bytes: 0,
            dropped_bytes: 0,
            ended_at: Timestamp::now(),
        };
        if let Err(error) = self.dir.write_exit(&exit) {
            warn!(attempt = %self.dir.path().display(), %error, "cannot write the end of a lost attempt");
        }
        exit
    }
}

/// Reaps a supervisor that is known to have ended; says how, when that is of interest.
fn reap(child: &mut Child) -> String {
    match child.wait() {
        Ok(status) if status.success() => String::new(),
        Ok(status) => status.to_string(),
        Err(error) => format!("cannot reap it: {error}"),
    }
}

/// Waits for a reason to look again.
async fn wait(wake: Option<&pipe::Receiver>) {
    let Some(wake) = wake else {
        return sleep(TICK).await;
    };
    if timeout(TICK, wake.readable())
        .await
        .is_ok_and(|ready| ready.is_ok())
    {
        let mut bytes = [0; 256];
        loop {
            match wake.try_read(&mut bytes) {
                Ok(1..) => {}
                // The writer closed it, and is gone in a moment.
                Ok(0) => return sleep(LEAVING_PERIOD).await,
                Err(_) => return,
            }
        }
    }
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
