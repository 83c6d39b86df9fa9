//! How a command is kept from everything else: one mechanism for runs and for the services of
//! sandboxes.
//!
//! [`host`] finds out what this machine gives, [`Plan`] is what is done to one command,
//! [`selftest`] tries from inside a child that is confined exactly like a run whether it holds. The
//! steps themselves are taken by this program, executed again, on itself, one after the other, each
//! of them failing closed: `namespaces` and `mounts` by the first process of a pid namespace
//! ([`crate::supervisor`] starts it), then `apply` by the process that becomes the command.
//!
//! It must never weaken itself: what the plan asks for and the kernel refuses ends the start.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::supervisor::isolation::Isolation;

pub(crate) mod apply;
pub mod cgroup;
pub(crate) mod files;
pub mod host;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod privileges;
pub(crate) mod probe;
pub mod report;
pub mod selftest;
pub(crate) mod syscalls;

pub use limits::Limits;
pub(crate) use privileges::hide;

/// What is done to one command. Everything in it holds, or the command does not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The user it becomes; it stays ours when absent.
    pub user: Option<User>,
    /// Namespaces of its own.
    pub namespaces: Option<Namespaces>,
    /// Which network it sees.
    pub network: Network,
    /// The files it may reach, by the landlock ABI of this number, and the system calls it may
    /// make.
    pub rules: Option<Rules>,
    /// What it may use.
    pub limits: Limits,
    /// Existing files and folders it may read and execute; for the whole of a level they are all
    /// that is there.
    pub readable: Vec<PathBuf>,
    /// Existing folders it may change.
    pub writable: Vec<PathBuf>,
    /// Where control groups for commands are made.
    pub cgroups: Option<cgroup::Base>,
}

/// A user a command becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

/// How namespaces are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespaces {
    /// By our own right.
    Privileged,
    /// In a user namespace, which anybody may make where the host allows it.
    Unprivileged,
}

/// Which network a command sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The machine's.
    Host,
    /// None: a network namespace with a loopback of its own, or, without namespaces, no internet
    /// sockets.
    None,
}

/// Which rules of the kernel hold for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The landlock ABI that is applied.
    pub landlock: i32,
}

/// The first landlock ABI that keeps files from being cut off.
const TRUNCATION: i32 = 3;
/// The first landlock ABI that keeps signals and abstract sockets in.
pub(crate) const SCOPES: i32 = 6;

impl Plan {
    /// Nothing but the limits: the level `group`.
    pub fn open() -> Self {
        Self {
            user: None,
            namespaces: None,
            network: Network::Host,
            rules: None,
            limits: Limits::default(),
            readable: Vec::new(),
            writable: Vec::new(),
            cgroups: None,
        }
    }

    /// The level that this plan is, if all of it holds.
    pub fn level(&self) -> Isolation {
        let Some(rules) = self.rules else {
            return Isolation::Group;
        };
        // Somebody else's by its user, out of sight, or kept in by landlock.
        let apart = self.namespaces.is_some() || self.user.is_some();
        if !apart && rules.landlock < SCOPES.max(TRUNCATION) {
            return Isolation::Group;
        }
        match (self.namespaces, self.network, self.user) {
            (None, _, _) | (_, Network::Host, _) => Isolation::Confined,
            (Some(_), Network::None, None) => Isolation::Contained,
            (Some(_), Network::None, Some(_)) => Isolation::User,
        }
    }

    /// Whether unix sockets can be allowed: only where none of others is in sight.
    pub(crate) fn unix_sockets(&self) -> bool {
        let abstract_closed = self.network == Network::None
            || self.rules.is_some_and(|rules| rules.landlock >= SCOPES);
        self.namespaces.is_some() && abstract_closed
    }

    /// The mode of folders of ours on the way to what a command may use.
    pub(crate) fn way(&self) -> u32 {
        match (self.user, self.namespaces) {
            // Another user has to get through by its path.
            (Some(_), None) => 0o711,
            (None, _) | (Some(_), Some(_)) => 0o700,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        landlock: Option<i32>,
        namespaces: Option<Namespaces>,
        network: Network,
        user: Option<User>,
    ) -> Plan {
        Plan {
            rules: landlock.map(|landlock| Rules { landlock }),
            namespaces,
            network,
            user,
            ..Plan::open()
        }
    }

    #[test]
    fn a_level_is_reached_only_with_all_of_its_parts() {
        let namespaces = Some(Namespaces::Unprivileged);
        let user = Some(User { uid: 7, gid: 7 });
        let (host, none) = (Network::Host, Network::None);
        for (plan, level) in [
            (plan(None, namespaces, none, user), Isolation::Group),
            (plan(Some(5), None, host, None), Isolation::Group),
            (plan(Some(5), None, host, user), Isolation::Confined),
            (plan(Some(6), None, none, user), Isolation::Confined),
            (plan(Some(6), namespaces, host, user), Isolation::Confined),
            (plan(Some(1), namespaces, none, None), Isolation::Contained),
            (plan(Some(6), namespaces, none, user), Isolation::User),
        ] {
            assert_eq!(plan.level(), level, "{plan:?}");
        }
    }

    #[test]
    fn unix_sockets_are_for_those_who_see_none_of_others() {
        let namespaces = Some(Namespaces::Privileged);
        assert!(!plan(Some(7), None, Network::None, None).unix_sockets());
        assert!(!plan(Some(5), namespaces, Network::Host, None).unix_sockets());
        assert!(plan(Some(5), namespaces, Network::None, None).unix_sockets());
        assert!(plan(Some(6), namespaces, Network::Host, None).unix_sockets());
    }
}
