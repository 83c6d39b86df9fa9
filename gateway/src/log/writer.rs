//! The thread that gives records their form and writes them, and the one that writes what an operator did.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    LogError,
    bound::{Bound, Kind, LeftOut},
    output::{Output, Turns},
    queue::{ACTS, Act, CAPACITY, Entry, Log, Queue},
    record::{self, ConnectionRecord, Dropped, Form, LeftOutRecord, RequestRecord},
    settings::Settings,
};

/// The threads' names; a panic on one of them is not logged by itself.
pub(super) const THREADS: [&str; 2] = [THREAD, ACTS_THREAD];
const THREAD: &str = "log";
const ACTS_THREAD: &str = "log-acts";

/// How long records are gathered while they keep coming. A writer that sleeps on the clock costs a request no
/// system call to wake it.
const GATHER: Duration = Duration::from_millis(4);

/// After so long without a record the writer waits for the next instead of looking.
const QUIET: Duration = Duration::from_millis(200);

/// How long it waits for a record before it looks whether something is to be stated.
const WAIT: Duration = Duration::from_secs(1);

/// How long the end of the program waits for the last records to be taken.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The running writers. Dropping it writes what still waits.
#[derive(Debug)]
pub struct Running {
    queue: Queue,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// The way in.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.queue.wake();
        // Whoever reads may have stopped reading: the end is not held up for long.
        let end = Instant::now() + LAST_WORDS;
        while !self.threads.iter().all(JoinHandle::is_finished) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Opens the destinations and starts the threads.
pub(super) fn start(settings: &Settings) -> Result<Running, LogError> {
    let (sender, receiver) = sync_channel(CAPACITY);
    let (acts, acted) = sync_channel(ACTS);
    let queue = Queue::into_writers(sender, acts);
    let stop = Arc::new(AtomicBool::new(false));
    let mut turns = Turns::default();
    let writer = Writer {
        form: settings.form,
        access: Output::open(&settings.access, &mut turns)?,
        audit: Output::open(&settings.audit, &mut turns)?,
        own: Output::open(&super::settings::Destination::Stderr, &mut turns)?,
        bound: Bound::new(),
        queue: queue.clone(),
        stated: 0,
        said: Instant::now(),
        line: Vec::new(),
    };
    let acts = Acts {
        audit: Output::open(&settings.audit, &mut turns)?,
        queue: queue.clone(),
    };
    let (told, acts_told) = (stop.clone(), stop.clone());
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let threads = vec![
        thread(THREAD)
            .spawn(move || writer.run(&receiver, &told))
            .map_err(LogError::Thread)?,
        thread(ACTS_THREAD)
            .spawn(move || acts.run(&acted, &acts_told))
            .map_err(LogError::Thread)?,
    ];
    Ok(Running {
        queue,
        stop,
        threads,
    })
}

/// Writes what an operator did to the audit log, which it has opened for itself: it waits for nobody but the reader of that one.
struct Acts {
    audit: Output,
    queue: Queue,
}

impl Acts {
    fn run(mut self, receiver: &Receiver<Act>, stop: &AtomicBool) {
        while let Ok(act) = receiver.recv() {
            for act in std::iter::once(act).chain(receiver.try_iter()) {
                if let Act::Line(line) = act {
                    let lost = self.audit.line(&line);
                    self.queue.count_dropped(lost);
                }
            }
            let lost = self.audit.flush();
            self.queue.count_dropped(lost);
            if stop.load(Ordering::Acquire) {
                break;
            }
        }
    }
}

struct Writer {
    form: Form,
    access: Output,
    audit: Output,
    own: Output,
    bound: Bound,
    queue: Queue,
    /// How many dropped records have been stated.
    stated: u64,
    /// When that was.
    said: Instant,
    line: Vec<u8>,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Entry>, stop: &AtomicBool) {
        let mut last = Instant::now();
        loop {
            let mut gone = false;
            loop {
                match receiver.try_recv() {
                    Ok(entry) => {
                        self.take(entry);
                        last = Instant::now();
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        gone = true;
                        break;
                    }
                }
            }
            let left_out = self.bound.statement();
            self.state(left_out);
            self.flush();
            if gone || stop.load(Ordering::Acquire) {
                break;
            }
            if last.elapsed() < QUIET {
                std::thread::sleep(GATHER);
                continue;
            }
            match receiver.recv_timeout(WAIT) {
                Ok(entry) => {
                    self.take(entry);
                    last = Instant::now();
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        let left_out = self.bound.everything_left_out();
        self.state(left_out);
        self.flush();
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Request(record) => self.request(&record),
            Entry::Connection {
                at,
                event,
                client,
                reason,
            } => {
                let kind = Kind {
                    route: None,
                    reason,
                };
                if self.bound.admits(Some(client), &kind) {
                    let record = ConnectionRecord::new(at, event, client, reason);
                    self.put(Log::Audit, &record);
                }
            }
            Entry::Line(log, bytes) => self.write(log, &bytes),
            Entry::Wake => {}
        }
    }

    fn request(&mut self, record: &RequestRecord) {
        if let Some(kind) = record.unproven()
            && !self.bound.admits(record.client, &kind)
        {
            return;
        }
        if !self.access.is_off() {
            self.put(Log::Access, &record.access());
        }
        for shadow in record.shadows() {
            self.put(Log::Audit, &shadow);
        }
        if let Some(refusal) = record.audit() {
            self.put(Log::Audit, &refusal);
        }
    }

    fn state(&mut self, left_out: Vec<LeftOut>) {
        for left_out in left_out {
            let record = LeftOutRecord::new(Timestamp::now(), &left_out);
            self.put(Log::Audit, &record);
        }
    }

    fn put(&mut self, log: Log, record: &impl record::Record) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        record::write(&mut line, self.form, record);
        self.write(log, &line);
        self.line = line;
    }

    fn write(&mut self, log: Log, line: &[u8]) {
        let lost = match log {
            Log::Access => self.access.line(line),
            Log::Audit => self.audit.line(line),
            Log::Gateway => self.own.line(line),
        };
        self.queue.count_dropped(lost);
    }

    /// Writes what was gathered, and says what was lost before.
    fn flush(&mut self) {
        let dropped = self.queue.dropped();
        if dropped > self.stated && self.said.elapsed() >= WAIT {
            self.said = Instant::now();
            let record = Dropped::new(Timestamp::now(), dropped - self.stated);
            self.stated = dropped;
            self.put(Log::Gateway, &record);
        }
        let lost = self.access.flush() + self.audit.flush() + self.own.flush();
        self.queue.count_dropped(lost);
    }
}
