//! Sandboxes and their ports: whole transitions, each under the epoch of the boot that looks after
//! them.
//!
//! A record and its ports exist before anything else of a sandbox does, and its ports are released
//! only in the transition that says that its processes were seen gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde::{Deserialize, Serialize};

use super::{Database, StoreError, optional_time, time};
use crate::{
    executor::Isolation,
    sandbox::spec::Service,
    sandbox_state::{Reason, State},
};

mod steps;

/// What was asked for a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// To live.
    Live,
    /// To be stopped.
    Stopped,
    /// To be stopped and removed.
    Deleted,
}

impl Goal {
    fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Live, Self::Stopped, Self::Deleted]
            .into_iter()
            .find(|goal| goal.as_str() == name)
    }
}

/// How a service was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Not well yet.
    Starting,
    /// Well.
    Healthy,
    /// Alive and not well.
    Unhealthy,
    /// Its processes are gone.
    Ended,
}

/// A sandbox as stored.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Its place in the order of making.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// Why it ends or ended.
    pub reason: Option<Reason>,
    /// The same for people.
    pub detail: Option<String>,
    /// What was asked for it.
    pub goal: Goal,
    /// The boot that looks after it.
    pub epoch: i64,
    /// The driver that serves it.
    pub driver: String,
    /// What confines its services.
    pub isolation: String,
    /// Its services, with their ports.
    pub services: Vec<Service>,
    /// How each service was last seen, by name.
    pub health: BTreeMap<String, ServiceState>,
    /// Names of its generated credentials.
    pub secrets: Vec<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it is removed unless it is extended.
    pub expires_at: Timestamp,
    /// When its processes were seen gone.
    pub ended_at: Option<Timestamp>,
}

/// A sandbox to be recorded.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: Option<String>,
    /// The driver that will serve it.
    pub driver: &'static str,
    /// What will confine its services.
    pub isolation: Isolation,
    /// Who asked.
    pub actor: String,
    /// In which request.
    pub request_id: String,
    /// Its services, every port chosen.
    pub services: Vec<Service>,
    /// Names of its credentials.
    pub secrets: Vec<String>,
    /// When it is removed unless it is extended.
    pub expires_at: Timestamp,
    /// At most so many active ones, this one included.
    pub limit: i64,
    /// How long a released port rests.
    pub cool_down: Duration,
}

/// Why nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SandboxError {
    /// There is no such sandbox.
    #[error("There is no such sandbox.")]
    Unknown,
    /// Its state does not allow that.
    #[error("Sandbox {id} is {}, which does not allow that.", from.as_str())]
    Illegal {
        /// The sandbox.
        id: String,
        /// Its state.
        from: State,
    },
    /// As many as allowed are there already.
    #[error("There are {0} sandboxes, which is the limit. Delete one that is not needed.")]
    TooMany(i64),
    /// A port was given to another one meanwhile.
    #[error("Port {0} was taken by another sandbox at the same moment. Try again.")]
    PortTaken(u16),
    /// Another boot looks after it now.
    #[error("Another backend looks after sandbox {0} now.")]
    Superseded(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for SandboxError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

const COLUMNS: &str = "seq, id, name, state, reason, detail, goal, epoch, driver, isolation, services, \
     health, secrets, created_at, updated_at, expires_at, ended_at";

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

impl Database {
    /// The sandbox of that id, deleted or not.
    pub async fn sandbox(&self, id: String) -> Result<Option<Sandbox>, StoreError> {
        self.read(move |conn| find(conn, &id)).await
    }

    /// All sandboxes but the deleted ones, newest first.
    pub async fn active_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError> {
        self.read(active).await
    }

    /// How many sandboxes there are in each state that any is in.
    pub async fn sandboxes_by_state(&self) -> Result<BTreeMap<State, i64>, StoreError> {
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

    /// Ports that sandboxes hold or that cool down.
    pub async fn held_ports(
        &self,
        now: Timestamp,
        cool_down: Duration,
    ) -> Result<BTreeSet<u16>, StoreError> {
        self.read(move |conn| held(conn, now, cool_down)).await
    }

    /// The sandboxes whose time is up and whose removal nobody has asked for yet.
    pub async fn expired_sandboxes(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
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
}
