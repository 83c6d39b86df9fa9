//! What is said about confinement: in the log, by the API and on the command line.

use serde::Serialize;

use super::{Network, Plan};
use crate::supervisor::isolation::Isolation;

/// How commands are confined on this machine, and what the self-test found.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Report {
    /// The level of runs.
    pub level: Isolation,
    /// The level of the services of sandboxes, which others have to reach.
    pub services: Isolation,
    /// The user that commands become; absent when they keep ours.
    pub run_as: Option<u32>,
    /// The network of runs: `host` or `none`.
    pub network: &'static str,
    /// Whether commands have namespaces of their own.
    pub namespaces: bool,
    /// The landlock ABI that is applied; absent when it is not.
    pub landlock: Option<i32>,
    /// The control groups that bound commands: `v1` or `v2`.
    pub cgroups: Option<&'static str>,
    /// Why it is not more, each a sentence.
    pub notes: Vec<String>,
    /// What a child that was confined like a run could reach.
    pub self_test: Vec<Finding>,
}

/// One thing that the self-test tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Finding {
    /// What was tried.
    pub what: String,
    /// Whether it worked.
    pub reached: bool,
    /// The weakest level that promises that it does not.
    pub closed_from: Isolation,
}

impl Report {
    /// Before anything was tried.
    pub fn unknown() -> Self {
        Self::of(&Plan::open(), Isolation::None, Isolation::None)
    }

    pub(super) fn of(plan: &Plan, level: Isolation, services: Isolation) -> Self {
        Self {
            level,
            services,
            run_as: plan.user.map(|user| user.uid),
            network: match plan.network {
                Network::Host => "host",
                Network::None => "none",
            },
            namespaces: plan.namespaces.is_some(),
            landlock: plan.rules.map(|rules| rules.landlock),
            cgroups: plan.cgroups.as_ref().map(super::cgroup::Base::version),
            notes: Vec::new(),
            self_test: Vec::new(),
        }
    }
}

impl Finding {
    /// Whether it worked although the level promises that it does not.
    pub fn is_hole(&self, level: Isolation) -> bool {
        self.reached && self.closed_from <= level
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = self
            .run_as
            .map_or_else(|| "our own".to_owned(), |uid| uid.to_string());
        writeln!(f, "level of runs       {}", self.level.name())?;
        writeln!(f, "level of sandboxes  {}", self.services.name())?;
        writeln!(f, "user                {user}")?;
        writeln!(f, "network of runs     {}", self.network)?;
        let yes = |yes: bool| if yes { "own" } else { "the machine's" };
        writeln!(f, "namespaces          {}", yes(self.namespaces))?;
        let abi = self
            .landlock
            .map_or_else(|| "no".to_owned(), |abi| format!("ABI {abi}"));
        writeln!(f, "landlock            {abi}")?;
        writeln!(f, "control groups      {}", self.cgroups.unwrap_or("no"))?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for finding in &self.self_test {
            let word = match (finding.reached, finding.is_hole(self.level)) {
                (true, true) => "HOLE",
                (true, false) => "open",
                (false, _) => "shut",
            };
            let from = finding.closed_from.name();
            writeln!(f, "{word}  {} (shut from `{from}` on)", finding.what)?;
        }
        Ok(())
    }
}
