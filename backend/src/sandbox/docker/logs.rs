//! The output of a container: to its present end first, then as it is written, over restarts and
//! replacements of the container.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bollard::{container::LogOutput, errors::Error};
use futures_util::{Stream as Flow, StreamExt as _};
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use super::{
    super::{
        driver::{Batch, LogSource},
        stack::label,
    },
    engine::{Engine, EngineError},
};
use crate::executor::{OutputRecord, Stream};

/// How long one read waits for something to come.
const LOOK: Duration = Duration::from_millis(20);
/// How long the engine may take to go on with what it began to say.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one read gathers what comes without a pause.
const ROUND: Duration = Duration::from_millis(200);
/// Pieces of one batch.
const BATCH: usize = 512;

type Said = Pin<Box<dyn Flow<Item = Result<LogOutput, Error>> + Send>>;

/// Reads one service's output.
pub(super) struct Output {
    engine: Arc<Engine>,
    /// What selects the container.
    labels: Vec<String>,
    reading: Reading,
    seq: u64,
    seen: Seen,
}

enum Reading {
    /// Up to what is there now.
    Past(Option<Said>),
    /// What is written from now on; nothing is attached while the container does not run.
    Live(Option<Said>),
    /// What a container wrote that ended while nobody was attached.
    Rest(Said),
}

/// What is attached, and how.
struct Attached {
    said: Said,
    hold: fn(Said) -> Reading,
    /// Whether more may be written.
    live: bool,
}

/// Up to where the output was passed on. The engine finds a place by the second only.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    newest: Option<Mark>,
    /// What had been passed on at the last attachment; nothing before the first. What is older than
    /// it, or of its time and met again, is not new.
    floor: Option<Mark>,
    again: usize,
}

/// A time, and how many records of exactly that time there were.
#[derive(Debug, Clone, Copy)]
struct Mark {
    time: Timestamp,
    count: usize,
}

impl Output {
    pub(super) fn new(engine: Arc<Engine>, mut labels: Vec<String>, service: &str) -> Self {
        labels.push(format!("{}={service}", label::SERVICE));
        Self {
            engine,
            labels,
            reading: Reading::Past(None),
            seq: 0,
            seen: Seen::default(),
        }
    }

    /// Attaches to the container of the service, if there is one that says something new.
    async fn attach(&mut self) -> Result<Option<Attached>, EngineError> {
        let is_past = matches!(self.reading, Reading::Past(_));
        let containers = self.engine.containers(&self.labels).await?;
        let running = containers.iter().find(|found| found.runs);
        let (container, hold): (_, fn(Said) -> Reading) = match running {
            Some(container) if !is_past => (container, |said| Reading::Live(Some(said))),
            Some(_) | None => match containers.first() {
                Some(container) if is_past => (container, |said| Reading::Past(Some(said))),
                // It may have run and ended since it was looked for last.
                Some(container) => (container, Reading::Rest),
                None => return Ok(None),
            },
        };
        let live = !is_past && container.runs;
        let since = self.seen.newest.map_or(0, |mark| mark.time.as_second());
        let since = i32::try_from(since).unwrap_or(0);
        self.seen.attach();
        let said = self.engine.logs(&container.id, since, live).await?;
        Ok(Some(Attached {
            said: Box::pin(said),
            hold,
            live,
        }))
    }

    fn take_in(&mut self, said: LogOutput) -> Option<OutputRecord> {
        let stream = match &said {
            LogOutput::StdErr { .. } => Stream::Stderr,
            LogOutput::StdOut { .. } | LogOutput::StdIn { .. } | LogOutput::Console { .. } => {
                Stream::Stdout
            }
        };
        let (time, bytes) = timed(&said.into_bytes());
        if !self.seen.is_new(time) {
            return None;
        }
        self.seq += 1;
        Some(OutputRecord {
            seq: self.seq,
            stream,
            time: time.unwrap_or_else(Timestamp::now),
            bytes,
        })
    }
}

