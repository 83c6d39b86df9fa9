//! How far a command is kept from everything else, as levels that can be compared.

use serde::{Deserialize, Serialize};

/// Isolation levels, weakest first; a stronger one includes the weaker ones.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Nothing.
    None,
    /// Own session, child subreaper, resource limits, no new privileges.
    Group,
    /// Plus files by an allow-list (landlock), system calls without those that lead out (seccomp), no
    /// capabilities, no signals and no unix sockets to anybody else.
    Confined,
    /// Plus mount, pid and network namespaces of its own.
    Contained,
    /// Plus another uid.
    User,
}

impl Isolation {
    /// All of them, weakest first.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Group,
        Self::Confined,
        Self::Contained,
        Self::User,
    ];

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
