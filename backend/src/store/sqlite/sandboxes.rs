//! The engine's side of [`crate::store::sandboxes`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::json;

use super::{
    Database, StoreError, clock, feed,
    idempotency::{Answer, Idempotency, Once, answered, once},
    optional_time, time,
};
pub(super) use crate::store::sandboxes::*;
use crate::{
    executor::Identity,
    sandbox_state::{Reason, State, Step},
};
use steps::{current, describe, write};

mod steps;

#[async_trait]
impl SandboxStore for Database {
    async fn sandbox(&self, id: String) -> Result<Option<Sandbox>, StoreError> {
        self.read(move |conn| find(conn, &id)).await
    }

    async fn active_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError> {
        self.read(active).await
    }

    async fn sandboxes_by_state(&self) -> Result<BTreeMap<State, i64>, StoreError> {
        self.read(|conn| {
            let mut statement =
                conn.prepare_cached("SELECT state, count(*) FROM sandboxes GROUP BY state")?;
            let rows =
                statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
            let mut counts = BTreeMap::new();
            for row in rows {
                let (name, count) = row?;
                let state = State::parse(&name)
                    .ok_or_else(|| StoreError::Fault("a sandbox has a strange state".into()))?;
                counts.insert(state, count);
            }
            Ok(counts)
        })
        .await
    }

    async fn held_ports(
        &self,
        now: Timestamp,
        cool_down: Duration,
    ) -> Result<BTreeSet<u16>, StoreError> {
        self.read(move |conn| held(conn, now, cool_down)).await
    }

