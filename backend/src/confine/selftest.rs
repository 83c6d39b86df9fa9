//! Tries from inside a child that is confined exactly like a run what a run must not reach, and
//! decides by that what this machine's level is.
//!
//! A level that was asked for by name and does not hold keeps the backend from starting. `auto` takes
//! the strongest plan that works, and is called by no more than what it kept.

use std::{
    fs, io,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr as UnixAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Network, Plan,
    host::{Host, for_services},
    probe::{Door, PROBE},
    report::{Finding, Report},
};
use crate::{
    executor::{Executor, Exit, Launch, Outcome, Update},
    settings::{
        Address,
        confinement::{Aim, Confinement, KeptOut},
    },
    supervisor::{identity::Identity, isolation::Isolation},
};

/// How long one child may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Engines that hand out root's power to whoever reaches them.
const ENGINES: [&str; 5] = [
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/systemd/private",
];

/// How commands are confined from now on.
#[derive(Debug, Clone)]
pub struct Posture {
    /// What is done to a run.
    pub(crate) runs: Plan,
    /// What is done to a service of a sandbox.
    pub(crate) services: Plan,
    /// What is said about it.
    pub report: Report,
}

/// Why commands are not confined as they have to be.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// No plan that reaches the level works.
    #[error(
        "[confinement] level = \"{}\" cannot be reached here: {}; ask for less, or see docs/RUNBOOK.md, \
         A stronger level of isolation",
        level.name(),
        if why.is_empty() { "this machine has no means for it" } else { why }
    )]
    Unreachable {
        /// What is asked for.
        level: Isolation,
        /// What was tried, and what came of it.
        why: String,
    },
    /// The user of commands cannot be taken on.
    #[error(
        "[confinement] run_as needs a backend that runs as root: start it as root, or leave run_as out"
    )]
    RunAs,
    /// A child reached what the level promises to close.
    #[error(
        "[confinement] level = \"{}\" does not hold: a command reaches {}; close that, or ask for less",
        level.name(),
        holes.join(", ")
    )]
    Holes {
        /// What is asked for.
        level: Isolation,
        /// What was reached.
        holes: Vec<String>,
    },
    /// Commands could not work.
    #[error(
        "commands could not work here: {0}; give their user what is missing, or ask for another [confinement] level"
    )]
    Useless(String),
    /// The self-test itself failed.
    #[error(
        "the self-test of confinement failed: {0}; see to the folder beside the store and the one of [listen] address"
    )]
    Io(io::Error),
}

impl From<io::Error> for ConfineError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What is ours, and must not be reached.
#[derive(Debug, Clone)]
pub struct Ours<'a> {
    /// Where the backend listens, or will.
    pub address: &'a Address,
    /// The store's file.
    pub store: &'a Path,
    /// The folder beside it.
    pub state: &'a Path,
    /// Where commands work.
    pub workspace: &'a Path,
    /// The supervisors' program, see [`Executor::new`].
    pub program: &'a Path,
}

/// Finds the strongest confinement that is allowed and works.
pub async fn establish(settings: &Confinement, ours: &Ours<'_>) -> Result<Posture, ConfineError> {
    let host = Host::look(settings.groups);
    if settings.run_as.is_some() && !host.root {
        return Err(ConfineError::RunAs);
    }
    let mut notes = Vec::new();
    if let Err(why) = &host.cgroups {
        notes.push(format!("no control groups: {why}"));
    }
    if host.landlock == 0 {
        notes.push("this kernel has no landlock".into());
    }
    if host.root && settings.run_as.is_none() {
        notes.push("commands run as root: name a user in [confinement] run_as".into());
    }
    let mut last = None;
    for plan in host.plans(settings) {
        let found = match attempt(&plan, settings, ours).await {
            Ok(found) => found,
            Err(ConfineError::Useless(why)) => {
                notes.push(format!("{}: {why}", describe(&plan)));
                last = Some(why);
                continue;
            }
            Err(error) => return Err(error),
        };
        let level = held(&plan, &found);
        if let Aim::At(asked) = settings.aim
            && asked > level
        {
            let holes = found.iter().filter(|finding| finding.is_hole(asked));
            let holes = holes.map(|finding| finding.what.clone()).collect();
            return Err(ConfineError::Holes {
                level: asked,
                holes,
            });
        }
        if level < plan.level() {
            let holes = found.iter().filter(|finding| finding.is_hole(plan.level()));
            let holes: Vec<_> = holes.map(|finding| finding.what.as_str()).collect();
            notes.push(format!("a command reaches {}", holes.join(", ")));
        }
        let services = for_services(&plan);
        let services_level = services.level().min(level);
        let mut report = Report::of(&plan, level, services_level);
        report.notes = notes;
        report.self_test = found;
        return Ok(Posture {
            runs: plan,
            services,
            report,
        });
    }
    match settings.aim {
        Aim::At(level) => Err(ConfineError::Unreachable {
            level,
            why: notes.join("; "),
        }),
        Aim::Auto => Err(ConfineError::Useless(last.unwrap_or_default())),
    }
}

