//! A real program under test: found beside the test's own executable, started with a clean
//! environment, its output kept, ended when the value is dropped.
//!
//! It never finds a process by name: every signal goes to a process id this harness started, or to
//! one whose command line or folder names this test's own temporary folder.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{DEADLINE, eventually, obtain};

/// Where the program `name` lies: in the profile folder of the running test.
pub fn path_of(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<test>");
    let program = profile.join(name);
    assert!(
        program.is_file(),
        "{} is missing: run `cargo build -p orket-gateway -p orket-backend` first",
        program.display()
    );
    program
}

/// A command for the program `name` with no variable of ours inherited, in the folder `dir`.
pub fn command(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(path_of(name));
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if text.starts_with("ORKET_") || text.starts_with("GITEA_") {
            command.env_remove(&variable);
        }
    }
    command
        .env_remove("RUST_LOG")
        .env("NO_COLOR", "1")
        .current_dir(dir);
    command
}

/// The same command, of which no more than `most` files may be open.
pub fn with_open_files(command: &Command, most: u32) -> Command {
    let mut limited = Command::new("sh");
    limited
        .arg("-c")
        .arg(format!("ulimit -n {most} && exec \"$0\" \"$@\""))
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        limited.current_dir(dir);
    }
    limited
}

/// How a program ended, with all it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Ended {
    /// Standard output and standard error, one after the other.
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end; fails the test when it does not end.
pub async fn run(command: Command) -> Ended {
    let mut program = Program::spawn(command);
    let status = program.wait().await;
    Ended {
        status,
        stdout: program.stdout(),
        stderr: program.stderr(),
    }
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdout: Capture,
    stderr: Capture,
}

impl Program {
    /// Starts the command with its output kept and no input.
    pub fn spawn(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdout = Capture::of(child.stdout.take().expect("piped"));
        let stderr = Capture::of(child.stderr.take().expect("piped"));
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Waits for the first line of standard output that begins with `prefix` and returns the rest
    /// of that line; fails, showing the output, when the program ends first.
    pub async fn ready(&mut self, prefix: &str) -> String {
        if let Some(rest) = self.ready_or_ended(prefix).await {
            return rest;
        }
        let status = self.wait().await;
        panic!(
            "the program ended ({status}) before a line `{prefix}…` on standard output\n\
             --- stdout\n{}\n--- stderr\n{}",
            self.stdout(),
            self.stderr()
        );
    }

    /// As [`Program::ready`]; nothing when the program ends first.
    pub async fn ready_or_ended(&mut self, prefix: &str) -> Option<String> {
        let what = format!("a line `{prefix}…` on standard output");
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            let ended = self.ended().is_some();
            let text = self.stdout();
            let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(rest) = complete.lines().find_map(|line| line.strip_prefix(prefix)) {
                return Some(rest.trim().to_owned());
            }
            if ended {
                return None;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "no {what}\n--- stdout\n{}\n--- stderr\n{}",
                self.stdout(),
                self.stderr()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Its exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waiting for a child")
    }

    /// Waits until it has ended and all its output is read.
    pub async fn wait(&mut self) -> ExitStatus {
        let pid = self.pid();
        let status = obtain(&format!("process {pid} ends"), DEADLINE, || {
            let status = self.child.try_wait().expect("waiting for a child");
            async move { status }
        })
        .await;
        // A grandchild may keep the pipes open; its output is not what a test waits for.
        let end = tokio::time::Instant::now() + Duration::from_secs(2);
        while !(self.stdout.is_complete() && self.stderr.is_complete())
            && tokio::time::Instant::now() < end
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        status
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        // It may have ended already: that is for the caller to see in its status.
        let _ = kill_process(pid, signal);
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait().await
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub async fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait().await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// The bytes of one output stream, taken in by a thread as they come.
#[derive(Debug, Clone)]
struct Capture(Arc<Mutex<Captured>>);

#[derive(Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
    complete: bool,
}

impl Capture {
    fn of(mut stream: impl Read + Send + 'static) -> Self {
        let captured = Arc::new(Mutex::new(Captured::default()));
        let writer = Arc::clone(&captured);
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                writer
                    .lock()
                    .unwrap()
                    .bytes
                    .extend_from_slice(&buffer[..count]);
            }
            writer.lock().unwrap().complete = true;
        });
        Self(captured)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap().bytes).into_owned()
    }

    fn is_complete(&self) -> bool {
        self.0.lock().unwrap().complete
    }
}

/// The ids of all processes whose command line, working directory or temporary directory is in `dir`:
/// what a backend with that folder has left behind. The calling process is not among them.
pub fn processes_under(dir: &Path) -> Vec<u32> {
    let needle = dir.as_os_str().as_encoded_bytes();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let command = std::fs::read(proc.join("cmdline")).unwrap_or_default();
            let folder = std::fs::read_link(proc.join("cwd")).unwrap_or_default();
            // Every command has its temporary folder in its environment, wherever it goes.
            let environment = std::fs::read(proc.join("environ")).unwrap_or_default();
            contains(&command, needle)
                || contains(folder.as_os_str().as_encoded_bytes(), needle)
                || contains(&environment, &[b"TMPDIR=", needle].concat())
        })
        .filter(|pid| !is_zombie(*pid))
        .collect()
}

/// Waits until [`processes_under`] finds nothing.
pub async fn no_process_left(dir: &Path) {
    eventually("no process of the test is left", DEADLINE, || async {
        processes_under(dir).is_empty()
    })
    .await;
}

/// Kills what [`processes_under`] finds.
pub fn kill_processes_under(dir: &Path) {
    for pid in processes_under(dir) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn is_zombie(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && line.contains('Z'))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && bytes.windows(needle.len()).any(|window| window == needle)
}

/// Adds environment variables to a command.
pub fn with_env<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    mut command: Command,
    variables: impl IntoIterator<Item = (K, V)>,
) -> Command {
    command.envs(variables);
    command
}
