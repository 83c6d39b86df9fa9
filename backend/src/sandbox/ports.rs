//! Which ports sandboxes may use, and which of them are free on this machine.
//!
//! Ranges are disjoint and below the ephemeral range, so that no outgoing connection of anybody
//! takes one of them. Which of them sandboxes hold is in the store; what strangers hold is found by
//! trying. Only 127.0.0.1 is ever bound.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, TcpListener},
    ops::RangeInclusive,
};

use serde::{Deserialize, Serialize};

/// What a service is to its users; decides where its port lies.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// An API.
    Api,
    /// What people see in a browser.
    Frontend,
    /// A database with tables.
    Database,
    /// A database with documents.
    DocumentDatabase,
    /// A tool for administration.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [
        Self::Api,
        Self::Frontend,
        Self::Database,
        Self::DocumentDatabase,
        Self::Admin,
    ];

    /// Its name, as written and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Frontend => "frontend",
            Self::Database => "database",
            Self::DocumentDatabase => "document_database",
            Self::Admin => "admin",
        }
    }

    fn default_range(self) -> RangeInclusive<u16> {
        match self {
            Self::Api => 8001..=8079,
            Self::Frontend => 3001..=3099,
            Self::Database => 5433..=5532,
            Self::DocumentDatabase => 27018..=27117,
            Self::Admin => 8101..=8180,
        }
    }
}

/// The ports of every role: valid once made.
#[derive(Debug, Clone)]
pub struct Ranges {
    by_role: BTreeMap<Role, RangeInclusive<u16>>,
    excluded: BTreeSet<u16>,
}

/// Why ranges cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRanges {
    /// Not `first-last`.
    #[error("`{0}` is not a range of ports: write e.g. \"8001-8079\"")]
    NotARange(String),
    /// A range reaches into what the system gives to outgoing connections.
    #[error("the ports {first}-{last} of {role} reach into the ephemeral range, which begins at {ephemeral}: choose lower ones", role = role.as_str())]
    Ephemeral {
        /// Whose range.
        role: Role,
        /// Its first port.
        first: u16,
        /// Its last port.
        last: u16,
        /// Where the ephemeral range begins.
        ephemeral: u16,
    },
    /// Two ranges share ports.
    #[error("the ports of {} and {} overlap: every role needs its own", a.as_str(), b.as_str())]
    Overlap {
        /// One.
        a: Role,
        /// The other.
        b: Role,
    },
}

impl Default for Ranges {
    fn default() -> Self {
        let by_role = Role::ALL.map(|role| (role, role.default_range())).into();
        Self {
            by_role,
            excluded: BTreeSet::new(),
        }
    }
}

impl Ranges {
    /// The default ranges with these in place of some, checked against the machine's ephemeral
    /// range. Ports in `excluded` (our own listeners) are never given out.
    pub fn new(
        changed: impl IntoIterator<Item = (Role, RangeInclusive<u16>)>,
        excluded: impl IntoIterator<Item = u16>,
    ) -> Result<Self, BadRanges> {
        let mut ranges = Self::default();
        ranges.by_role.extend(changed);
        ranges.excluded.extend(excluded);
        ranges.check(ephemeral_from())?;
        Ok(ranges)
    }

    fn check(&self, ephemeral: u16) -> Result<(), BadRanges> {
        for (role, range) in &self.by_role {
            if *range.end() >= ephemeral {
                return Err(BadRanges::Ephemeral {
                    role: *role,
                    first: *range.start(),
                    last: *range.end(),
                    ephemeral,
                });
            }
            let overlap = |other: &RangeInclusive<u16>| {
                range.start() <= other.end() && other.start() <= range.end()
            };
            let other = self
                .by_role
                .iter()
                .find(|(other, range)| *other > role && overlap(range));
            if let Some((other, _)) = other {
                return Err(BadRanges::Overlap {
                    a: *role,
                    b: *other,
                });
            }
        }
        Ok(())
    }

    /// The ports of a role, lowest first.
    pub fn of(&self, role: Role) -> impl Iterator<Item = u16> + '_ {
        let range = self.by_role.get(&role).cloned();
        range
            .into_iter()
            .flatten()
            .filter(|port| !self.excluded.contains(port))
    }

    /// The role in whose range a port lies.
    pub fn role_of(&self, port: u16) -> Option<Role> {
        if self.excluded.contains(&port) {
            return None;
        }
        self.by_role
            .iter()
            .find(|(_, range)| range.contains(&port))
            .map(|(role, _)| *role)
    }
}

