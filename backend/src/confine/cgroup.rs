//! Control groups of commands: bounds for a whole tree, and a certain way to end it.
//!
//! Used where they are ours to use: below our own group of the unified hierarchy (v2) when it was
//! delegated to us, or below our groups of the separate hierarchies (v1) when the configuration asks
//! for it. Every attempt has a folder of its own, which is removed when its tree is gone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Limits;

/// What a control group bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Memory of all processes together.
    Memory,
    /// How many processes and threads there are.
    Processes,
    /// Time on processors.
    Cpu,
}

/// Where groups for commands are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// One folder of the unified hierarchy, with what can be bounded there.
    Unified {
        /// The folder.
        dir: PathBuf,
        /// What is bounded in its children.
        bounds: Vec<Resource>,
    },
    /// A folder for each resource.
    Separate {
        /// Them.
        dirs: Vec<(Resource, PathBuf)>,
    },
}

/// Period over which processor time is given out, in microseconds.
const PERIOD_US: u64 = 100_000;

impl Base {
    /// Whether this resource is bounded here.
    pub fn limits(&self, resource: Resource) -> bool {
        match self {
            Self::Unified { bounds, .. } => bounds.contains(&resource),
            Self::Separate { dirs } => dirs.iter().any(|(found, _)| *found == resource),
        }
    }

    /// `v1` or `v2`, for people.
    pub fn version(&self) -> &'static str {
        match self {
            Self::Unified { .. } => "v2",
            Self::Separate { .. } => "v1",
        }
    }

    /// The group of one attempt.
    pub(crate) fn group(&self, name: &str) -> Group {
        let dirs = match self {
            Self::Unified { dir, .. } => vec![dir.join(name)],
            Self::Separate { dirs } => dirs.iter().map(|(_, dir)| dir.join(name)).collect(),
        };
        Group { dirs }
    }

    /// Makes the group of an attempt with its bounds.
    pub(crate) fn create(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        let group = self.group(name);
        let fill = || -> io::Result<()> {
            for dir in &group.dirs {
                match fs::create_dir(dir) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    made => made?,
                }
            }
            match self {
                Self::Unified { dir, bounds } => {
                    let dir = dir.join(name);
                    for resource in bounds {
                        bound(&dir, *resource, limits, &UNIFIED)?;
                    }
                }
                Self::Separate { dirs } => {
                    for (resource, dir) in dirs {
                        bound(&dir.join(name), *resource, limits, &SEPARATE)?;
                    }
                }
            }
            Ok(())
        };
        fill().map_err(|error| {
            group.remove();
            io::Error::new(error.kind(), format!("control group {name}: {error}"))
        })?;
        Ok(group)
    }
}

/// The files that hold bounds.
struct Names {
    memory: &'static [&'static str],
    cpu: fn(&Path, u64) -> io::Result<()>,
}

const UNIFIED: Names = Names {
    memory: &["memory.max"],
    cpu: |dir, quota| fs::write(dir.join("cpu.max"), format!("{quota} {PERIOD_US}")),
};
const SEPARATE: Names = Names {
    memory: &["memory.limit_in_bytes"],
    cpu: |dir, quota| {
        fs::write(dir.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
        fs::write(dir.join("cpu.cfs_quota_us"), quota.to_string())
    },
};

fn bound(dir: &Path, resource: Resource, limits: &Limits, names: &Names) -> io::Result<()> {
    match resource {
        Resource::Memory => {
            let Some(bytes) = limits.memory else {
                return Ok(());
            };
            for name in names.memory {
                fs::write(dir.join(name), bytes.to_string())?;
            }
            // Without it memory would only move to where it costs everybody. Not every kernel has it.
            for (swap, value) in [
                ("memory.swap.max", 0),
                ("memory.memsw.limit_in_bytes", bytes),
            ] {
                if dir.join(swap).exists() {
                    fs::write(dir.join(swap), value.to_string())?;
                }
            }
            Ok(())
        }
        Resource::Processes => fs::write(dir.join("pids.max"), limits.processes.to_string()),
        Resource::Cpu => match limits.cpu {
            None => Ok(()),
            Some(thousandths) => (names.cpu)(dir, thousandths.saturating_mul(PERIOD_US) / 1000),
        },
    }
}

/// The group of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    dirs: Vec<PathBuf>,
}

