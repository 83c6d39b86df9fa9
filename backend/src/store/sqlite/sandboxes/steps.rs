//! What the transitions of sandboxes share: each step is announced, and refused to a boot that was
//! superseded.

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::json;

use super::{
    super::{StoreError, feed},
    Sandbox, SandboxError, known,
};
use crate::sandbox_state::{Illegal, Reason, State, Step};

impl Sandbox {
    pub(super) fn step(&self, step: Step) -> Result<State, SandboxError> {
        self.state
            .after(step)
            .map_err(|Illegal { from, .. }| SandboxError::Illegal {
                id: self.id.clone(),
                from,
            })
    }
}

/// Writes a step and announces it when the state changed.
pub(super) fn write(
    tx: &Connection,
    now: Timestamp,
    sandbox: &Sandbox,
    to: State,
    why: Option<(Reason, &str)>,
) -> Result<(), StoreError> {
    // The first reason stays: what came of it does not replace it.
    tx.prepare_cached(
        "UPDATE sandboxes SET state = ?2, updated_at = ?3, reason = coalesce(reason, ?4), \
         detail = CASE WHEN reason IS NULL THEN ?5 ELSE detail END WHERE id = ?1",
    )?
    .execute((
        &sandbox.id,
        to.as_str(),
        now.as_microsecond(),
        why.map(|(reason, _)| reason.as_str()),
        why.map(|(_, detail)| detail),
    ))?;
    if to != sandbox.state {
        let reason = sandbox.reason.or(why.map(|(reason, _)| reason));
        let data = json!({ "state": to, "reason": reason });
        feed::append(
            tx,
            now,
            &format!("sandbox.{}", to.as_str()),
            &sandbox.id,
            &data,
        )?;
    }
    Ok(())
}

/// The sandbox, if it is still this boot's to look after.
pub(super) fn current(tx: &Connection, id: &str, epoch: i64) -> Result<Sandbox, SandboxError> {
    let sandbox = known(tx, id)?;
    if sandbox.epoch == epoch {
        Ok(sandbox)
    } else {
        Err(SandboxError::Superseded(sandbox.id))
    }
}

pub(super) fn describe(why: Reason) -> &'static str {
    match why {
        Reason::StopRequested => "A stop was asked for.",
        Reason::DeleteRequested => "Its deletion was asked for.",
        Reason::TtlExpired => "Its time was up and nobody extended it.",
        Reason::CommandNotFound => "A service's program does not exist.",
        Reason::LaunchFailed => "A service could not be started.",
        Reason::ServiceExited => "A service ended by itself.",
        Reason::NotHealthyInTime => "A service did not become well in time.",
        Reason::Interrupted => "The backend was restarted before all of it was started.",
        Reason::ServiceVanished => "A service was not to be found any more.",
        Reason::RestartLoop => "A service was started again and again and ended every time.",
        Reason::Idle => "Nobody had used it for as long as is allowed.",
        Reason::EngineUnreachable => "The container engine was not there or did not answer.",
        Reason::ImageNotFound => "An image is not on the engine and could not be fetched.",
        Reason::BuildFailed => "An image could not be built.",
        Reason::PortConflict => "A port was taken between its choice and its use.",
        Reason::NameConflict => "Something that is not Orket's has a name that it needs.",
        Reason::NoAddressPool => "The container engine has no addresses for another network.",
    }
}
