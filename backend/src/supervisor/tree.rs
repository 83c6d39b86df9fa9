//! Process trees, read from `/proc`.
//!
//! Only ever signals processes whose place in a tree was seen, through descriptors that pin them:
//! between a look at `/proc` and a signal the number may have changed hands.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
};

use rustix::process::Signal;

use super::identity::{Identity, boot_id};

/// The variable in which every command of an attempt carries the attempt's nonce, so that what is
/// left of a tree can be found after its supervisor was killed.
pub(crate) const MARKER: &str = "ORKET_ATTEMPT";

/// The fields of `/proc/<pid>/stat` that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    pub(crate) pid: u32,
    pub(crate) state: char,
    pub(crate) parent: u32,
    pub(crate) session: u32,
    /// Whether it has executed a program since it was forked.
    pub(crate) executed: bool,
    pub(crate) start_ticks: u64,
}

/// Of the flags of a process: it was forked and has executed nothing.
const FORKED_ONLY: u32 = 0x40;

/// Who was asked to end: by pid, start time, and whether it had executed a program. One that had not
/// may have caught the signal with a handler of its parent's, which knows nothing of it.
pub(crate) type Asked = HashSet<(u32, u64, bool)>;

impl ProcessStat {
    /// Reads one process.
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(pid, &String::from_utf8_lossy(&text)).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("/proc/{pid}/stat is not understood"),
            )
        })
    }

    /// A zombie or a dead process: it executes nothing any more.
    pub(crate) fn has_ended(self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    fn parse(pid: u32, text: &str) -> Option<Self> {
        // The name stands in parentheses and may contain anything, also parentheses.
        let rest = text.get(text.rfind(')')? + 1..)?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let flags: u32 = fields.nth(2)?.parse().ok()?;
        let start_ticks = fields.nth(12)?.parse().ok()?;
        Some(Self {
            pid,
            state,
            parent,
            session,
            executed: flags & FORKED_ONLY == 0,
            start_ticks,
        })
    }

    fn asked(self) -> (u32, u64, bool) {
        (self.pid, self.start_ticks, self.executed)
    }

    fn identity(self) -> io::Result<Identity> {
        Ok(Identity {
            pid: self.pid,
            start_ticks: self.start_ticks,
            boot_id: boot_id()?.to_owned(),
        })
    }
}

/// Every process there is, as far as we may see it.
fn table() -> io::Result<Vec<ProcessStat>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // One that ended meanwhile is not missed.
        if let Ok(stat) = ProcessStat::read(pid) {
            all.push(stat);
        }
    }
    Ok(all)
}

/// All living descendants of a process, itself not included.
fn descendants(root: u32) -> io::Result<Vec<ProcessStat>> {
    Ok(below(root, &HashSet::new(), &table()?))
}

fn below(root: u32, spared: &HashSet<u32>, table: &[ProcessStat]) -> Vec<ProcessStat> {
    let mut children: HashMap<u32, Vec<ProcessStat>> = HashMap::new();
    for stat in table {
        children.entry(stat.parent).or_default().push(*stat);
    }
    let mut found = Vec::new();
    let mut seen = spared.clone();
    seen.insert(root);
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for stat in children.get(&parent).into_iter().flatten() {
            if seen.insert(stat.pid) {
                open.push(stat.pid);
                found.push(*stat);
            }
        }
    }
    found.retain(|stat| !stat.has_ended());
    found
}

/// Sends TERM, and CONT for those that were stopped, to the descendants that `filter` chooses; says
/// which.
pub(crate) fn ask_to_end(filter: impl Fn(&ProcessStat) -> bool) -> Asked {
    match descendants(std::process::id()) {
        Ok(mut all) => {
            all.retain(filter);
            signal_each(&all, Signal::TERM);
            signal_each(&all, Signal::CONT);
            all.into_iter().map(ProcessStat::asked).collect()
        }
        Err(error) => {
            super::complain(format_args!("cannot look for the tree: {error}"));
            Asked::new()
        }
    }
}

/// Asks those that were forked by a process that died of our asking before it could pass the word
/// on. They are our own children now, or those of `init`, the first process of the tree's own
/// namespace; what a living member starts to clean up after itself is not, and is left in peace.
pub(crate) fn ask_orphans(asked: &mut Asked, init: Option<u32>) {
    let own = std::process::id();
    let new = ask_to_end(|stat| {
        (stat.parent == own || Some(stat.parent) == init) && !asked.contains(&stat.asked())
    });
    asked.extend(new);
}

