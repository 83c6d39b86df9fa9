//! Which files a command reaches, by landlock; with them the network and, on newer kernels, who it
//! may signal.

use std::{io, path::Path};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus,
    Scope,
};

use super::{Network, Plan, SCOPES};

/// The first ABI that knows TCP.
const TCP: i32 = 4;
/// The newest ABI that is known here.
const NEWEST: i32 = 6;

/// Devices that everybody may use.
pub(super) const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

/// Rules whose paths are open and that hold for nobody yet.
pub(super) struct Prepared(RulesetCreated);

/// The ABI of this kernel; 0 without landlock.
pub(super) fn abi() -> i32 {
    (1..=NEWEST)
        .rev()
        .find(|abi| handled(*abi, Network::None).and_then(create).is_ok())
        .unwrap_or(0)
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("landlock: {error}"))
}

/// What is forbidden unless a rule allows it. All of it, or an error.
fn handled(abi: i32, network: Network) -> io::Result<Ruleset> {
    let known = ABI::from(abi.min(NEWEST));
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(known))
        .map_err(other)?;
    if abi >= TCP && network == Network::None {
        rules = rules
            .handle_access(AccessNet::from_all(known))
            .map_err(other)?;
    }
    if abi >= SCOPES {
        rules = rules.scope(Scope::from_all(known)).map_err(other)?;
    }
    Ok(rules)
}

fn create(rules: Ruleset) -> io::Result<RulesetCreated> {
    rules.create().map_err(other)
}

/// Opens every path of the plan, while we may still reach them.
pub(super) fn prepare(plan: &Plan, abi: i32, tmp: &Path) -> io::Result<Prepared> {
    // A network namespace has nobody else in it; its loopback may be used.
    let network = match plan.namespaces {
        Some(_) => Network::Host,
        None => plan.network,
    };
    let known = ABI::from(abi.min(NEWEST));
    let all = AccessFs::from_all(known);
    let read = AccessFs::from_read(known);
    let change = all & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut rules = create(handled(abi, network)?)?;
    for path in plan
        .readable
        .iter()
        .map(AsRef::as_ref)
        .chain(["/proc".as_ref()])
    {
        rules = allow(rules, path, read)?;
    }
    for device in DEVICES {
        let device: &Path = device.as_ref();
        if device.exists() {
            rules = allow(rules, device, all)?;
        }
    }
    if plan.namespaces.is_some() {
        // What is there at all was given to it.
        rules = allow(rules, Path::new("/"), AccessFs::ReadDir.into())?;
    }
    let shared = plan.namespaces.map(|_| Path::new("/dev/shm"));
    for path in plan
        .writable
        .iter()
        .map(AsRef::as_ref)
        .chain([tmp])
        .chain(shared)
    {
        rules = allow(rules, path, change)?;
    }
    Ok(Prepared(rules))
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> io::Result<RulesetCreated> {
    let descriptor = PathFd::new(path).map_err(other)?;
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(ABI::from(NEWEST))
    };
    rules
        .add_rule(PathBeneath::new(descriptor, access))
        .map_err(|error| other(format!("{}: {error}", path.display())))
}

/// From now on they hold for us and everything we start.
pub(super) fn hold(Prepared(rules): Prepared) -> io::Result<()> {
    let status = rules.restrict_self().map_err(other)?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced => {
            Err(other("not all of the rules hold"))
        }
    }
}
