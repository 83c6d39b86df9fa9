//! Reloading: a whole new policy comes into force, or the old one stays.
//!
//! A request in flight keeps the snapshot it began with. What cannot change while the program runs
//! (addresses, workers, the place of state) is named as *restart needed*.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    builtin,
    config::diagnostic::Diagnostics,
    edge::Edge,
    metrics::{Verdict, VerdictLabels},
    policy::{Policy, posture},
    rehearsal::{self, Ready},
};

/// Where the policy is read from, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The environment of the process, which does not change while it runs.
    BuiltIn,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// Reads the policy, gives it its budgets and runs its tests.
    pub fn read(&self, before: Option<&Edge>) -> Result<Ready, Diagnostics> {
        let env = &builtin::process_environment;
        let loaded = match self {
            Self::BuiltIn => builtin::load(env),
            Self::File(path) => builtin::load_file(path, env),
        }?;
        let snapshot = before.map(Edge::snapshot);
        rehearsal::ready(loaded, snapshot.as_ref().map(|s| &s.budgets))
    }
}

/// How a reload was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// By SIGHUP.
    Signal,
    /// Over the control socket.
    Control,
}

impl Asked {
    const fn word(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Control => "control socket",
        }
    }
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether the new policy is in force.
    pub in_force: bool,
    /// All that was said of it: errors or warnings, each with its place.
    pub diagnostics: String,
    /// What only a restart brings into force.
    pub restart_needed: Vec<String>,
}

/// Reloads, one at a time.
#[derive(Debug)]
pub struct Reloader {
    edge: Arc<Edge>,
    source: Source,
    turn: Mutex<()>,
}

impl Reloader {
    /// A reloader of this source.
    pub fn new(edge: Arc<Edge>, source: Source) -> Self {
        Self {
            edge,
            source,
            turn: Mutex::new(()),
        }
    }

    fn count(&self, verdict: Verdict) {
        let reloads = &self.edge.metrics.policy_reloads;
        reloads.inc(&VerdictLabels { verdict });
    }

    /// Reads the policy again. On any error the old one stays.
    pub fn reload(&self, by: Asked) -> Outcome {
        let by = by.word();
        let _turn = self.turn.lock();
        match self.source.read(Some(&self.edge)) {
            Ok(ready) => {
                let restart_needed =
                    restart_needed(&self.edge.snapshot().policy, &ready.snapshot.policy);
                let diagnostics = ready.diagnostics.to_string();
                posture::announce(&ready.snapshot.policy, &ready.diagnostics);
                self.edge.bring_into_force(ready.snapshot);
                self.count(Verdict::InForce);
                tracing::info!(target: "audit", event = "reloaded", by, restart_needed = restart_needed.join(", "), "the new policy is in force");
                Outcome {
                    in_force: true,
                    diagnostics,
                    restart_needed,
                }
            }
            Err(problems) => {
                self.edge.keep_old_policy();
                self.count(Verdict::Refused);
                let diagnostics = problems.to_string();
                tracing::error!(target: "audit", event = "reload_refused", by, diagnostics, "the policy does not load: the old one stays in force");
                Outcome {
                    in_force: false,
                    diagnostics,
                    restart_needed: Vec::new(),
                }
            }
        }
    }
}

fn restart_needed(old: &Policy, new: &Policy) -> Vec<String> {
    [
        ("listen.http", old.listen.http != new.listen.http),
        ("listen.https", old.listen.https != new.listen.https),
        ("listen.admin", old.listen.admin != new.listen.admin),
        ("listen.control", old.listen.control != new.listen.control),
        ("listen.threads", old.listen.threads != new.listen.threads),
        ("state.dir", old.state_dir != new.state_dir),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(name, _)| name.to_owned())
    .collect()
}