/// Kills every living descendant of exactly this process, as [`kill_all`] does.
pub(crate) fn kill_below(root: &Identity) -> io::Result<usize> {
    kill_all(|| {
        let found = descendants(root.pid)?;
        // It lives still, so the number was its own all the while.
        Ok(if root.is_alive() { found } else { Vec::new() })
    })
}

/// Kills every living descendant of ours but the children that are spared and what is below them.
pub(crate) fn kill_own_except(spared: &HashSet<u32>) -> io::Result<usize> {
    kill_all(|| Ok(below(std::process::id(), spared, &table()?)))
}

/// Our children that have ended and wait to be reaped.
pub(crate) fn ended_children() -> io::Result<Vec<u32>> {
    let own = std::process::id();
    let all = table()?.into_iter();
    let ended = all.filter(|stat| stat.parent == own && stat.has_ended());
    Ok(ended.map(|stat| stat.pid).collect())
}

/// Kills everything that is found, also of one that forks as fast as it can: everything is stopped
/// first, until a look finds nothing new, so that nobody is left to fork while the killing goes on.
/// Says how many there were at the last look.
fn kill_all(find: impl Fn() -> io::Result<Vec<ProcessStat>>) -> io::Result<usize> {
    const LOOKS: usize = 64;
    let mut stopped = HashSet::new();
    for _ in 0..LOOKS {
        let new: Vec<_> = find()?
            .into_iter()
            .filter(|stat| stopped.insert((stat.pid, stat.start_ticks)))
            .collect();
        if new.is_empty() {
            break;
        }
        signal_each(&new, Signal::STOP);
    }
    let all = find()?;
    signal_each(&all, Signal::KILL);
    Ok(all.len())
}

/// Sends a signal to each of these, if it is still the same process.
fn signal_each(all: &[ProcessStat], signal: Signal) {
    for stat in all {
        // Who is gone needs no signal, and who may not be signalled shows up again at the next
        // look.
        let _ = stat.identity().and_then(|identity| identity.signal(signal));
    }
}

/// What is left of an attempt whose supervisor died: processes that carry its nonce, and members of
/// its session when that number is known to be pinned (its leader is dead and not yet reaped).
pub(crate) fn remains(nonce: Option<&str>, pinned_session: Option<u32>) -> io::Result<usize> {
    let own = std::process::id();
    let left: Vec<_> = table()?
        .into_iter()
        .filter(|stat| stat.pid != own && !stat.has_ended())
        .filter(|stat| {
            pinned_session == Some(stat.session)
                || nonce.is_some_and(|nonce| carries(stat.pid, nonce))
        })
        .collect();
    signal_each(&left, Signal::KILL);
    Ok(left.len())
}

fn carries(pid: u32, nonce: &str) -> bool {
    let wanted = format!("{MARKER}={nonce}");
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_fields_behind_it() {
        let text = "77 (a) S 1 1 (x) R 5 6 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        let stat = ProcessStat::parse(77, text).unwrap();
        assert_eq!(
            (stat.state, stat.parent, stat.session, stat.start_ticks),
            ('R', 5, 7, 4242)
        );
        assert!(stat.executed);
        let forked = text.replace("4194304", "4194368");
        assert!(!ProcessStat::parse(77, &forked).unwrap().executed);
        assert_eq!(ProcessStat::parse(1, "1 (x"), None);
        assert_eq!(ProcessStat::parse(1, "1 (x) S 1 2"), None);
    }

    #[test]
    fn descendants_are_found_through_any_depth_and_zombies_left_out() {
        let stat = |pid, parent, state| ProcessStat {
            pid,
            state,
            parent,
            executed: true,
            session: 1,
            start_ticks: 1,
        };
        let table = [
            stat(2, 1, 'S'),
            stat(3, 2, 'S'),
            stat(4, 3, 'Z'),
            stat(5, 4, 'R'),
            stat(6, 1, 'S'),
            stat(7, 7, 'S'),
        ];
        let mut found: Vec<_> = below(2, &HashSet::new(), &table)
            .iter()
            .map(|stat| stat.pid)
            .collect();
        found.sort_unstable();
        assert_eq!(found, [3, 5]);
        assert!(below(6, &HashSet::new(), &table).is_empty());
        let spared = below(1, &HashSet::from([2]), &table);
        assert_eq!(spared.iter().map(|stat| stat.pid).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn we_find_ourselves_below_our_parent() {
        let own = ProcessStat::read(std::process::id()).unwrap();
        assert!(
            descendants(own.parent)
                .unwrap()
                .iter()
                .any(|stat| stat.pid == own.pid)
        );
    }
}
