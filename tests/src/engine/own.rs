//! A container engine of a test's own: a second `dockerd` beside that of the machine, with its own
//! files, socket and addresses. It may be stopped, killed, halted and run out of networks, which
//! nobody may do to the machine's.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use super::Engine;
use crate::{
    program::{Program, kill_processes_under},
    wait::obtain,
};

/// The engine's program.
const PROGRAM: &str = "dockerd";
/// How long it may take to begin or to end: others use the machine, too.
const PATIENCE: Duration = Duration::from_mins(2);

/// An engine of our own. Dropping it ends it and all that it holds.
#[derive(Debug)]
pub struct OwnEngine {
    dir: TempDir,
    bridge: String,
    arguments: Vec<String>,
    program: Option<Program>,
}

impl OwnEngine {
    /// Starts one with a bridge in `addresses` (IPv4 in CIDR form, of which no other test has any);
    /// `more` are further arguments of `dockerd`. Nothing, said loudly, where that cannot be; a failure
    /// where an engine is expected.
    pub async fn start(addresses: &str, more: &[String]) -> Option<Self> {
        let there = Command::new(PROGRAM).arg("--version").output();
        if !geteuid().is_root() || there.is_err() {
            // Who may use an engine need not be root; root that has one has its program.
            assert!(
                std::env::var_os("ORKET_EXPECT_DOCKER").is_none() || !geteuid().is_root(),
                "ORKET_EXPECT_DOCKER is set, and there is no {PROGRAM} for an engine of our own"
            );
            eprintln!("SKIPPED: an engine of our own needs root and {PROGRAM}");
            return None;
        }
        let dir = TempDir::new().unwrap();
        // The machine's own settings are not ours.
        std::fs::write(dir.path().join("daemon.json"), "{}").unwrap();
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let bridge = make_bridge(addresses)?;
        let mut arguments = Vec::new();
        for (name, value) in [
            ("--config-file", at("daemon.json")),
            ("--host", format!("unix://{}", at("engine.sock"))),
            ("--data-root", at("data")),
            ("--exec-root", at("exec")),
            ("--pidfile", at("pid")),
            // One of our own: an engine without any removes the machine's, and one that is given the
            // machine's gives it another address.
            ("--bridge", bridge.clone()),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        // Tables and switches of the machine's network are the other engine's.
        for switch in ["iptables", "ip6tables", "ip-forward", "ip-masq"] {
            arguments.push(format!("--{switch}=false"));
        }
        arguments.extend_from_slice(more);
        let mut this = Self {
            dir,
            bridge,
            arguments,
            program: None,
        };
        this.begin().await;
        Some(this)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("engine.sock")
    }

    /// Starts it, again after it was [stopped](Self::stop) or [killed](Self::kill); returns when it
    /// answers.
    pub async fn begin(&mut self) {
        let machines = Path::new("/sys/class/net/docker0");
        let has_bridge = machines.exists();
        let mut program = self.launch();
        let socket = self.socket();
        obtain("an engine of our own answers", PATIENCE, || {
            let ended = program.ended();
            assert!(ended.is_none(), "it ended: {}", program.stderr());
            async { Engine::at(&socket).await.ok()?.api().ping().await.ok() }
        })
        .await;
        self.program = Some(program);
        assert!(
            !has_bridge || machines.exists(),
            "the bridge of the machine's own engine is gone: `ip link` can make it again"
        );
    }

    fn launch(&self) -> Program {
        // One that was killed leaves it.
        let _ = std::fs::remove_file(self.dir.path().join("pid"));
        let mut command = Command::new(PROGRAM);
        command.args(&self.arguments).current_dir(self.dir.path());
        Program::spawn(command)
    }

    /// What it holds, seen from the side.
    pub async fn engine(&self) -> Engine {
        Engine::at(&self.socket()).await.unwrap()
    }

    /// Stops it as a service manager does (SIGTERM); what it holds stops with it.
    pub async fn stop(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.terminate().await;
        }
    }

    /// Kills it (SIGKILL).
    pub async fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.kill().await;
        }
    }

    /// Halts it (SIGSTOP): it takes connections and answers none.
    pub fn halt(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.program.as_ref().expect("it runs").signal(signal);
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        // What a killed one held is ended by the next.
        let mut program = self.program.take().unwrap_or_else(|| self.launch());
        let within = |done: &mut dyn FnMut() -> bool| {
            let end = Instant::now() + PATIENCE;
            while !done() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        program.signal(Signal::CONT);
        within(&mut || UnixStream::connect(self.socket()).is_ok() || program.ended().is_some());
        program.signal(Signal::TERM);
        within(&mut || program.ended().is_some());
        kill_processes_under(self.dir.path());
        unmount(self.dir.path());
        ip(&["link", "del", &self.bridge]);
    }
}

/// Makes the bridge of an engine for containers that name no network, behind the addresses of its
/// networks. Nothing, said loudly, where there is no `ip`.
fn make_bridge(addresses: &str) -> Option<String> {
    let (net, _) = addresses.rsplit_once('.').expect("IPv4 in CIDR form");
    let name = format!("orket-{}", net.rsplit('.').next().expect("an octet"));
    // What a test that was killed has left.
    ip(&["link", "del", &name]);
    let address = format!("{net}.65/28");
    let made = ip(&["link", "add", &name, "type", "bridge"])
        && ip(&["address", "add", &address, "dev", &name])
        && ip(&["link", "set", &name, "up"]);
    if !made {
        assert!(
            std::env::var_os("ORKET_EXPECT_DOCKER").is_none(),
            "ORKET_EXPECT_DOCKER is set, and no bridge {name} can be made: is the program ip there (iproute2)?"
        );
        eprintln!("SKIPPED: an engine of our own needs a bridge, and so the program ip (iproute2)");
    }
    made.then_some(name)
}

/// Whether `ip` did this.
fn ip(arguments: &[&str]) -> bool {
    let done = Command::new("ip").args(arguments).output();
    done.is_ok_and(|done| done.status.success())
}

/// Takes away what is mounted in `dir`, the innermost first: an engine that was killed leaves it.
fn unmount(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(1));
    for point in points.filter(|point| Path::new(point).starts_with(dir)) {
        let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
    }
}
