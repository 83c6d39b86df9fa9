//! What a container's state says of its service.

use bollard::models::{ContainerState, ContainerStateStatusEnum, HealthStatusEnum};

use crate::{
    sandbox::{
        driver::{Fault, Seen},
        spec::Service,
        stack,
    },
    sandbox_state::Reason,
};

/// A service, from its container's state and how often that was started again lately.
pub(super) fn judge(service: &Service, state: &ContainerState, restarts: i64) -> Seen {
    use ContainerStateStatusEnum as Status;
    let unwell = |text: &str| Seen::Unwell(format!("service `{}`: {text}", service.name));
    if restarts >= stack::RESTARTS {
        let text = format!("it was restarted {restarts} times and ended again");
        return Seen::Ended(fault(service, Reason::RestartLoop, &text));
    }
    match state.status.unwrap_or(Status::EMPTY) {
        Status::RUNNING => {
            let health = state.health.as_ref().and_then(|health| health.status);
            match health.unwrap_or(HealthStatusEnum::NONE) {
                HealthStatusEnum::STARTING => unwell("its health check has not passed yet"),
                HealthStatusEnum::UNHEALTHY => unwell("its health check fails"),
                HealthStatusEnum::EMPTY | HealthStatusEnum::NONE | HealthStatusEnum::HEALTHY => {
                    Seen::Alive
                }
            }
        }
        Status::RESTARTING => unwell("it ended and is being restarted"),
        Status::PAUSED => unwell("it is paused"),
        Status::STOPPING => unwell("it is not running"),
        Status::CREATED => Seen::Unbegun(format!(
            "service `{}`: its container has not been started",
            service.name
        )),
        Status::EXITED | Status::DEAD | Status::REMOVING | Status::EMPTY => {
            let code = state.exit_code.unwrap_or(-1);
            let text = if state.oom_killed == Some(true) {
                format!("it used more memory than it may and ended with exit code {code}")
            } else {
                format!("it ended by itself with exit code {code}")
            };
            Seen::Ended(fault(service, Reason::ServiceExited, &text))
        }
    }
}

pub(super) fn fault(service: &Service, reason: Reason, text: &str) -> Fault {
    Fault {
        reason,
        detail: format!("service `{}`: {text}", service.name),
    }
}
