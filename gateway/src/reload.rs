//! Reloading: a whole new policy comes into force, or the old one stays.
//!
//! A request in flight keeps the snapshot it began with. What cannot change while the program runs
//! (addresses, workers, the place of state) is named as *restart needed*.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

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

/// Reloads, one at a time, on a thread of its own: a file that does not answer holds up nothing else.
#[derive(Debug, Clone)]
pub struct Reloader {
    asked: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    by: Asked,
    /// Who waits for what becomes of it.
    verdict: Option<oneshot::Sender<Outcome>>,
}

impl Reloader {
    /// A reloader of this source.
    ///
    /// # Errors
    /// That the system has no thread for it.
    pub fn start(edge: Arc<Edge>, source: Source) -> std::io::Result<Self> {
        let (asked, requests) = mpsc::channel();
        let work = Work { edge, source };
        std::thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || work.run(&requests))?;
        Ok(Self { asked })
    }

    /// Asks for a reload that begins after this, and waits for what becomes of it. `None` only where the thread is gone.
    pub async fn ask(&self, by: Asked) -> Option<Outcome> {
        let (verdict, told) = oneshot::channel();
        let request = Request {
            by,
            verdict: Some(verdict),
        };
        self.asked.send(request).ok()?;
        told.await.ok()
    }

    /// Asks for a reload and does not wait.
    pub fn note(&self, by: Asked) {
        // The thread ends with the process only.
        let _ = self.asked.send(Request { by, verdict: None });
    }
}

struct Work {
    edge: Arc<Edge>,
    source: Source,
}

impl Work {
    fn run(&self, requests: &mpsc::Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            // All who asked meanwhile want the policy as it is now: one reading answers them.
            let together: Vec<_> = std::iter::once(first).chain(requests.try_iter()).collect();
            let mut by: Vec<_> = together.iter().map(|r| r.by.word()).collect();
            by.dedup();
            let outcome = self.outcome(&by.join(", "));
            for verdict in together.into_iter().filter_map(|r| r.verdict) {
                // Who went away does not hear it.
                let _ = verdict.send(outcome.clone());
            }
        }
    }

    /// A fault on the way leaves the old policy in force, and reloading possible.
    fn outcome(&self, by: &str) -> Outcome {
        let reload = std::panic::AssertUnwindSafe(|| self.reload(by));
        std::panic::catch_unwind(reload).unwrap_or_else(|_| {
            self.edge.keep_old_policy();
            Outcome {
                in_force: false,
                diagnostics: "a fault inside the gateway: see the record `panic` in its log\n"
                    .to_owned(),
                restart_needed: Vec::new(),
            }
        })
    }

    /// A policy with a spool needs the state directory, and that is taken at a start only.
    fn read(&self) -> Result<Ready, Diagnostics> {
        self.edge.begin_reading();
        if let Some(presence) = &self.edge.presence
            && let Err(e) = presence.renew()
        {
            tracing::warn!(event = "presence_not_renewed", error = %e, "this gateway is seen where its policy file was when it was read last");
        }
        let ready = self.source.read(Some(&self.edge))?;
        if ready.snapshot.policy.spools() && self.edge.spool.is_none() {
            let mut problems = ready.diagnostics;
            problems.error(
                &(0..0),
                "a route has `spool = true`, and this gateway does not own its state directory",
                Some("mend what the record `state_not_kept` names, then restart".into()),
            );
            return Err(problems);
        }
        Ok(ready)
    }

    fn count(&self, verdict: Verdict) {
        let reloads = &self.edge.metrics.policy_reloads;
        reloads.inc(&VerdictLabels { verdict });
    }

    /// Reads the policy again. On any error the old one stays.
    fn reload(&self, by: &str) -> Outcome {
        match self.read() {
            Ok(ready) => {
                let restart_needed =
                    restart_needed(&self.edge.snapshot().policy, &ready.snapshot.policy);
                let diagnostics = ready.diagnostics.to_string();
                posture::announce(&ready.snapshot.policy, &ready.diagnostics);
                self.edge.bring_into_force(ready.snapshot);
                self.count(Verdict::InForce);
                tracing::info!(name: "act", target: "audit", event = "reloaded", by, restart_needed = restart_needed.join(", "), "the new policy is in force");
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
                tracing::error!(name: "act", target: "audit", event = "reload_refused", by, diagnostics, "the policy does not load: the old one stays in force");
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
