//! What one command may use, as limits of the process and of its control group.

use std::{fs, io, os::unix::fs::MetadataExt as _};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::Plan;

/// What one command, with everything it starts, may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Processes and threads.
    pub processes: u64,
    /// Files that one process may have open.
    pub open_files: u64,
    /// Bytes of one file.
    pub file_size: Option<u64>,
    /// Bytes of memory: of all together in a control group, else of each process.
    pub memory: Option<u64>,
    /// Thousandths of a processor; needs a control group.
    pub cpu: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            processes: 4096,
            open_files: 65_536,
            file_size: None,
            memory: None,
            cpu: None,
        }
    }
}

/// Sets the limits of this process. The last thing before system calls are filtered.
pub(super) fn set(plan: &Plan) -> io::Result<()> {
    let limits = &plan.limits;
    at_most(Resource::Core, 0)?;
    at_most(Resource::Nofile, limits.open_files)?;
    if let Some(bytes) = limits.file_size {
        at_most(Resource::Fsize, bytes)?;
    }
    let grouped = |resource| {
        plan.cgroups
            .as_ref()
            .is_some_and(|base| base.limits(resource))
    };
    if let Some(bytes) = limits.memory
        && !grouped(super::cgroup::Resource::Memory)
    {
        // Writable memory of its own. The address space says little: runtimes reserve a lot of it.
        at_most(Resource::Data, bytes)?;
    }
    if plan.rules.is_some() && !grouped(super::cgroup::Resource::Processes) {
        // Counted for the user as a whole, or for its user namespace where it has one.
        let before = match plan.namespaces {
            Some(super::Namespaces::Unprivileged) => 0,
            Some(super::Namespaces::Privileged) | None => threads_of_user(),
        };
        at_most(Resource::Nproc, before.saturating_add(limits.processes))?;
    }
    Ok(())
}

/// Never raises what is lower already.
fn at_most(resource: Resource, value: u64) -> io::Result<()> {
    let hard = getrlimit(resource).maximum;
    let value = Some(hard.map_or(value, |hard| hard.min(value)));
    setrlimit(
        resource,
        Rlimit {
            current: value,
            maximum: value,
        },
    )?;
    Ok(())
}

/// How many threads our user has, as far as we may see.
fn threads_of_user() -> u64 {
    let own = rustix::process::getuid().as_raw();
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let mut sum: u64 = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_process = name
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        if is_process && entry.metadata().is_ok_and(|found| found.uid() == own) {
            let tasks = fs::metadata(entry.path().join("task")).map_or(3, |found| found.nlink());
            sum = sum.saturating_add(tasks.saturating_sub(2));
        }
    }
    sum
}
