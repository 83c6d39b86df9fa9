//! Where lines end up: standard error, or a file that may be moved away under it.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::settings::Destination;

/// How often a file is looked for under its name.
const LOOK: Duration = Duration::from_secs(1);

/// How much is gathered before it is written.
const GATHER_BYTES: usize = 64 * 1024;

/// A log file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log {path} cannot be opened: {source}; its directory has to exist and to let this user write"
)]
pub struct OpenError {
    path: String,
    source: io::Error,
}

/// Whose turn it is to write to a file: several may be written to by two threads, and lines stay whole.
#[derive(Debug, Default)]
pub(super) struct Turns(HashMap<PathBuf, Arc<Mutex<()>>>);

/// One destination. Lines are gathered and written together.
#[derive(Debug)]
pub(super) struct Output {
    sink: Sink,
    gathered: Vec<u8>,
    /// How many lines are gathered.
    lines: u64,
}

#[derive(Debug)]
enum Sink {
    Off,
    Stderr,
    File(LogFile),
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    looked: Instant,
    turn: Arc<Mutex<()>>,
}

impl Output {
    pub(super) fn open(destination: &Destination, turns: &mut Turns) -> Result<Self, OpenError> {
        let sink = match destination {
            Destination::Off => Sink::Off,
            Destination::Stderr => Sink::Stderr,
            Destination::File(path) => Sink::File(LogFile {
                file: open(path).map_err(|source| OpenError {
                    path: path.display().to_string(),
                    source,
                })?,
                path: path.clone(),
                looked: Instant::now(),
                turn: turns.0.entry(path.clone()).or_default().clone(),
            }),
        };
        Ok(Self {
            sink,
            gathered: Vec::new(),
            lines: 0,
        })
    }

    pub(super) fn is_off(&self) -> bool {
        matches!(self.sink, Sink::Off)
    }

    /// Takes one line in; the number of lines that were lost doing so.
    pub(super) fn line(&mut self, line: &[u8]) -> u64 {
        if self.is_off() {
            return 0;
        }
        self.gathered.extend_from_slice(line);
        self.lines += 1;
        if self.gathered.len() >= GATHER_BYTES {
            self.flush()
        } else {
            0
        }
    }

    /// Writes what was gathered; the number of lines that were lost.
    pub(super) fn flush(&mut self) -> u64 {
        if self.gathered.is_empty() {
            return 0;
        }
        let written = match &mut self.sink {
            Sink::Off => Ok(()),
            Sink::Stderr => io::stderr().lock().write_all(&self.gathered),
            Sink::File(file) => file.write_all(&self.gathered),
        };
        self.gathered.clear();
        let lines = std::mem::take(&mut self.lines);
        // A full disk, or nobody at the other end: the gateway goes on, and says so once it can.
        if written.is_err() { lines } else { 0 }
    }
}

impl LogFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if self.was_moved()
                && let Ok(file) = open(&self.path)
            {
                self.file = file;
            }
        }
        // One write to a file is whole, and one to a pipe is not.
        let _turn = self.turn.lock();
        self.file.write_all(bytes)
    }

    /// Whether another file, or none, has the name by now, as after a rotation.
    fn was_moved(&self) -> bool {
        let identity = |m: fs::Metadata| (m.dev(), m.ino());
        let ours = self.file.metadata().map(identity).ok();
        fs::metadata(&self.path).map(identity).ok() != ours
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut output =
            Output::open(&Destination::File(path.clone()), &mut Turns::default()).unwrap();
        assert_eq!(output.line(b"one\n") + output.flush(), 0);
        let moved = dir.path().join("access.log.1");
        fs::rename(&path, &moved).unwrap();
        let Sink::File(file) = &mut output.sink else {
            unreachable!()
        };
        file.looked = Instant::now().checked_sub(LOOK).unwrap();
        assert_eq!(output.line(b"two\n") + output.flush(), 0);
        assert_eq!(fs::read(&moved).unwrap(), b"one\n");
        assert_eq!(fs::read(&path).unwrap(), b"two\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let mut output = Output::open(
            &Destination::File("/dev/full".into()),
            &mut Turns::default(),
        )
        .unwrap();
        assert_eq!(output.line(b"one\n") + output.line(b"two\n"), 0);
        assert_eq!(output.flush(), 2);
    }
}
