//! What a driver does for sandboxes, and which drivers there are.
//!
//! A driver makes and removes what a sandbox consists of and says what it sees. It decides nothing:
//! states, reasons, ports and times are its caller's. A new driver is one file and one line in
//! [`DRIVERS`].

use std::{fmt::Debug, io, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{process::ProcessDriver, spec::Plan};
use crate::{
    executor::{Executor, Isolation, OutputRecord},
    sandbox_state::Reason,
    settings,
};

/// What makes sandboxes.
///
/// For one sandbox calls come one at a time, in this order: `start` once, or `adopt` once in a
/// later process; then `look` any number of times; then `end`, again and again until it succeeds;
/// then `remove` likewise. `end` and `remove` must be safe to call for a sandbox that was never
/// started, was half started, or is gone already. Calls for different sandboxes come at the same
/// time. `logs` may come at any time until `remove`.
#[async_trait]
pub trait SandboxDriver: Debug + Send + Sync {
    /// Its name in [`DRIVERS`].
    fn name(&self) -> &'static str;

    /// The isolation level that services reach.
    fn isolation(&self) -> Isolation;

    /// Makes everything of the plan. On a fault some of it may exist: `end` follows.
    async fn start(&self, plan: &Plan) -> Result<(), Fault>;

    /// Takes over what an earlier process started. A fault says that some of it is not there.
    async fn adopt(&self, plan: &Plan) -> Result<(), Fault>;

    /// What every service of the plan is at this moment, in its order.
    async fn look(&self, plan: &Plan) -> Vec<Seen>;

    /// Returns when a service may have ended; never, if none is known.
    async fn changed(&self, id: &str);

    /// Ends all processes. `Ok` only after all were seen gone.
    async fn end(&self, plan: &Plan) -> io::Result<()>;

    /// Removes everything else. `Ok` only after it was seen gone. Called only after `end`
    /// succeeded.
    async fn remove(&self, plan: &Plan) -> io::Result<()>;

    /// The output of a service from its beginning; it may still grow.
    fn logs(&self, plan: &Plan, service: &str) -> io::Result<Box<dyn LogSource>>;
}

/// Output of a service, read piece by piece.
pub trait LogSource: Send {
    /// What is complete by now and was not read yet; empty when there is nothing new at the moment.
    fn next(&mut self) -> io::Result<Vec<OutputRecord>>;
}

/// Why a sandbox cannot live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For programs.
    pub reason: Reason,
    /// For people; names the service.
    pub detail: String,
}

/// A service as a driver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Its process lives.
    Alive,
    /// It is gone.
    Ended(Fault),
}

/// What drivers are made from.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Runs services that are commands.
    pub executor: Executor,
    /// Time between TERM and KILL.
    pub grace: Duration,
    /// Bytes of output kept of one service.
    pub output_limit: u64,
}

/// Makes a driver.
type Make = fn(Parts) -> Arc<dyn SandboxDriver>;

/// Every driver there is, best first: `auto` takes the first one.
pub const DRIVERS: &[(&str, Make)] = &[(ProcessDriver::NAME, |parts| {
    Arc::new(ProcessDriver::new(parts))
})];

/// Why there is no driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "[sandboxes] driver = \"{wanted}\": that driver is not built into this program, only {}; choose one of them, or \"auto\"",
    DRIVERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
)]
pub struct NoDriver {
    wanted: &'static str,
}

/// The driver that the configuration asks for.
pub fn choose(
    wanted: settings::SandboxDriver,
    parts: Parts,
) -> Result<Arc<dyn SandboxDriver>, NoDriver> {
    let name = match wanted {
        settings::SandboxDriver::Auto => None,
        settings::SandboxDriver::Docker => Some("docker"),
        settings::SandboxDriver::Process => Some(ProcessDriver::NAME),
    };
    let found = DRIVERS
        .iter()
        .find(|(known, _)| name.is_none_or(|name| name == *known));
    let (found, make) = found.ok_or(NoDriver {
        wanted: name.unwrap_or("auto"),
    })?;
    tracing::info!(
        event = "sandbox_driver",
        driver = found,
        wanted = name.unwrap_or("auto"),
        "sandboxes are served by the `{found}` driver"
    );
    Ok(make(parts))
}
