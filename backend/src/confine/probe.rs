//! The child of the self-test: this program as the command of an attempt, trying every door it was
//! told of. It prints what it found as JSON, and changes nothing that is not its own.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddr, UnixStream},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{ptrace, signal},
    unistd::{Uid, setresuid},
};
use serde::{Deserialize, Serialize};

use crate::supervisor::identity::Identity;

/// The argument that makes this program the child of the self-test.
pub(crate) const PROBE: &str = "self-test-child";

/// How long a connection to this machine may take.
const CONNECT: Duration = Duration::from_secs(1);

/// Something a command must not reach, or has to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Door {
    /// Connect to a unix socket.
    Socket(PathBuf),
    /// Connect to an abstract unix socket.
    Abstract(String),
    /// Connect to a TCP listener.
    Tcp(SocketAddr),
    /// Read a file, or list a folder.
    Read(PathBuf),
    /// Make a file in a folder.
    Write(PathBuf),
    /// Make a file in its own temporary folder.
    Temporary,
    /// See that a process is there.
    See(Identity),
    /// Read what a process has in its environment, its memory and open files.
    Inspect(Identity),
    /// Trace a process.
    Trace(Identity),
    /// Send a process a signal.
    Signal(Identity),
    /// Do the last three to the process that watches over the command.
    Watcher,
    /// Have, or gain, root's power.
    Privileges,
    /// Run as the user of this number.
    OwnUser(u32),
    /// Mount something.
    Mount,
    /// Make a user namespace, where one has root's power.
    Namespace,
    /// Make system calls without a filter.
    Calls,
    /// Keep another group than the user's own.
    Groups,
}

/// Runs as the child.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let doors: Option<Vec<Door>> = args
        .next()
        .and_then(|text| serde_json::from_slice(text.as_encoded_bytes()).ok());
    let Some(doors) = doors else {
        return ExitCode::FAILURE;
    };
    let open: Vec<bool> = doors.iter().map(is_open).collect();
    let said = serde_json::to_vec(&open)
        .map_err(io::Error::from)
        .and_then(|text| io::stdout().write_all(&text));
    match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn is_open(door: &Door) -> bool {
    match door {
        Door::Socket(path) => UnixStream::connect(path).is_ok(),
        Door::Abstract(name) => UnixAddr::from_abstract_name(name)
            .and_then(|address| UnixStream::connect_addr(&address))
            .is_ok(),
        Door::Tcp(address) => TcpStream::connect_timeout(address, CONNECT).is_ok(),
        Door::Read(path) => can_read(path),
        Door::Write(dir) => can_write(dir),
        Door::Temporary => can_write(&std::env::temp_dir()),
        Door::See(process) => process.is_alive(),
        Door::Inspect(process) => process.is_alive() && can_inspect(process.pid),
        Door::Trace(process) => process.is_alive() && can_trace(process.pid),
        Door::Signal(process) => process.is_alive() && can_signal(process.pid),
        Door::Watcher => {
            let watcher =
                rustix::process::getppid().and_then(|pid| u32::try_from(pid.as_raw_pid()).ok());
            watcher.is_some_and(|pid| can_inspect(pid) || can_trace(pid) || can_signal(pid))
        }
        Door::Privileges => has_privileges(),
        Door::OwnUser(uid) => rustix::process::getuid().as_raw() == *uid,
        Door::Mount => {
            // A kind that no kernel knows: who may mount is told so, and nothing is mounted.
            let (place, kind) = (std::env::temp_dir(), Some("orket-self-test"));
            let mounted = mount(kind, &place, kind, MsFlags::empty(), None::<&str>);
            mounted != Err(Errno::EPERM)
        }
        Door::Namespace => unshare(CloneFlags::CLONE_NEWUSER).is_ok(),
        Door::Calls => status("Seccomp:").as_deref() != Some("2"),
        Door::Groups => {
            let own = rustix::process::getgid();
            rustix::process::getgroups().is_ok_and(|all| all.iter().any(|group| *group != own))
        }
    }
}

fn can_read(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| {
        let is_file = file.metadata().is_ok_and(|found| found.is_file());
        is_file || fs::read_dir(path).is_ok()
    })
}

fn can_write(dir: &Path) -> bool {
    let file = dir.join(format!(".orket-self-test.{}", std::process::id()));
    let made = OpenOptions::new().write(true).create_new(true).open(&file);
    let written = made.and_then(|mut file| file.write_all(b"x"));
    // Made or not, nothing of it stays.
    let _ = fs::remove_file(&file);
    written.is_ok()
}

fn can_inspect(pid: u32) -> bool {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    File::open(dir.join("environ")).is_ok()
        || File::open(dir.join("mem")).is_ok()
        || fs::read_link(dir.join("fd/0")).is_ok()
        || fs::read_link(dir.join("cwd")).is_ok()
        || fs::read_dir(dir.join("root")).is_ok_and(|mut entries| entries.next().is_some())
}

fn number(pid: u32) -> Option<nix::unistd::Pid> {
    i32::try_from(pid).ok().map(nix::unistd::Pid::from_raw)
}

fn can_trace(pid: u32) -> bool {
    // Without stopping it; the end of this process ends the tracing.
    number(pid).is_some_and(|pid| ptrace::seize(pid, ptrace::Options::empty()).is_ok())
}

fn can_signal(pid: u32) -> bool {
    // The null signal: it is judged and not sent.
    number(pid).is_some_and(|pid| signal::kill(pid, None).is_ok())
}

fn has_privileges() -> bool {
    let powers = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"];
    let none = |name| {
        status(name).is_some_and(|bits| u64::from_str_radix(&bits, 16).is_ok_and(|bits| bits == 0))
    };
    let root = Uid::from_raw(0);
    let may_gain = status("NoNewPrivs:").as_deref() != Some("1");
    let was_root = rustix::process::getuid().is_root();
    may_gain || !powers.into_iter().all(none) || (!was_root && setresuid(root, root, root).is_ok())
}

fn status(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()))
}
