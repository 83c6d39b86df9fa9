//! Who may connect to the unix socket: the configured users, and our own user unless the peer is
//! something that a run or a sandbox executes.
//!
//! What we execute runs, at the weaker isolation levels, as our own user, so the user alone does
//! not tell it from an operator. Every attempt lives below a supervisor and carries a marker in
//! its environment; a peer with either in its line of ancestors is refused, and so is one whose
//! line cannot be read. It is a fence against mistakes and plain attempts: only a user of its own
//! for runs keeps out a child that works at hiding its descent.

use std::{collections::BTreeSet, fs, io, path::Path};

use tokio::net::unix::UCred;

use crate::{
    settings::users::Uid,
    supervisor::{LAUNCH, SUPERVISE, tree::MARKER},
};

/// The longest line of ancestors that is walked.
const GENERATIONS: usize = 4096;

/// Who may connect.
#[derive(Debug, Clone)]
pub struct Rule {
    own: Uid,
    peers: Vec<Uid>,
    /// Our own ancestors: whatever lies above them is not below one of our supervisors.
    ancestors: BTreeSet<u32>,
    /// The marker in our own environment: we may ourselves be what some other backend runs.
    own_marker: Option<Vec<u8>>,
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
        let mut next = Some(std::process::id());
        while let Some(pid) = next.filter(|pid| *pid != 0 && ancestors.len() < GENERATIONS) {
            next = parent(pid).ok();
            ancestors.extend(next);
        }
        ancestors.remove(&0);
        Self {
            own: rustix::process::geteuid().as_raw(),
            peers,
            ancestors,
            own_marker: marker(Path::new("/proc/self/environ")).ok().flatten(),
        }
    }

    /// Whether this peer may connect.
    pub fn judge(&self, peer: &UCred) -> Result<(), Refusal> {
        let uid = peer.uid();
        if uid != self.own {
            return if self.peers.contains(&uid) {
                Ok(())
            } else {
                Err(Refusal::User(uid))
            };
        }
        // A peer of another pid namespace has no number here.
        let pid = peer
            .pid()
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid != 0);
        let Some(pid) = pid else {
            return Err(Refusal::Unreadable {
                pid: 0,
                why: "it has no process id here".into(),
            });
        };
        self.judge_line(pid)
    }

    fn judge_line(&self, peer: u32) -> Result<(), Refusal> {
        let mut pid = peer;
        for _ in 0..GENERATIONS {
            if pid != std::process::id() && self.ancestors.contains(&pid) {
                return Ok(());
            }
            let unreadable = |error: io::Error| Refusal::Unreadable {
                pid,
                why: error.to_string(),
            };
            if pid != std::process::id() && self.is_executed(pid).map_err(unreadable)? {
                return Err(Refusal::Executed(peer));
            }
            pid = parent(pid).map_err(unreadable)?;
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
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&dir)?);
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
        let supervises = [SUPERVISE, LAUNCH]
            .iter()
            .any(|argument| first == argument.as_bytes());
        let ours = || -> io::Result<bool> {
            let name = fs::read_link(format!("{dir}/exe"))?;
            let name = name
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
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
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/<pid>/stat");
    // The name in parentheses may hold anything, parentheses and spaces too.
    let (_, rest) = stat.rsplit_once(')').ok_or_else(malformed)?;
    rest.split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .ok_or_else(malformed)
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
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        input.write_all(b"x").unwrap();
        output.read_exact(&mut [0]).unwrap();
        let verdict = Rule::new(vec![]).judge_line(child.id());
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
        for (name, refused) in [("orket-backend", true), ("s6", false)] {
            let program = dir.path().join(name);
            fs::copy("/bin/bash", &program).unwrap();
            fs::write(dir.path().join("supervise"), "cat; true").unwrap();
            let mut command = Command::new(&program);
            let verdict = judge_child(command.arg("supervise").current_dir(dir.path()));
            assert_eq!(
                matches!(verdict, Err(Refusal::Executed(_))),
                refused,
                "{verdict:?}"
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
        assert!(
            rule.ancestors
                .contains(&parent(std::process::id()).unwrap())
        );
        assert!(rule.judge_line(std::process::id()).is_ok());
    }
}