impl Group {
    /// Goes there, and with us everything we start.
    pub(crate) fn join(&self) -> io::Result<()> {
        for dir in &self.dirs {
            fs::write(dir.join("cgroup.procs"), "0").map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", dir.display()))
            })?;
        }
        Ok(())
    }

    /// Kills everything in it at once, where the kernel can. Says whether it did.
    pub(crate) fn kill(&self) -> bool {
        let mut killed = false;
        for dir in &self.dirs {
            killed |= fs::write(dir.join("cgroup.kill"), "1").is_ok();
        }
        killed
    }

    /// Removes it. One that still has processes stays, and is found again at a later start.
    pub(crate) fn remove(&self) {
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// The folder below our own group in which the groups of commands lie.
const COMMANDS: &str = "orket-commands";
/// The folder we go to ourselves, for a group that bounds children may have no processes.
const OWN: &str = "orket-backend";

/// Our own group of the unified hierarchy, made ready for commands, if it is ours to use; else why
/// not.
pub(super) fn unified() -> Result<Base, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let root = mounts
        .lines()
        .map(|line| line.split(' '))
        .find_map(|mut fields| {
            let (point, kind) = (fields.nth(1)?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(point))
        })
        .ok_or("there is no unified hierarchy of control groups (v2)")?;
    let own = own_group("")?;
    let dir = root.join(own.trim_start_matches('/'));
    // Where an earlier start of ours went already.
    let dir = match dir.strip_prefix(&root) {
        Ok(inside) if inside.ends_with(OWN) => dir.parent().unwrap_or(&dir).to_owned(),
        Ok(_) | Err(_) => dir,
    };
    if dir == root {
        return Err("our control group is the root of the machine's".into());
    }
    let commands = dir.join(COMMANDS);
    let ready = || -> io::Result<Vec<Resource>> {
        make(&dir.join(OWN))?;
        make(&commands)?;
        fs::write(
            dir.join(OWN).join("cgroup.procs"),
            std::process::id().to_string(),
        )?;
        let mut bounds = Vec::new();
        for (name, resource) in CONTROLLERS {
            let enable = format!("+{name}");
            let enabled = fs::write(dir.join("cgroup.subtree_control"), &enable)
                .and_then(|()| fs::write(commands.join("cgroup.subtree_control"), &enable));
            if enabled.is_ok() {
                bounds.push(resource);
            }
        }
        Ok(bounds)
    };
    let bounds = ready().map_err(|error| {
        format!(
            "{} is not ours to divide ({error}): delegate it (`Delegate=yes` in a systemd unit)",
            dir.display()
        )
    })?;
    Ok(Base::Unified {
        dir: commands,
        bounds,
    })
}

const CONTROLLERS: [(&str, Resource); 3] = [
    ("memory", Resource::Memory),
    ("pids", Resource::Processes),
    ("cpu", Resource::Cpu),
];

/// Our groups of the separate hierarchies, made ready for commands: those we may use, at least that
/// of processes.
pub(super) fn separate() -> Result<Base, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let mut dirs = Vec::new();
    let mut why = "it is not mounted".to_owned();
    for (name, resource) in CONTROLLERS {
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let is_it = kind == "cgroup" && options.split(',').any(|option| option == name);
            is_it.then(|| PathBuf::from(point))
        });
        let Some(root) = root else { continue };
        let own = own_group(name)?;
        let dir = root.join(own.trim_start_matches('/')).join(COMMANDS);
        match make(&dir) {
            Ok(()) => dirs.push((resource, dir)),
            Err(error) => why = format!("{}: {error}", dir.display()),
        }
    }
    if dirs.iter().any(|(found, _)| *found == Resource::Processes) {
        Ok(Base::Separate { dirs })
    } else {
        Err(format!(
            "no control group (v1) for processes can be made: {why}"
        ))
    }
}

/// Our group in the hierarchy of a controller; that of the unified one without a name.
fn own_group(controller: &str) -> Result<String, String> {
    let text = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    text.lines()
        .find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            names
                .split(',')
                .any(|name| name == controller)
                .then(|| path.to_owned())
        })
        .ok_or_else(|| format!("we are in no control group of `{controller}`"))
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}
