//! Supervisors and their commands: real processes, seen in `/proc`.

mod adoption;
mod early_ends;
mod endings;
mod output;
mod sabotage;
mod tree;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use orket_backend::executor::{Attempt, Executor, Exit, Launch, OutputRecord, Stream, Update};
use orket_tests::{DEADLINE, program};
use tempfile::TempDir;

/// An executor with a folder of its own. Dropping it kills what a failed test left running.
struct Bench {
    executor: Executor,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self {
            executor: executor_in(dir.path()),
            dir,
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A launch of `sh -c script` in this bench's folder.
    fn script(&self, id: &str, script: &str) -> Launch {
        self.command(id, &["sh", "-c", script])
    }

    fn command(&self, id: &str, argv: &[&str]) -> Launch {
        Launch {
            id: id.to_owned(),
            argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
            env: BTreeMap::new(),
            workdir: self.path().to_owned(),
            readable: Vec::new(),
            writable: Vec::new(),
            network: orket_backend::confine::Network::Host,
            timeout: None,
            grace: Duration::from_secs(20),
            output_cap: 16 * 1024 * 1024,
        }
    }

    async fn start(&self, launch: Launch) -> Attempt {
        self.executor.start(launch).await.unwrap()
    }

    async fn run(&self, launch: Launch) -> Report {
        report(self.start(launch).await).await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        program::kill_processes_under(self.dir.path());
    }
}

fn executor_in(dir: &Path) -> Executor {
    Executor::new(dir.join("attempts"), program::path_of("orket-backend")).unwrap()
}

/// All that an attempt reported.
#[derive(Debug)]
struct Report {
    records: Vec<OutputRecord>,
    exit: Exit,
}

impl Report {
    fn bytes(&self, stream: Stream) -> Vec<u8> {
        let of_stream = self.records.iter().filter(|record| record.stream == stream);
        of_stream.flat_map(|record| record.bytes.clone()).collect()
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes(Stream::Stdout)).unwrap()
    }
}

/// Follows an attempt to its end.
async fn report(mut attempt: Attempt) -> Report {
    let mut records = Vec::new();
    loop {
        let update = tokio::time::timeout(DEADLINE, attempt.updates.recv()).await;
        match update
            .expect("an update in time")
            .expect("an end before the channel's end")
        {
            Update::Output(batch) => {
                assert!(!batch.is_empty());
                records.extend(batch);
            }
            Update::Ended(exit) => return Report { records, exit },
            Update::Unbegun { detail } => panic!("it did not begin: {detail}"),
        }
    }
}

/// Waits until a file that the command writes holds a number, and returns it.
async fn number_in(path: PathBuf) -> u32 {
    orket_tests::wait::obtain(
        &format!("a number in {}", path.display()),
        DEADLINE,
        || async {
            std::fs::read_to_string(&path)
                .ok()
                .filter(|text| text.ends_with('\n'))?
                .trim()
                .parse()
                .ok()
        },
    )
    .await
}

fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat[stat.rfind(')').unwrap()..].starts_with(") Z"))
}
