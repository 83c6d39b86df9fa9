//! Who may connect to the unix socket: the configured users, and our own user unless the peer is
//! something that a run or a sandbox executes.
//!
//! What we execute runs, at the weaker isolation levels, as our own user, so the user alone does
//! not tell it from an operator. Every attempt lives below a supervisor and carries a marker in
//! its environment; a peer with either in its line of ancestors is refused, and so is one whose
//! line cannot be read. It is a fence against mistakes and plain attempts: only a user of its own
//! for runs keeps out a child that works at hiding its descent.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tokio::net::unix::UCred;

use crate::{
    executor::orphans,
    settings::users::Uid,
    supervisor::{
        INIT, LAUNCH, SUPERVISE,
        tree::{MARKER, ProcessStat},
    },
};

/// The longest line of ancestors that is walked.
const GENERATIONS: usize = 4096;

/// Who may connect.
#[derive(Debug, Clone)]
pub struct Rule {
    own: Uid,
    peers: Vec<Uid>,
    /// Our own ancestors, by number and start: whatever lies above them is not below one of our
    /// supervisors. A number alone would pass on to whoever gets it next.
    ancestors: BTreeSet<(u32, u64)>,
    /// The program whose processes are our supervisors.
    program: Program,
    /// The marker in our own environment: we may ourselves be what some other backend runs.
    own_marker: Option<Vec<u8>>,
}

/// A program's file, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Program {
    device: u64,
    inode: u64,
}

impl Program {
    /// That of `exe`, a link in `/proc`, which leads to the file itself even when it was replaced.
    fn of(exe: &Path) -> io::Result<Self> {
        let file = fs::metadata(exe)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
        })
    }
}

/// Why a peer is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its user is not admitted.
    #[error("user {0} is not admitted: list it in [listen] peers if it is the gateway's")]
    User(Uid),
    /// It is, or descends from, something we execute.
    #[error("process {0} belongs to a run or a sandbox")]
    Executed(u32),
    /// Its line of ancestors cannot be read.
    #[error("the ancestors of process {pid} cannot be read: {why}")]
    Unreadable {
        /// The process where the line breaks; 0 when the peer's own is unknown.
        pid: u32,
        /// Why.
        why: String,
    },
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Unreadable {
            pid: 0,
            why: error.to_string(),
        }
    }
}

impl Rule {
    /// The rule of this process and these other users.
    pub fn new(peers: Vec<Uid>) -> Self {
        let mut ancestors = BTreeSet::new();
        let mut next = parent(std::process::id()).ok();
        while let Some(pid) = next.filter(|pid| *pid != 0 && ancestors.len() < GENERATIONS) {
            let stat = ProcessStat::read(pid).ok();
            ancestors.extend(stat.map(|stat| (pid, stat.start_ticks)));
            next = stat.map(|stat| stat.parent);
        }
        Self {
            own: rustix::process::geteuid().as_raw(),
            peers,
            ancestors,
            // A file that no process can have stands for one that cannot be read: then the name
            // alone tells.
            program: Program::of(Path::new("/proc/self/exe")).unwrap_or(Program {
                device: 0,
                inode: 0,
            }),
            own_marker: marker(Path::new("/proc/self/environ")).ok().flatten(),
        }
    }

