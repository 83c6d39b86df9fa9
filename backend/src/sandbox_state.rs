//! The pure core of sandboxes: their states and what may follow what. No I/O, no clock.
//!
//! Every change of a sandbox's state anywhere goes through [`State::after`]; what it does not allow
//! is an error value, never a repaired state.

use serde::{Deserialize, Serialize};

/// Where a sandbox is in its life.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Recorded; its services are being started and are not all well yet.
    Creating,
    /// All services are well.
    Running,
    /// A service does not answer as it should.
    Unhealthy,
    /// It is being ended; its processes may still live.
    Stopping,
    /// Its processes were seen gone; its files are kept.
    Stopped,
    /// It ended by a fault; its files are kept.
    Failed,
    /// Processes, ports and files were seen gone.
    Deleted,
}

/// What happens to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// All services are well.
    Well,
    /// A service stopped answering.
    Unwell,
    /// It shall end.
    Stop,
    /// Its processes were seen gone.
    Gone,
    /// It cannot go on.
    Fail,
    /// Its processes, ports and files were seen gone.
    Remove,
}

/// Why a sandbox ended or is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody asked for a stop.
    StopRequested,
    /// Somebody asked for its deletion.
    DeleteRequested,
    /// Its time was up and nobody extended it.
    TtlExpired,
    /// A service's program does not exist.
    CommandNotFound,
    /// A service could not be started.
    LaunchFailed,
    /// A service ended by itself.
    ServiceExited,
    /// A service did not become well in time.
    NotHealthyInTime,
    /// The backend was restarted before all of it was started.
    Interrupted,
    /// A service was not to be found any more: after a restart of the backend, or because somebody
    /// removed it.
    ServiceVanished,
    /// A service was started again and again and ended every time.
    RestartLoop,
    /// Nobody had used it for as long as is allowed.
    Idle,
    /// The container engine was not there or did not answer.
    EngineUnreachable,
    /// An image is not on the engine and could not be fetched.
    ImageNotFound,
    /// An image could not be built.
    BuildFailed,
    /// A port was taken by somebody else between its choice and its use.
    PortConflict,
    /// Something that is not Orket's has the name of something of the sandbox.
    NameConflict,
    /// The container engine has no addresses left for another network.
    NoAddressPool,
}

/// A step that the sandbox's state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {} cannot take the step {step:?}", from.as_str())]
pub struct Illegal {
    /// The state it is in.
    pub from: State,
    /// What was tried.
    pub step: Step,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 6] = [
        Self::Well,
        Self::Unwell,
        Self::Stop,
        Self::Gone,
        Self::Fail,
        Self::Remove,
    ];
}

impl State {
    /// All states, in the order of a sandbox's life.
    pub const ALL: [Self; 7] = [
        Self::Creating,
        Self::Running,
        Self::Unhealthy,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Deleted,
    ];

    /// The state after `step`, or why there is none.
    pub fn after(self, step: Step) -> Result<Self, Illegal> {
        match (self, step) {
            (Self::Creating | Self::Running | Self::Unhealthy, Step::Well) => Ok(Self::Running),
            // One that was never well is still being created: only its time limit ends that.
            (Self::Creating, Step::Unwell) => Ok(Self::Creating),
            (Self::Running | Self::Unhealthy, Step::Unwell) => Ok(Self::Unhealthy),
            (Self::Creating | Self::Running | Self::Unhealthy | Self::Stopping, Step::Stop) => {
                Ok(Self::Stopping)
            }
            // Repeating a stop is fine.
            (Self::Stopped, Step::Stop) | (Self::Stopping, Step::Gone) => Ok(Self::Stopped),
            (Self::Creating | Self::Running | Self::Unhealthy, Step::Fail) => Ok(Self::Failed),
            // What a fault left alive is ended as well; that changes nothing about the fault.
            (Self::Failed, Step::Gone) => Ok(Self::Failed),
            (Self::Stopped | Self::Failed, Step::Remove) => Ok(Self::Deleted),
            (Self::Stopping, Step::Well | Step::Unwell | Step::Fail | Step::Remove)
            | (Self::Creating | Self::Running | Self::Unhealthy, Step::Gone | Step::Remove)
            | (Self::Stopped, Step::Well | Step::Unwell | Step::Gone | Step::Fail)
            | (Self::Failed, Step::Well | Step::Unwell | Step::Stop | Step::Fail)
            | (Self::Deleted, _) => Err(Illegal { from: self, step }),
        }
    }