/// Reads `first-last`.
pub fn parse_range(text: &str) -> Result<RangeInclusive<u16>, BadRanges> {
    let parse = || {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first > 0 && first <= last).then_some(first..=last)
    };
    parse().ok_or_else(|| BadRanges::NotARange(text.to_owned()))
}

/// Where the ports begin that the system gives to outgoing connections.
fn ephemeral_from() -> u16 {
    // The kernel's own default stands in where it does not say.
    const USUAL: u16 = 32768;
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = text
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok());
    first.unwrap_or(USUAL)
}

/// Whether nobody listens on this port of 127.0.0.1 (or of every address) right now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// What is asked of the allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Any free port of the role.
    Any(Role),
    /// Exactly this one.
    Exactly(u16),
}

/// Why no ports were given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPort {
    /// Every port of the role is held, cooling down, or used by a stranger.
    #[error(
        "no port of the role {} is free: delete a sandbox that is not needed, wait for ports to cool down, or widen \
         [sandboxes.ports]", .0.as_str()
    )]
    Exhausted(Role),
    /// The port asked for lies in no range.
    #[error("port {0} is outside of every configured range: leave `port` out to be given one")]
    OutOfRange(u16),
    /// The port asked for is not free.
    #[error("port {0} is in use: leave `port` out to be given a free one")]
    Taken(u16),
}

/// Chooses a port for every wish, none twice, none of `held`, each free by `is_free` at this
/// moment.
pub fn choose(
    ranges: &Ranges,
    wishes: &[Wish],
    held: &BTreeSet<u16>,
    is_free: impl Fn(u16) -> bool,
) -> Result<Vec<u16>, NoPort> {
    let fixed: BTreeSet<u16> = wishes
        .iter()
        .filter_map(|wish| match wish {
            Wish::Exactly(port) => Some(*port),
            Wish::Any(_) => None,
        })
        .collect();
    let mut chosen = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let port = match *wish {
            Wish::Exactly(port) => {
                ranges.role_of(port).ok_or(NoPort::OutOfRange(port))?;
                let usable = !held.contains(&port) && !chosen.contains(&port) && is_free(port);
                usable.then_some(port).ok_or(NoPort::Taken(port))?
            }
            Wish::Any(role) => ranges
                .of(role)
                .find(|port| {
                    let spoken_for =
                        held.contains(port) || fixed.contains(port) || chosen.contains(port);
                    !spoken_for && is_free(*port)
                })
                .ok_or(NoPort::Exhausted(role))?,
        };
        chosen.push(port);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn the_defaults_hold_on_this_machine() {
        Ranges::default().check(32768).unwrap();
    }

    #[test]
    fn overlapping_and_ephemeral_ranges_are_refused() {
        let mut ranges = Ranges::default();
        ranges.by_role.insert(Role::Admin, 8079..=8090);
        assert_eq!(
            ranges.check(32768),
            Err(BadRanges::Overlap {
                a: Role::Api,
                b: Role::Admin
            })
        );
        ranges.by_role.insert(Role::Admin, 40000..=40010);
        assert!(matches!(
            ranges.check(32768),
            Err(BadRanges::Ephemeral {
                role: Role::Admin,
                ..
            })
        ));
        assert_eq!(parse_range("10-20"), Ok(10..=20));
        for bad in ["", "1", "20-10", "0-5", "1-70000", "a-b", "-"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_given_once_and_strangers_are_left_alone() {
        let ranges = Ranges::new([], [8001]).unwrap();
        let held = BTreeSet::from([8002]);
        let wishes = [
            Wish::Any(Role::Api),
            Wish::Exactly(8004),
            Wish::Any(Role::Api),
        ];
        assert_eq!(
            choose(&ranges, &wishes, &held, |port| port != 8003),
            Ok(vec![8005, 8004, 8006])
        );
        let refused = |wish| choose(&ranges, &[wish], &held, |port| port > 8003);
        assert_eq!(refused(Wish::Exactly(8002)), Err(NoPort::Taken(8002)));
        assert_eq!(refused(Wish::Exactly(8003)), Err(NoPort::Taken(8003)));
        assert_eq!(
            refused(Wish::Exactly(8001)),
            Err(NoPort::OutOfRange(8001)),
            "our own listener"
        );
        assert_eq!(refused(Wish::Exactly(22)), Err(NoPort::OutOfRange(22)));
        assert_eq!(
            choose(&ranges, &[Wish::Any(Role::Api)], &held, |_| false),
            Err(NoPort::Exhausted(Role::Api))
        );
    }

    #[test]
    fn a_listener_of_anybody_is_seen() {
        let stranger = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = stranger.local_addr().unwrap().port();
        assert!(!is_free(port));
        drop(stranger);
        assert!(is_free(port));
    }
}