/// The highest level up to the plan's own that has no hole.
fn held(plan: &Plan, found: &[Finding]) -> Isolation {
    let holds = |level: &Isolation| !found.iter().any(|finding| finding.is_hole(*level));
    let levels = Isolation::ALL
        .into_iter()
        .filter(|level| *level <= plan.level());
    levels.filter(holds).max().unwrap_or(Isolation::None)
}

fn describe(plan: &Plan) -> &'static str {
    match (plan.rules, plan.namespaces) {
        (None, _) => "without confinement",
        (Some(_), None) => "without namespaces",
        (Some(_), Some(_)) => "with namespaces",
    }
}

/// A door, how it is called, and from which level on it is shut.
type Named = (String, Door, Isolation);

async fn attempt(
    plan: &Plan,
    settings: &Confinement,
    ours: &Ours<'_>,
) -> Result<Vec<Finding>, ConfineError> {
    let place = ours.state.join("self-test");
    let _ = fs::remove_dir_all(&place);
    let stage = Stage::set(&place, plan, ours)?;
    let mut doors = stage.doors(plan, ours)?;
    let more = settings.keep_out.iter().filter_map(|kept| {
        let (door, level) = kept_out(kept, plan)?;
        let name = kept.to_string();
        (!doors.iter().any(|(known, ..)| *known == name)).then_some((name, door, level))
    });
    let more = more.collect::<Vec<_>>();
    doors.extend(more);
    // The last one: whoever gets through it is somebody else afterwards.
    let namespaces = "namespaces".to_owned();
    doors.push((namespaces, Door::Namespace, Isolation::Confined));
    // Where a command has to be able to write.
    let needed = [
        (
            ours.workspace.display().to_string(),
            Door::Write(ours.workspace.to_owned()),
        ),
        ("its temporary folder".to_owned(), Door::Temporary),
    ];
    let reached = ask(plan, ours, &place, &doors, &needed).await;
    drop(stage);
    let _ = fs::remove_dir_all(&place);
    let (reached, works) = reached?;
    if let Some(((name, _), _)) = needed.iter().zip(works).find(|(_, works)| !works) {
        return Err(ConfineError::Useless(format!(
            "a command cannot write to {name}"
        )));
    }
    let findings = doors.into_iter().zip(reached);
    Ok(findings
        .map(|((what, _, closed_from), reached)| Finding {
            what,
            reached,
            closed_from,
        })
        .collect())
}

/// What is set up for the child to be tempted by, and removed afterwards.
struct Stage {
    socket: Option<PathBuf>,
    abstract_name: String,
    other: PathBuf,
    tcp: TcpListener,
    _listeners: Vec<UnixListener>,
}

impl Stage {
    fn set(place: &Path, plan: &Plan, ours: &Ours<'_>) -> io::Result<Self> {
        crate::private_dir(place)?;
        for way in [ours.state, place] {
            fs::set_permissions(way, fs::Permissions::from_mode(plan.way()))?;
        }
        let mut listeners = Vec::new();
        // Beside the real one: what reaches it reaches that one.
        let socket = match ours.address {
            Address::Tcp(_) => None,
            Address::Unix(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".self-test");
                let beside = PathBuf::from(name);
                let _ = fs::remove_file(&beside);
                if let Ok(listener) = UnixListener::bind(&beside) {
                    fs::set_permissions(&beside, fs::Permissions::from_mode(0o660))?;
                    listeners.push(listener);
                }
                Some(beside)
            }
        };
        let abstract_name = format!("orket-self-test-{}", ulid::Ulid::generate());
        let address = UnixAddr::from_abstract_name(&abstract_name)?;
        listeners.push(UnixListener::bind_addr(&address)?);
        let other = place.join("other");
        crate::private_dir(&other)?;
        fs::write(other.join("claim.json"), "{}")?;
        Ok(Self {
            socket,
            abstract_name,
            other,
            tcp: TcpListener::bind(("127.0.0.1", 0))?,
            _listeners: listeners,
        })
    }

    fn doors(&self, plan: &Plan, ours: &Ours<'_>) -> io::Result<Vec<Named>> {
        let own = Identity::own()?;
        let named = |what: &str, door, level| (what.to_owned(), door, level);
        let confined = Isolation::Confined;
        let mut doors = vec![
            named("the store", Door::Read(ours.store.to_owned()), confined),
            named(
                "the state folder",
                Door::Read(ours.state.to_owned()),
                confined,
            ),
            named(
                "a file in the state folder",
                Door::Write(ours.state.to_owned()),
                confined,
            ),
            named(
                "another attempt's files",
                Door::Read(self.other.join("claim.json")),
                confined,
            ),
            named(
                "another attempt's folder",
                Door::Write(self.other.clone()),
                confined,
            ),
            named(
                "an abstract unix socket",
                Door::Abstract(self.abstract_name.clone()),
                confined,
            ),
            named(
                "a TCP listener of this machine",
                Door::Tcp(self.tcp.local_addr()?),
                network(plan),
            ),
            named(
                "the backend's memory, environment or files",
                Door::Inspect(own.clone()),
                confined,
            ),
            named("tracing the backend", Door::Trace(own.clone()), confined),
            named(
                "signals to the backend",
                Door::Signal(own.clone()),
                confined,
            ),
            named("its own supervisor", Door::Watcher, confined),
            named("root's power", Door::Privileges, confined),
            named("mounts", Door::Mount, confined),
            named("unfiltered system calls", Door::Calls, confined),
            named(
                "the sight of other processes",
                Door::See(own),
                Isolation::Contained,
            ),
            named(
                "the backend's own user",
                Door::OwnUser(rustix::process::geteuid().as_raw()),
                Isolation::User,
            ),
            named(
                "groups that are not its user's",
                Door::Groups,
                Isolation::User,
            ),
        ];
        if let Some(socket) = &self.socket {
            doors.push(named(
                "the backend's socket",
                Door::Socket(socket.clone()),
                confined,
            ));
        }
        if let Address::Tcp(address) = ours.address {
            doors.push(named(
                "the backend's listener",
                Door::Tcp(*address),
                network(plan),
            ));
        }
        for engine in ENGINES
            .map(Path::new)
            .into_iter()
            .filter(|path| path.exists())
        {
            let what = engine.to_string_lossy();
            doors.push(named(&what, Door::Socket(engine.to_owned()), confined));
        }
        Ok(doors)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = fs::remove_file(socket);
        }
    }
}

