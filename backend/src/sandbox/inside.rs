//! What is asked of the services of a sandbox that lives.

use std::{io, sync::Arc, time::Duration};

use super::{
    Sandboxes,
    driver::{Executed, SandboxDriver, Usage},
};
use crate::store::sandboxes::{Sandbox, SandboxError};

/// Why a command was not run in a service.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It is not allowed.
    #[error("commands in sandboxes are switched off: see [sandboxes] exec")]
    Off,
    /// The sandbox does not live.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The driver could not.
    #[error("{0}")]
    Driver(io::Error),
}

impl Sandboxes {
    /// Runs a command in one of its services, where that is allowed.
    pub async fn exec(
        &self,
        sandbox: &Sandbox,
        service: &str,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<Executed, ExecError> {
        if !self.inner.settings.exec {
            return Err(ExecError::Off);
        }
        let driver = self.living(sandbox)?;
        self.touch(&sandbox.id);
        tracing::info!(
            event = "sandbox_exec",
            sandbox = sandbox.id,
            service,
            program = command.first(),
            "a command is run in a sandbox"
        );
        driver
            .exec(&self.plan(sandbox), service, command, limit)
            .await
            .map_err(ExecError::Driver)
    }

    /// What its services use at this moment. No use of it, as a look is none.
    pub async fn usage(&self, sandbox: &Sandbox) -> Result<Vec<Usage>, ExecError> {
        let driver = self.living(sandbox)?;
        let used = driver.usage(&self.plan(sandbox)).await;
        used.map_err(ExecError::Driver)
    }

    /// The driver of one that is up.
    fn living(&self, sandbox: &Sandbox) -> Result<&Arc<dyn SandboxDriver>, ExecError> {
        if !sandbox.state.is_up() {
            let (id, from) = (sandbox.id.clone(), sandbox.state);
            return Err(SandboxError::Illegal { id, from }.into());
        }
        let driver = self.inner.drivers.named(&sandbox.driver);
        driver.ok_or_else(|| ExecError::Driver(io::ErrorKind::Unsupported.into()))
    }
}