#[async_trait]
impl LogSource for Output {
    async fn next(&mut self) -> io::Result<Batch> {
        let is_past = matches!(self.reading, Reading::Past(_));
        // Where it breaks off, it is as if nothing were attached.
        let nothing = if is_past {
            Reading::Past(None)
        } else {
            Reading::Live(None)
        };
        let attached: Option<Attached> = match std::mem::replace(&mut self.reading, nothing) {
            Reading::Past(Some(said)) => Some(Attached {
                said,
                hold: |said| Reading::Past(Some(said)),
                live: false,
            }),
            Reading::Live(Some(said)) => Some(Attached {
                said,
                hold: |said| Reading::Live(Some(said)),
                live: true,
            }),
            Reading::Rest(said) => Some(Attached {
                said,
                hold: Reading::Rest,
                live: false,
            }),
            Reading::Past(None) | Reading::Live(None) => self.attach().await?,
        };
        let Some(Attached {
            mut said,
            hold,
            live,
        }) = attached
        else {
            self.reading = Reading::Live(None);
            return Ok(Batch {
                at_end: true,
                ..Batch::default()
            });
        };
        let mut records = Vec::new();
        // Of what there is already nothing is waited for but the engine.
        let patience = if live { LOOK } else { PATIENCE };
        let begun = Instant::now();
        let cut = loop {
            if records.len() >= BATCH || (live && begun.elapsed() > ROUND) {
                self.reading = hold(said);
                break None;
            }
            match timeout(patience, said.next()).await {
                Ok(Some(Ok(piece))) => records.extend(self.take_in(piece)),
                Ok(Some(Err(error))) if is_cut(&error) => {
                    break Some(io::ErrorKind::NotConnected);
                }
                // Its end: of what there was, or of the container that wrote it.
                Ok(None | Some(Err(_))) => {
                    self.reading = Reading::Live(None);
                    break None;
                }
                Err(_) if live => {
                    self.reading = hold(said);
                    break None;
                }
                Err(_) => break Some(io::ErrorKind::TimedOut),
            }
        };
        match cut {
            Some(kind) if records.is_empty() => Err(io::Error::new(
                kind,
                "the container engine broke off what it said",
            )),
            // What came is passed on first; asked again, the rest is read anew.
            Some(_) | None => Ok(Batch {
                records,
                at_end: matches!(self.reading, Reading::Live(_)),
            }),
        }
    }
}

/// Whether it is the connection that failed, and not the engine that said no.
fn is_cut(error: &Error) -> bool {
    !matches!(
        error,
        Error::DockerResponseServerError { .. } | Error::DockerStreamError { .. }
    )
}

impl Seen {
    fn attach(&mut self) {
        self.floor = self.newest;
        self.again = 0;
    }

    /// Whether a record of that time was not passed on yet; counts it as passed on. The engine writes
    /// two streams at once, so that times may run back a little.
    fn is_new(&mut self, time: Option<Timestamp>) -> bool {
        let Some(time) = time else {
            return true;
        };
        if let Some(floor) = self.floor {
            if time < floor.time {
                return false;
            }
            if time == floor.time {
                self.again += 1;
                if self.again <= floor.count {
                    return false;
                }
            }
        }
        match &mut self.newest {
            Some(newest) if time < newest.time => {}
            Some(newest) if time == newest.time => newest.count += 1,
            Some(_) | None => self.newest = Some(Mark { time, count: 1 }),
        }
        true
    }
}

/// A piece without the time that the engine wrote before it.
fn timed(piece: &[u8]) -> (Option<Timestamp>, Vec<u8>) {
    let parse = || {
        let at = piece.iter().position(|byte| *byte == b' ')?;
        let time = std::str::from_utf8(&piece[..at]).ok()?.parse().ok()?;
        Some((time, piece[at + 1..].to_vec()))
    };
    match parse() {
        Some((time, rest)) => (Some(time), rest),
        None => (None, piece.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_passed_on_is_not_passed_on_again() {
        let at = |second| Timestamp::from_second(second).ok();
        let mut seen = Seen::default();
        assert!([1, 3, 2, 3].iter().all(|second| seen.is_new(at(*second))));
        seen.attach();
        let after: Vec<_> = [2, 3, 3, 3, 4, 3]
            .iter()
            .map(|second| seen.is_new(at(*second)))
            .collect();
        assert_eq!(after, [false, false, false, true, true, true]);
        let (time, rest) = timed(b"2026-01-02T03:04:05.000000006Z a word\n");
        assert_eq!(time.map(Timestamp::as_second), Some(1_767_323_045));
        assert_eq!(rest, b"a word\n");
        assert_eq!(timed(b"plain"), (None, b"plain".to_vec()));
    }
}