    async fn expired_sandboxes(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached(
                "SELECT id FROM sandboxes \
                 WHERE state <> 'deleted' AND goal <> 'deleted' AND expires_at <= ?1",
            )?;
            let ids = statement.query_map([now.as_microsecond()], |row| row.get(0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn create_sandbox(
        &self,
        now: Timestamp,
        new: NewSandbox,
    ) -> Result<Sandbox, SandboxError> {
        let epoch = self.epoch();
        self.write(move |tx| create(tx, now, epoch, &new)).await
    }

    async fn create_sandbox_once(
        &self,
        now: Timestamp,
        new: NewSandbox,
        idempotency: Idempotency,
        answer: Answer<Sandbox>,
    ) -> Result<Once<Sandbox>, SandboxError> {
        let epoch = self.epoch();
        self.write(move |tx| {
            once(tx, now, Some(idempotency), answer, || {
                create(tx, now, epoch, &new)
            })
        })
        .await
    }

    async fn sandbox_answered(
        &self,
        idempotency: Idempotency,
    ) -> Result<Option<serde_json::Value>, SandboxError> {
        self.read(move |conn| answered(conn, &idempotency)).await
    }

    async fn take_over_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError> {
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

    async fn ask_sandbox_end(
        &self,
        now: Timestamp,
        id: String,
        goal: Goal,
        why: Reason,
    ) -> Result<Sandbox, SandboxError> {
        self.write(move |tx| {
            let now = clock::certain(now);
            let sandbox = known(tx, &id)?;
            if why == Reason::TtlExpired && sandbox.expires_at > now {
                // It was extended, or the clock was set, since it was found.
                return Ok(sandbox);
            }
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

    async fn extend_sandbox(
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
            let expires_at = clock::reckoned(expires_at, now);
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

    async fn move_sandbox_port(
        &self,
        now: Timestamp,
        id: String,
        service: String,
        to: u16,
        cool_down: Duration,
    ) -> Result<Sandbox, SandboxError> {
        let epoch = self.epoch();
        self.write(move |tx| {
            let now = clock::certain(now);
            let mut sandbox = current(tx, &id, epoch)?;
            let from = sandbox.state;
            let moved = sandbox
                .services
                .iter_mut()
                .find(|found| found.name == service && from == State::Creating);
            let Some(moved) = moved else {
                return Err(SandboxError::Illegal { id, from });
            };
            take_port(tx, now, cool_down, &id, to)?;
            tx.prepare_cached(
                "UPDATE sandbox_ports SET sandbox_id = NULL, released_at = ?2 WHERE port = ?1",
            )?
            .execute((moved.port, now.as_microsecond()))?;
            moved.port = Some(to);
            tx.prepare_cached("UPDATE sandboxes SET services = ?2, updated_at = ?3 WHERE id = ?1")?
                .execute((
                    &id,
                    serde_json::to_string(&sandbox.services).map_err(StoreError::from)?,
                    now.as_microsecond(),
                ))?;
            known(tx, &id)
        })
        .await
    }

    async fn observe_sandbox(
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

    async fn service_supervised(
        &self,
        id: String,
        service: String,
        supervisor: Identity,
    ) -> Result<(), SandboxError> {
        let epoch = self.epoch();
        self.write(move |tx| {
            current(tx, &id, epoch)?;
            let supervisor = serde_json::to_string(&supervisor).map_err(StoreError::from)?;
            tx.prepare_cached(
                "INSERT INTO sandbox_supervisors (sandbox_id, service, supervisor) \
                 VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET supervisor = excluded.supervisor",
            )?
            .execute((&id, &service, supervisor))?;
            Ok(())
        })
        .await
    }

    async fn service_supervisors(
        &self,
        id: String,
    ) -> Result<BTreeMap<String, Identity>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached(
                "SELECT service, supervisor FROM sandbox_supervisors WHERE sandbox_id = ?1",
            )?;
            let mut rows = statement.query([id])?;
            let mut supervisors = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let supervisor = serde_json::from_str(&row.get::<_, String>(1)?)?;
                supervisors.insert(row.get(0)?, supervisor);
            }
            Ok(supervisors)
        })
        .await
    }

    async fn sandbox_gone(&self, now: Timestamp, id: String) -> Result<Sandbox, SandboxError> {
        let epoch = self.epoch();
        self.write(move |tx| {
            let sandbox = current(tx, &id, epoch)?;
            let now = clock::certain(now);
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

    async fn sandbox_removed(&self, now: Timestamp, id: String) -> Result<Sandbox, SandboxError> {
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
            tx.prepare_cached("DELETE FROM sandbox_supervisors WHERE sandbox_id = ?1")?
                .execute([&id])?;
            let to = sandbox.step(Step::Remove)?;
            write(tx, now, &sandbox, to, None)?;
            known(tx, &id)
        })
        .await
    }
}

/// Records a sandbox and takes its ports inside a transaction.
fn create(
    tx: &Connection,
    now: Timestamp,
    epoch: i64,
    new: &NewSandbox,
) -> Result<Sandbox, SandboxError> {
    let count: i64 = tx
        .prepare_cached("SELECT count(*) FROM sandboxes WHERE state <> 'deleted'")?
        .query_row([], |row| row.get(0))?;
    if count >= new.limit {
        return Err(SandboxError::TooMany(count));
    }
    if let Some(build) = &new.build_id {
        let count: i64 = tx
            .prepare_cached(
                "SELECT count(*) FROM sandboxes \
                 WHERE state <> 'deleted' AND build_id = ?1",
            )?
            .query_row([build], |row| row.get(0))?;
        if count >= new.build_limit {
            return Err(SandboxError::TooManyOfBuild(count));
        }
    }
    let expires_at = clock::reckoned(new.expires_at, now);
    let now = clock::certain(now);
    let health: BTreeMap<_, _> = new
        .services
        .iter()
        .map(|service| (&service.name, ServiceState::Starting))
        .collect();
    tx.prepare_cached(
        "INSERT INTO sandboxes (id, name, state, goal, epoch, driver, isolation, actor, \
         request_id, \
         services, health, secrets, created_at, updated_at, expires_at, build_id) \
         VALUES (?1, ?2, 'creating', 'live', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, \
         ?12, ?13)",
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
        expires_at.as_microsecond(),
        &new.build_id,
    ))?;
    for port in new.services.iter().filter_map(|service| service.port) {
        take_port(tx, now, new.cool_down, &new.id, port)?;
    }
    feed::append(
        tx,
        now,
        "sandbox.creating",
        &new.id,
        &json!({ "state": "creating" }),
    )?;
    known(tx, &new.id)
}

impl From<rusqlite::Error> for SandboxError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

const COLUMNS: &str = "seq, id, name, state, reason, detail, goal, epoch, driver, isolation, services, \
     health, secrets, created_at, updated_at, expires_at, ended_at, build_id";

fn read(row: &Row<'_>) -> Result<Sandbox, StoreError> {
    let word = |at: usize| -> Result<String, StoreError> { Ok(row.get(at)?) };
    let strange = |what: &str| StoreError::Fault(format!("a sandbox has a strange {what}"));
    let reason: Option<String> = row.get(4)?;
    Ok(Sandbox {
        seq: row.get(0)?,
        id: row.get(1)?,
        name: row.get(2)?,
        state: State::parse(&word(3)?).ok_or_else(|| strange("state"))?,
        reason: reason
            .map(|name| Reason::parse(&name).ok_or_else(|| strange("reason")))
            .transpose()?,
        detail: row.get(5)?,
        goal: Goal::parse(&word(6)?).ok_or_else(|| strange("goal"))?,
        epoch: row.get(7)?,
        driver: row.get(8)?,
        isolation: row.get(9)?,
        services: serde_json::from_str(&word(10)?)?,
        health: serde_json::from_str(&word(11)?)?,
        secrets: serde_json::from_str(&word(12)?)?,
        created_at: time(row.get(13)?)?,
        updated_at: time(row.get(14)?)?,
        expires_at: time(row.get(15)?)?,
        ended_at: optional_time(row.get(16)?)?,
        build_id: row.get(17)?,
    })
}

fn find(conn: &Connection, id: &str) -> Result<Option<Sandbox>, StoreError> {
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM sandboxes WHERE id = ?1"))?
        .query_row([id], |row| Ok(read(row)))
        .optional()?
        .transpose()
}

fn known(conn: &Connection, id: &str) -> Result<Sandbox, SandboxError> {
    find(conn, id)?.ok_or(SandboxError::Unknown)
}

fn active(conn: &Connection) -> Result<Vec<Sandbox>, StoreError> {
    conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM sandboxes WHERE state <> 'deleted' ORDER BY seq DESC"
    ))?
    .query_map([], |row| Ok(read(row)))?
    .map(|row| row?)
    .collect()
}

/// Takes a port for a sandbox unless it is held or cools down.
fn take_port(
    tx: &Connection,
    now: Timestamp,
    cool_down: Duration,
    id: &str,
    port: u16,
) -> Result<(), SandboxError> {
    if held(tx, now, cool_down)?.contains(&port) {
        return Err(SandboxError::PortTaken(port));
    }
    tx.prepare_cached(
        "INSERT INTO sandbox_ports (port, sandbox_id) VALUES (?1, ?2) ON CONFLICT (port) \
         DO UPDATE SET sandbox_id = excluded.sandbox_id, released_at = NULL",
    )?
    .execute((port, id))?;
    Ok(())
}

/// Ports that may not be given out at this moment.
fn held(
    conn: &Connection,
    now: Timestamp,
    cool_down: Duration,
) -> Result<BTreeSet<u16>, StoreError> {
    let rest = i64::try_from(cool_down.as_micros()).unwrap_or(i64::MAX);
    let since = now.as_microsecond().saturating_sub(rest);
    let mut statement = conn.prepare_cached(
        "SELECT port FROM sandbox_ports WHERE sandbox_id IS NOT NULL OR released_at > ?1",
    )?;
    let ports = statement.query_map([since], |row| row.get(0))?;
    Ok(ports.collect::<Result<_, _>>()?)
}
