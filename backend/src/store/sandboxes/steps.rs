//! The transitions of sandboxes: each whole, each announced, each refused to a boot that was
//! superseded.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::json;

use super::{
    super::{Database, StoreError, feed},
    Goal, NewSandbox, Sandbox, SandboxError, ServiceState, active, held, known,
};
use crate::sandbox_state::{Illegal, Reason, State, Step};

impl Database {
    /// Records a sandbox and takes its ports, all or nothing.
    pub async fn create_sandbox(
        &self,
        now: Timestamp,
        new: NewSandbox,
    ) -> Result<Sandbox, SandboxError> {
        let epoch = self.epoch();
        self.write(move |tx| {
            let count: i64 = tx
                .prepare_cached("SELECT count(*) FROM sandboxes WHERE state <> 'deleted'")?
                .query_row([], |row| row.get(0))?;
            if count >= new.limit {
                return Err(SandboxError::TooMany(count));
            }
            let health: BTreeMap<_, _> = new
                .services
                .iter()
                .map(|service| (&service.name, ServiceState::Starting))
                .collect();
            tx.prepare_cached(
                "INSERT INTO sandboxes (id, name, state, goal, epoch, driver, isolation, actor, \
                 request_id, \
                 services, health, secrets, created_at, updated_at, expires_at) \
                 VALUES (?1, ?2, 'creating', 'live', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, \
                 ?12)",
            )?
            .execute((
                &new.id,
                &new.name,
                epoch,
                new.driver,
                new.isolation.name(),
                &new.actor,
                &new.request_id,
                serde_json::to_string(&new.services).map_err(StoreError::from)?,
                serde_json::to_string(&health).map_err(StoreError::from)?,
                json!(new.secrets).to_string(),
                now.as_microsecond(),
                new.expires_at.as_microsecond(),
            ))?;
            let taken = held(tx, now, new.cool_down)?;
            for port in new.services.iter().filter_map(|service| service.port) {
                if taken.contains(&port) {
                    return Err(SandboxError::PortTaken(port));
                }
                tx.prepare_cached(
                    "INSERT INTO sandbox_ports (port, sandbox_id) VALUES (?1, ?2) \
                     ON CONFLICT (port) \
                     DO UPDATE SET sandbox_id = excluded.sandbox_id, released_at = NULL",
                )?
                .execute((port, &new.id))?;
            }
            feed::append(
                tx,
                now,
                "sandbox.creating",
                &new.id,
                &json!({ "state": "creating" }),
            )?;
            known(tx, &new.id)
        })
        .await
    }

    /// Takes every sandbox that is not deleted under this boot's epoch: from here on no older boot
    /// changes one.
    pub async fn take_over_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError> {
        let epoch = self.epoch();
        self.write(move |tx| {
            tx.execute(
                "UPDATE sandboxes SET epoch = ?1 WHERE state <> 'deleted'",
                [epoch],
            )?;
            active(tx)
        })
        .await
    }

    /// Asks for an end: the sandbox shall be stopped, or stopped and removed. What is asked for
    /// never becomes less.
    pub async fn ask_sandbox_end(
        &self,
        now: Timestamp,
        id: String,
        goal: Goal,
        why: Reason,
    ) -> Result<Sandbox, SandboxError> {
        self.write(move |tx| {
            let sandbox = known(tx, &id)?;
            let to = match (sandbox.state, goal) {
                // A removal is asked for in any state; it is repeated without harm.
                (State::Stopped | State::Failed | State::Deleted, Goal::Deleted) => sandbox.state,
                _ => sandbox.step(Step::Stop)?,
            };
            if sandbox.state == State::Deleted {
                return Ok(sandbox);
            }
            write(tx, now, &sandbox, to, Some((why, describe(why))))?;
            let goal = if sandbox.goal == Goal::Deleted {
                Goal::Deleted
            } else {
                goal
            };
            tx.prepare_cached("UPDATE sandboxes SET goal = ?2 WHERE id = ?1")?
                .execute((&id, goal.as_str()))?;
            known(tx, &id)
        })
        .await
    }

    /// Moves the time of removal of a sandbox that lives.
    pub async fn extend_sandbox(
        &self,
        now: Timestamp,
        id: String,
        expires_at: Timestamp,
    ) -> Result<Sandbox, SandboxError> {
        self.write(move |tx| {
            let sandbox = known(tx, &id)?;
            if !sandbox.state.is_up() {
                return Err(SandboxError::Illegal {
                    id,
                    from: sandbox.state,
                });
            }
            tx.prepare_cached(
                "UPDATE sandboxes SET expires_at = ?2, updated_at = ?3 WHERE id = ?1",
            )?
            .execute((&id, expires_at.as_microsecond(), now.as_microsecond()))?;
            let data = json!({ "expires_at": expires_at });
            feed::append(tx, now, "sandbox.extended", &id, &data)?;
            known(tx, &id)
        })
        .await
    }