/// From which level on other programs' listeners are out of reach.
fn network(plan: &Plan) -> Isolation {
    match plan.network {
        Network::Host => Isolation::Contained,
        Network::None => Isolation::Confined,
    }
}

/// What the configuration names; nothing for what is not there.
fn kept_out(kept: &KeptOut, plan: &Plan) -> Option<(Door, Isolation)> {
    match kept {
        KeptOut::Tcp(address) => Some((Door::Tcp(*address), network(plan))),
        KeptOut::Path(path) => {
            use std::os::unix::fs::FileTypeExt as _;
            let found = path.metadata().ok()?;
            let door = if found.file_type().is_socket() {
                Door::Socket(path.clone())
            } else {
                Door::Read(path.clone())
            };
            Some((door, Isolation::Confined))
        }
    }
}

/// Starts the child and hears what it found: of the doors, and of what is needed.
async fn ask(
    plan: &Plan,
    ours: &Ours<'_>,
    place: &Path,
    doors: &[Named],
    needed: &[(String, Door)],
) -> Result<(Vec<bool>, Vec<bool>), ConfineError> {
    let all = doors.iter().map(|(_, door, _)| door.clone());
    let all: Vec<Door> = all
        .chain(needed.iter().map(|(_, door)| door.clone()))
        .collect();
    let program = ours.program.canonicalize()?;
    let executor = Executor::new(place.join("attempts"), ours.program)?
        .confining(plan.clone(), plan.level())?;
    let launch = Launch {
        id: "self-test.1".into(),
        argv: vec![
            program.to_string_lossy().into_owned(),
            PROBE.to_owned(),
            serde_json::to_string(&all).map_err(io::Error::from)?,
        ],
        env: [].into(),
        workdir: ours.workspace.to_owned(),
        readable: vec![program],
        writable: vec![ours.workspace.to_owned()],
        network: plan.network,
        timeout: Some(PATIENCE),
        grace: Duration::ZERO,
        output_cap: 1 << 20,
    };
    let attempt = executor.start(launch).await;
    let mut attempt = attempt.map_err(|error| ConfineError::Useless(error.to_string()))?;
    let mut text = Vec::new();
    let mut end: Option<Exit> = None;
    while let Some(update) = attempt.updates.recv().await {
        match update {
            Update::Output(records) => {
                text.extend(records.into_iter().flat_map(|record| record.bytes));
            }
            Update::Ended(exit) => end = Some(exit),
            Update::Unbegun { detail } => end = Some(Exit::now(Outcome::LaunchFailed { detail })),
        }
    }
    let said = String::from_utf8_lossy(&text).into_owned();
    match end.map(|exit| exit.outcome) {
        Some(Outcome::Exited { code: 0 }) => {}
        Some(Outcome::LaunchFailed { detail } | Outcome::CommandNotFound { detail }) => {
            return Err(ConfineError::Useless(detail));
        }
        other => {
            return Err(ConfineError::Useless(format!("{other:?}: {said}")));
        }
    }
    let mut reached: Vec<bool> = serde_json::from_str(&said)
        .map_err(|error| ConfineError::Useless(format!("{error}: {said}")))?;
    if reached.len() != doors.len() + needed.len() {
        return Err(ConfineError::Useless(
            "an answer of the wrong length".into(),
        ));
    }
    let works = reached.split_off(doors.len());
    Ok((reached, works))
}
