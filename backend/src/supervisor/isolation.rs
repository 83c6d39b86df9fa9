//! How far a command is kept from everything else, as levels that can be compared.

use serde::{Deserialize, Serialize};

/// Isolation levels, weakest first; a stronger one includes the weaker ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Nothing.
    None,
    /// Own session, child subreaper, resource limits, no new privileges.
    Group,
    /// Plus landlock and seccomp.
    Confined,
    /// Plus mount, pid and network namespaces.
    Contained,
    /// Plus another uid.
    User,
}

impl Isolation {
    /// The level that attempts reach on this host as this program is built and configured.
    pub fn reached() -> Self {
        Self::Group
    }

    /// The name used in configuration and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Group => "group",
            Self::Confined => "confined",
            Self::Contained => "contained",
            Self::User => "user",
        }
    }
}
