//! The one thread that writes: takes whatever requests wait into one transaction, each in a savepoint
//! of its own, and answers them after the commit.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{StoreError, boot::Boot, clock, failure, feed};
use crate::{crash_point::CrashPoint, metrics::Metrics, store::feed::Feed};

/// Requests that may wait for the writer before a caller waits itself.
const WAITING: usize = 4096;
/// Requests of one commit at most, so that nobody waits long for the flush.
const BATCH: usize = 256;

/// A request to the writer.
struct Job {
    /// When it was asked.
    asked: Instant,
    work: Work,
}

/// Does the work, says whether to keep it, and how to answer. Without a connection it does nothing
/// and only answers: the transaction it was to be part of is lost.
type Work = Box<dyn FnOnce(Option<&Connection>) -> Executed + Send>;
type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Executed {
    keep: bool,
    reply: Reply,
}

/// The writer thread and the way to it.
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    /// Waits until what was asked for is done and the connection is closed.
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.jobs = closed;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

impl Writer {
    /// Starts the thread on its connection.
    pub(super) fn start(
        conn: Connection,
        boot: Boot,
        feed: Arc<Feed>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_loop(&conn, waiting, boot, &feed, &metrics))?;
        Ok(Self {
            jobs,
            thread: Some(thread),
        })
    }

    /// Runs one transition and answers once it is on disk.
    pub(super) async fn ask<T, E, F>(&self, transition: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        let work: Work = Box::new(move |conn| {
            // A panic must not take the writer, and with it every other request, down.
            let result = conn.map(|conn| {
                catch_unwind(AssertUnwindSafe(|| transition(conn))).unwrap_or_else(|_| {
                    Err(StoreError::Fault("a transition panicked".to_owned()).into())
                })
            });
            let keep = matches!(result, Some(Ok(_)));
            let reply: Reply = Box::new(move |committed| {
                let answer = match (result, committed) {
                    // What it saw of others in the transaction has not happened either.
                    (_, Err(error)) => Err(error.into()),
                    (Some(Err(error)), Ok(())) => Err(error),
                    (Some(Ok(value)), Ok(())) => Ok(value),
                    (None, Ok(())) => Err(StoreError::Closed.into()),
                };
                // The asker may have gone away; what it asked for holds all the same.
                let _ = send.send(answer);
            });
            Executed { keep, reply }
        });
        let job = Job {
            asked: Instant::now(),
            work,
        };
        if self.jobs.send(job).await.is_err() {
            return Err(StoreError::Closed.into());
        }
        receive
            .await
            .unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }
}

/// The writer thread: ends when the last [`Database`](super::Database) is dropped.
fn write_loop(
    conn: &Connection,
    mut jobs: mpsc::Receiver<Job>,
    mut boot: Boot,
    feed: &Feed,
    metrics: &Metrics,
) {
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        let mut replies = Vec::with_capacity(batch.len());
        metrics.store_batch.observe(batch.len());
        let begun = Instant::now();
        let verdict = commit(conn, batch, &mut boot, &mut replies);
        metrics.store_commit.observe(begun.elapsed());
        if let Err(error) = &verdict {
            metrics.store_commits_failed.inc();
            // Nothing of the batch holds; whatever is left of the transaction goes.
            if !conn.is_autocommit()
                && let Err(rollback) = conn.execute_batch("ROLLBACK")
            {
                tracing::error!(%rollback, "the store's transaction could not be rolled back");
            }
            tracing::warn!(%error, requests = replies.len(), "a commit of the store failed");
        } else if let Err(error) = feed::publish(feed, conn, metrics) {
            tracing::error!(%error, "events were stored but not published");
        }
        for reply in replies {
            reply(verdict.clone());
        }
    }
    // All readers are closed by now: the next start, and a copy of the file, need nothing else.
    let emptied = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    match emptied {
        Ok(0_i64) => {}
        Ok(_) => tracing::warn!("the store's write-ahead log is in use and stays"),
        Err(error) => tracing::warn!(%error, "the store's write-ahead log could not be emptied"),
    }
}

/// Runs a batch in one transaction. Every reply lands in `replies`, whatever happens.
fn commit(
    conn: &Connection,
    batch: Vec<Job>,
    boot: &mut Boot,
    replies: &mut Vec<Reply>,
) -> Result<(), StoreError> {
    let begun = run(conn, "BEGIN IMMEDIATE").and_then(|()| begin(conn, boot));
    let (mut state, changed) = match begun {
        Ok(changed) => (Ok(()), changed),
        Err(error) => (Err(error), None),
    };
    let seen = changed.as_ref().map_or(boot.clock, |changed| changed.clock);
    for Job { asked, work } in batch {
        state = state.and_then(|()| run(conn, "SAVEPOINT request"));
        clock::doubt(seen.filter(|clock| clock.was_set_after(asked)));
        failure::forget();
        let executed = work(state.is_ok().then_some(conn));
        replies.push(executed.reply);
        if state.is_ok() {
            state = settle(conn, executed.keep);
        }
    }
    CrashPoint::CommitDue.reached();
    let verdict = state.and_then(|()| run(conn, "COMMIT"));
    CrashPoint::Committed.reached();
    if let (Ok(()), Some(changed)) = (&verdict, changed) {
        *boot = changed;
    }
    verdict
}

/// What a transaction begins with: a boot that is owed, and a look at the clock. What of it is to be
/// remembered once that is committed; `None`: nothing.
fn begin(conn: &Connection, boot: &Boot) -> Result<Option<Boot>, StoreError> {
    if boot.owed {
        let mut paid = boot.clone();
        paid.write_down(conn)?;
        paid.owed = false;
        return Ok(Some(paid));
    }
    let set = boot.clock.map_or(Ok(None), |clock| clock.follow(conn))?;
    Ok(set.map(|clock| Boot {
        clock: Some(clock),
        ..boot.clone()
    }))
}

/// Ends the savepoint of one request.
fn settle(conn: &Connection, keep: bool) -> Result<(), StoreError> {
    if conn.is_autocommit() {
        // The engine itself gave the whole transaction up, as it does on a full disk.
        let given_up = || StoreError::Fault("the engine gave a transaction up".to_owned());
        return Err(failure::taken().unwrap_or_else(given_up));
    }
    if !keep {
        run(conn, "ROLLBACK TO request")?;
    }
    run(conn, "RELEASE request")
}

fn run(conn: &Connection, sql: &str) -> Result<(), StoreError> {
    conn.prepare_cached(sql)?.execute([])?;
    Ok(())
}
