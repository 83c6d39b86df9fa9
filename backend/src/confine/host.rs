//! What this machine lets us do, and the plans that come of it, strongest first. Nothing is believed
//! here: every plan is tried by the self-test before a command gets it.

use std::path::{Path, PathBuf};

use super::{Namespaces, Network, Plan, Rules, cgroup, files};
use crate::{
    settings::confinement::{Aim, Confinement, Groups},
    supervisor::isolation::Isolation,
};

/// What every command may read, where it is there: programs, libraries, and the few files of `/etc`
/// that programs ask for names, certificates and time. No home, no `/run`, no `/var`, no secret.
const READABLE: &[&str] = &[
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/opt",
    "/sbin",
    "/usr",
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/ca-certificates",
    "/etc/debian_version",
    "/etc/gai.conf",
    "/etc/gitconfig",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/java",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/locale.conf",
    "/etc/localtime",
    "/etc/magic",
    "/etc/manpath.config",
    "/etc/mime.types",
    "/etc/mke2fs.conf",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/perl",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/profile",
    "/etc/profile.d",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/rpc",
    "/etc/services",
    "/etc/shells",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// What was found out about this machine.
#[derive(Debug, Clone)]
pub struct Host {
    /// The landlock ABI; 0 without landlock.
    pub landlock: i32,
    /// Whether we are root.
    pub root: bool,
    /// Where control groups can be made, or why nowhere.
    pub cgroups: Result<cgroup::Base, String>,
}

impl Host {
    /// Looks, and prepares the control groups that are asked for.
    pub fn look(groups: Groups) -> Self {
        Self {
            landlock: files::abi(),
            root: rustix::process::geteuid().is_root(),
            cgroups: match groups {
                Groups::Off => Err("switched off".into()),
                Groups::Auto => cgroup::unified(),
                Groups::V1 => cgroup::separate(),
            },
        }
    }

    /// The plans that may reach what is configured, strongest first; none when this machine cannot.
    pub fn plans(&self, settings: &Confinement) -> Vec<Plan> {
        let open = Plan {
            user: settings.run_as,
            network: settings.network,
            limits: settings.limits.clone(),
            cgroups: self.cgroups.as_ref().ok().cloned(),
            readable: readable(&settings.readable),
            writable: settings.writable.clone(),
            ..Plan::open()
        };
        let group = Plan {
            network: Network::Host,
            ..open.clone()
        };
        let confined = Plan {
            rules: Some(Rules {
                landlock: self.landlock,
            }),
            ..open
        };
        let apart = |namespaces| Plan {
            namespaces: Some(namespaces),
            ..confined.clone()
        };
        let mut plans = Vec::new();
        if self.landlock > 0 {
            if settings.aim != Aim::At(Isolation::Confined) {
                if self.root {
                    plans.push(apart(Namespaces::Privileged));
                }
                if settings.run_as.is_none() {
                    plans.push(apart(Namespaces::Unprivileged));
                }
            }
            plans.push(confined);
        }
        plans.push(group);
        match settings.aim {
            Aim::Auto => {}
            Aim::At(Isolation::None | Isolation::Group) => {
                plans.retain(|plan| plan.rules.is_none());
            }
            Aim::At(level) => plans.retain(|plan| plan.level() >= level),
        }
        if settings.run_as.is_some() && !self.root {
            plans.clear();
        }
        plans
    }
}

fn readable(more: &[PathBuf]) -> Vec<PathBuf> {
    let system = READABLE.iter().map(Path::new).filter(|path| path.exists());
    let mut all: Vec<_> = system.map(Path::to_owned).collect();
    all.extend(more.iter().cloned());
    all
}

/// The plan for services that others have to reach: the network stays the machine's.
pub(super) fn for_services(plan: &Plan) -> Plan {
    Plan {
        network: Network::Host,
        ..plan.clone()
    }
}