    /// Whether it is listed: every state but deleted.
    pub fn is_active(self) -> bool {
        match self {
            Self::Creating
            | Self::Running
            | Self::Unhealthy
            | Self::Stopping
            | Self::Stopped
            | Self::Failed => true,
            Self::Deleted => false,
        }
    }

    /// Whether its services are meant to live.
    pub fn is_up(self) -> bool {
        match self {
            Self::Creating | Self::Running | Self::Unhealthy => true,
            Self::Stopping | Self::Stopped | Self::Failed | Self::Deleted => false,
        }
    }

    /// Its name, as stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Unhealthy => "unhealthy",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleted => "deleted",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 17] = [
        Self::StopRequested,
        Self::DeleteRequested,
        Self::TtlExpired,
        Self::CommandNotFound,
        Self::LaunchFailed,
        Self::ServiceExited,
        Self::NotHealthyInTime,
        Self::Interrupted,
        Self::ServiceVanished,
        Self::RestartLoop,
        Self::Idle,
        Self::EngineUnreachable,
        Self::ImageNotFound,
        Self::BuildFailed,
        Self::PortConflict,
        Self::NameConflict,
        Self::NoAddressPool,
    ];

    /// Whether a start that failed for it may succeed a moment later.
    pub fn may_pass(self) -> bool {
        match self {
            Self::EngineUnreachable | Self::PortConflict | Self::NoAddressPool => true,
            Self::StopRequested
            | Self::DeleteRequested
            | Self::TtlExpired
            | Self::CommandNotFound
            | Self::LaunchFailed
            | Self::ServiceExited
            | Self::NotHealthyInTime
            | Self::Interrupted
            | Self::ServiceVanished
            | Self::RestartLoop
            | Self::Idle
            | Self::ImageNotFound
            | Self::BuildFailed
            | Self::NameConflict => false,
        }
    }

    /// Its name, as stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StopRequested => "stop_requested",
            Self::DeleteRequested => "delete_requested",
            Self::TtlExpired => "ttl_expired",
            Self::CommandNotFound => "command_not_found",
            Self::LaunchFailed => "launch_failed",
            Self::ServiceExited => "service_exited",
            Self::NotHealthyInTime => "not_healthy_in_time",
            Self::Interrupted => "interrupted",
            Self::ServiceVanished => "service_vanished",
            Self::RestartLoop => "restart_loop",
            Self::Idle => "idle",
            Self::EngineUnreachable => "engine_unreachable",
            Self::ImageNotFound => "image_not_found",
            Self::BuildFailed => "build_failed",
            Self::PortConflict => "port_conflict",
            Self::NameConflict => "name_conflict",
            Self::NoAddressPool => "no_address_pool",
        }
    }

    /// The reason of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        let mut table = Vec::new();
        for from in State::ALL {
            for step in Step::ALL {
                let to = from.after(step).map_or("-", State::as_str);
                table.push(format!("{} {step:?} {to}\n", from.as_str()));
            }
        }
        insta::assert_snapshot!(table.concat());
    }

    #[test]
    fn deleted_is_reached_only_from_what_was_seen_gone_and_never_left() {
        for from in State::ALL {
            let removable = from.after(Step::Remove) == Ok(State::Deleted);
            assert_eq!(
                removable,
                matches!(from, State::Stopped | State::Failed),
                "{from:?}"
            );
        }
        for step in Step::ALL {
            assert_eq!(
                State::Deleted.after(step),
                Err(Illegal {
                    from: State::Deleted,
                    step
                })
            );
        }
    }

    #[test]
    fn active_is_everything_but_deleted() {
        for state in State::ALL {
            assert_eq!(state.is_active(), state != State::Deleted);
        }
    }

    #[test]
    fn a_name_leads_back() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
    }
}