    /// Records how the services were seen, and the step that follows from it.
    pub async fn observe_sandbox(
        &self,
        now: Timestamp,
        id: String,
        health: BTreeMap<String, ServiceState>,
        step: Step,
        why: Option<(Reason, String)>,
    ) -> Result<Sandbox, SandboxError> {
        let epoch = self.epoch();
        self.write(move |tx| {
            let sandbox = current(tx, &id, epoch)?;
            let to = sandbox.step(step)?;
            let why = why
                .as_ref()
                .map(|(reason, detail)| (*reason, detail.as_str()));
            tx.prepare_cached("UPDATE sandboxes SET health = ?2 WHERE id = ?1")?
                .execute((
                    &id,
                    serde_json::to_string(&health).map_err(StoreError::from)?,
                ))?;
            write(tx, now, &sandbox, to, why)?;
            known(tx, &id)
        })
        .await
    }

    /// Records that all its processes were seen gone, and releases its ports in the same moment.
    pub async fn sandbox_gone(&self, now: Timestamp, id: String) -> Result<Sandbox, SandboxError> {
        let epoch = self.epoch();
        self.write(move |tx| {
            let sandbox = current(tx, &id, epoch)?;
            let to = sandbox.step(Step::Gone)?;
            let health: BTreeMap<_, _> = sandbox
                .services
                .iter()
                .map(|service| (&service.name, ServiceState::Ended))
                .collect();
            tx.prepare_cached(
                "UPDATE sandbox_ports SET sandbox_id = NULL, released_at = ?2 \
                 WHERE sandbox_id = ?1",
            )?
            .execute((&id, now.as_microsecond()))?;
            tx.prepare_cached(
                "UPDATE sandboxes SET health = ?2, ended_at = coalesce(ended_at, ?3) WHERE id = ?1",
            )?
            .execute((
                &id,
                serde_json::to_string(&health).map_err(StoreError::from)?,
                now.as_microsecond(),
            ))?;
            write(tx, now, &sandbox, to, None)?;
            known(tx, &id)
        })
        .await
    }

    /// Records that nothing of it is left.
    pub async fn sandbox_removed(
        &self,
        now: Timestamp,
        id: String,
    ) -> Result<Sandbox, SandboxError> {
        let epoch = self.epoch();
        self.write(move |tx| {
            let sandbox = current(tx, &id, epoch)?;
            let held: i64 = tx
                .prepare_cached("SELECT count(*) FROM sandbox_ports WHERE sandbox_id = ?1")?
                .query_row([&id], |row| row.get(0))?;
            if held > 0 {
                return Err(
                    StoreError::Fault("a sandbox to be removed still has ports".into()).into(),
                );
            }
            let to = sandbox.step(Step::Remove)?;
            write(tx, now, &sandbox, to, None)?;
            known(tx, &id)
        })
        .await
    }
}

impl Sandbox {
    fn step(&self, step: Step) -> Result<State, SandboxError> {
        self.state
            .after(step)
            .map_err(|Illegal { from, .. }| SandboxError::Illegal {
                id: self.id.clone(),
                from,
            })
    }
}

/// Writes a step and announces it when the state changed.
fn write(
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
fn current(tx: &Connection, id: &str, epoch: i64) -> Result<Sandbox, SandboxError> {
    let sandbox = known(tx, id)?;
    if sandbox.epoch == epoch {
        Ok(sandbox)
    } else {
        Err(SandboxError::Superseded(sandbox.id))
    }
}

fn describe(why: Reason) -> &'static str {
    match why {
        Reason::StopRequested => "A stop was asked for.",
        Reason::DeleteRequested => "Its deletion was asked for.",
        Reason::TtlExpired => "Its time was up and nobody extended it.",
        Reason::CommandNotFound => "A service's program does not exist.",
        Reason::LaunchFailed => "A service could not be started.",
        Reason::ServiceExited => "A service ended by itself.",
        Reason::NotHealthyInTime => "A service did not become well in time.",
        Reason::Interrupted => "The backend was restarted before all of it was started.",
        Reason::ServiceVanished => "After a restart of the backend a service was not to be found.",
    }
}