    /// Whether this peer may connect.
    pub fn judge(&self, peer: &UCred) -> Result<(), Refusal> {
        let uid = peer.uid();
        let is_own = uid == self.own;
        if !is_own && !self.peers.contains(&uid) {
            return Err(Refusal::User(uid));
        }
        // A peer of another pid namespace has no number here.
        let pid = peer
            .pid()
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid != 0);
        let line = pid.map_or_else(
            || {
                Err(Refusal::Unreadable {
                    pid: 0,
                    why: "it has no process id here".into(),
                })
            },
            |pid| self.judge_line(pid),
        );
        match line {
            // What we execute may have become another user; what cannot be read of a listed one is
            // no reason to refuse it.
            Err(Refusal::Unreadable { .. }) if !is_own => Ok(()),
            judged => judged,
        }
    }

    fn judge_line(&self, peer: u32) -> Result<(), Refusal> {
        let mut pid = peer;
        for _ in 0..GENERATIONS {
            let unreadable = |error: io::Error| Refusal::Unreadable {
                pid,
                why: error.to_string(),
            };
            let stat = ProcessStat::read(pid).map_err(unreadable)?;
            if self.ancestors.contains(&(pid, stat.start_ticks)) {
                return Ok(());
            }
            if pid != std::process::id() && self.is_executed(pid).map_err(unreadable)? {
                return Err(Refusal::Executed(peer));
            }
            if pid == std::process::id() && pid != peer && orphans::are_taken_in() {
                // Nothing but supervisors and what they leave is below us.
                return Err(Refusal::Executed(peer));
            }
            pid = stat.parent;
            if pid == 0 {
                return Ok(());
            }
        }
        Err(Refusal::Unreadable {
            pid: peer,
            why: "the line is too long".into(),
        })
    }

    /// Whether this process is a supervisor or carries the marker of an attempt.
    fn is_executed(&self, pid: u32) -> io::Result<bool> {
        let dir = format!("/proc/{pid}");
        let owner = fs::metadata(&dir)?.uid();
        if owner != self.own {
            // Supervisors are of our own user. Of others, only the parent can be read.
            return Ok(false);
        }
        let arguments = fs::read(format!("{dir}/cmdline"))?;
        if arguments.is_empty() {
            return Err(io::Error::other("it has ended"));
        }
        let first = arguments
            .split(|byte| *byte == 0)
            .nth(1)
            .unwrap_or_default();
        let supervises = [SUPERVISE, INIT, LAUNCH]
            .iter()
            .any(|argument| first == argument.as_bytes());
        let ours = || -> io::Result<bool> {
            let exe = PathBuf::from(format!("{dir}/exe"));
            if Program::of(&exe)? == self.program {
                return Ok(true);
            }
            // Or one that was started before an upgrade replaced the file.
            let name = fs::read_link(exe)?;
            let name = name.file_name().unwrap_or_default().to_string_lossy();
            Ok(name.starts_with("orket-backend"))
        };
        if supervises && ours()? {
            return Ok(true);
        }
        let found = marker(Path::new(&format!("{dir}/environ")))?;
        Ok(found.is_some() && found != self.own_marker)
    }
}

/// The value of the attempt's marker in an environment.
fn marker(environ: &Path) -> io::Result<Option<Vec<u8>>> {
    let environ = fs::read(environ)?;
    Ok(environ.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"=")?;
        Some(value.to_vec())
    }))
}

/// The parent's process id; 0 for the first process.
fn parent(pid: u32) -> io::Result<u32> {
    Ok(ProcessStat::read(pid)?.parent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;
    use std::{
        io::{Read as _, Write as _},
        process::{Command, Stdio},
    };

    /// Judges a child that echoes, once it does.
    fn judge_child(command: &mut Command) -> Result<(), Refusal> {
        judge_child_by(&Rule::new(vec![]), command)
    }

    fn judge_child_by(rule: &Rule, command: &mut Command) -> Result<(), Refusal> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        input.write_all(b"x").unwrap();
        output.read_exact(&mut [0]).unwrap();
        let verdict = rule.judge_line(child.id());
        drop(input);
        child.wait().unwrap();
        verdict
    }

    #[test]
    fn a_plain_child_is_admitted_and_a_marked_one_is_not() {
        assert!(judge_child(&mut Command::new("cat")).is_ok());
        let marked = judge_child(Command::new("cat").env(MARKER, "some.1"));
        assert!(matches!(marked, Err(Refusal::Executed(_))), "{marked:?}");
    }

    #[test]
    fn what_is_below_a_supervisor_is_refused_and_look_alikes_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for (name, is_ours, refused) in [
            ("orket-backend", false, true),
            ("s6", false, false),
            ("renamed", true, true),
        ] {
            let program = dir.path().join(name);
            fs::copy("/bin/bash", &program).unwrap();
            fs::write(dir.path().join("supervise"), "cat; true").unwrap();
            let mut rule = Rule::new(vec![]);
            if is_ours {
                rule.program = Program::of(&program).unwrap();
            }
            let mut command = Command::new(&program);
            let verdict = judge_child_by(&rule, command.arg("supervise").current_dir(dir.path()));
            assert_eq!(
                matches!(verdict, Err(Refusal::Executed(_))),
                refused,
                "{name}: {verdict:?}"
            );
        }
    }

    #[test]
    fn an_ended_or_unknown_process_is_refused() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let verdict = Rule::new(vec![]).judge_line(child.id());
        assert!(
            matches!(verdict, Err(Refusal::Unreadable { .. })),
            "{verdict:?}"
        );
    }

    #[test]
    fn our_own_line_is_known() {
        let rule = Rule::new(vec![7]);
        let above = ProcessStat::read(parent(std::process::id()).unwrap()).unwrap();
        assert!(rule.ancestors.contains(&(above.pid, above.start_ticks)));
        assert!(rule.judge_line(std::process::id()).is_ok());
    }
}
