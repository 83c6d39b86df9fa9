//! Sandboxes and their ports: whole transitions, each under the epoch of the boot that looks after
//! them.
//!
//! A record and its ports exist before anything else of a sandbox does, and its ports are released
//! only in the transition that says that its processes were seen gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    StoreError,
    idempotency::{Answer, Idempotency, KeyReused, Once},
};
use crate::{
    executor::{Identity, Isolation},
    sandbox::spec::Service,
    sandbox_state::{Reason, State, Step},
};

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
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
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
    /// The build it belongs to.
    pub build_id: Option<String>,
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
    /// The build it belongs to.
    pub build_id: Option<String>,
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
    /// At most so many active ones of its build, this one included.
    pub build_limit: i64,
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
    /// As many of one build as allowed are there already.
    #[error(
        "There are {0} sandboxes of this build, which is the limit. Delete one that is not needed."
    )]
    TooManyOfBuild(i64),
    /// A port was given to another one meanwhile.
    #[error("Port {0} was taken by another sandbox at the same moment. Try again.")]
    PortTaken(u16),
    /// The same idempotency key came with another request.
    #[error(transparent)]
    KeyReused(#[from] KeyReused),
    /// Another boot looks after it now.
    #[error("Another backend looks after sandbox {0} now.")]
    Superseded(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sandboxes and their ports.
#[async_trait]
pub trait SandboxStore: Send + Sync {
    /// The sandbox of that id, deleted or not.
    async fn sandbox(&self, id: String) -> Result<Option<Sandbox>, StoreError>;

    /// All sandboxes but the deleted ones, newest first.
    async fn active_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError>;

    /// How many sandboxes there are in each state that any is in.
    async fn sandboxes_by_state(&self) -> Result<BTreeMap<State, i64>, StoreError>;

    /// Ports that sandboxes hold or that cool down.
    async fn held_ports(
        &self,
        now: Timestamp,
        cool_down: Duration,
    ) -> Result<BTreeSet<u16>, StoreError>;

    /// The sandboxes whose time is up and whose removal nobody has asked for yet.
    async fn expired_sandboxes(&self, now: Timestamp) -> Result<Vec<String>, StoreError>;

    /// Records a sandbox and takes its ports, all or nothing.
    async fn create_sandbox(
        &self,
        now: Timestamp,
        new: NewSandbox,
    ) -> Result<Sandbox, SandboxError>;

    /// The same, once for a key.
    async fn create_sandbox_once(
        &self,
        now: Timestamp,
        new: NewSandbox,
        idempotency: Idempotency,
        answer: Answer<Sandbox>,
    ) -> Result<Once<Sandbox>, SandboxError>;

    /// What was answered to a key and its request before. Whoever asks again gets it also where there
    /// is no room for another sandbox.
    async fn sandbox_answered(
        &self,
        idempotency: Idempotency,
    ) -> Result<Option<serde_json::Value>, SandboxError>;

    /// Takes every sandbox that is not deleted under this boot's epoch: from here on no older boot
    /// changes one.
    async fn take_over_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError>;

    /// Asks for an end: the sandbox shall be stopped, or stopped and removed. What is asked for
    /// never becomes less.
    async fn ask_sandbox_end(
        &self,
        now: Timestamp,
        id: String,
        goal: Goal,
        why: Reason,
    ) -> Result<Sandbox, SandboxError>;

    /// Moves the time of removal of a sandbox that lives.
    async fn extend_sandbox(
        &self,
        now: Timestamp,
        id: String,
        expires_at: Timestamp,
    ) -> Result<Sandbox, SandboxError>;

    /// Gives a service another port while the sandbox is being created.
    async fn move_sandbox_port(
        &self,
        now: Timestamp,
        id: String,
        service: String,
        to: u16,
        cool_down: Duration,
    ) -> Result<Sandbox, SandboxError>;

    /// Records how the services were seen, and the step that follows from it.
    async fn observe_sandbox(
        &self,
        now: Timestamp,
        id: String,
        health: BTreeMap<String, ServiceState>,
        step: Step,
        why: Option<(Reason, String)>,
    ) -> Result<Sandbox, SandboxError>;

    /// Records the supervisor of a service, so that it can be ended when its files are gone.
    async fn service_supervised(
        &self,
        id: String,
        service: String,
        supervisor: Identity,
    ) -> Result<(), SandboxError>;

    /// The supervisors of a sandbox's services, by service: of those that were started.
    async fn service_supervisors(
        &self,
        id: String,
    ) -> Result<BTreeMap<String, Identity>, StoreError>;

    /// Records that all its processes were seen gone, and releases its ports in the same moment.
    async fn sandbox_gone(&self, now: Timestamp, id: String) -> Result<Sandbox, SandboxError>;

    /// Records that nothing of it is left.
    async fn sandbox_removed(&self, now: Timestamp, id: String) -> Result<Sandbox, SandboxError>;
}
