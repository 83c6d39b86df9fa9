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
    /// After a restart of the backend a service was not to be found any more.
    ServiceVanished,
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
    pub const ALL: [Self; 9] = [
        Self::StopRequested,
        Self::DeleteRequested,
        Self::TtlExpired,
        Self::CommandNotFound,
        Self::LaunchFailed,
        Self::ServiceExited,
        Self::NotHealthyInTime,
        Self::Interrupted,
        Self::ServiceVanished,
    ];

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

    const STEPS: [Step; 6] = [
        Step::Well,
        Step::Unwell,
        Step::Stop,
        Step::Gone,
        Step::Fail,
        Step::Remove,
    ];

    #[test]
    fn the_whole_table() {
        let mut table = Vec::new();
        for from in State::ALL {
            for step in STEPS {
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
        for step in STEPS {
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
