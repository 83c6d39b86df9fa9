//! What a failed start was about. The compose command and the engine say it in prose only.

use super::compose::Ran;
use crate::{executor::Outcome, sandbox::driver::Fault, sandbox_state::Reason};

/// What is looked for in the lower-case text, in this order.
const WORDS: &[(&str, Reason)] = &[
    ("port is already allocated", Reason::PortConflict),
    ("failed to bind host port", Reason::PortConflict),
    ("address already in use", Reason::PortConflict),
    ("ports are not available", Reason::PortConflict),
    ("is already in use by container", Reason::NameConflict),
    ("address pool", Reason::NoAddressPool),
    ("failed to build", Reason::BuildFailed),
    ("build failed", Reason::BuildFailed),
    ("returned a non-zero code", Reason::BuildFailed),
    ("no such image", Reason::ImageNotFound),
    ("pull access denied", Reason::ImageNotFound),
    ("manifest unknown", Reason::ImageNotFound),
    ("repository does not exist", Reason::ImageNotFound),
    ("executable file not found", Reason::CommandNotFound),
    (
        "no such file or directory: unknown",
        Reason::CommandNotFound,
    ),
    (
        "cannot connect to the docker daemon",
        Reason::EngineUnreachable,
    ),
    (
        "couldn't connect to docker daemon",
        Reason::EngineUnreachable,
    ),
    (
        "error while fetching server api version",
        Reason::EngineUnreachable,
    ),
    ("connection aborted", Reason::EngineUnreachable),
    ("connection refused", Reason::EngineUnreachable),
    ("read timed out", Reason::EngineUnreachable),
    ("is the docker daemon running", Reason::EngineUnreachable),
];

/// What is said of a service that others wait for, in lower case.
const SERVICE: [&str; 2] = ["is unhealthy", "dependency failed to start"];

/// The most of what was said that a detail repeats.
const MAX_SAID: usize = 600;

/// Whether it gave up since a service that others wait for is not well: which one, the engine knows.
pub(super) fn is_about_a_service(ran: &Ran) -> bool {
    let said = ran.said.to_lowercase();
    SERVICE.iter().any(|words| said.contains(words))
}

/// Why a start failed, from what the compose command said.
pub(super) fn explain(ran: &Ran) -> Fault {
    let said = ran.said.to_lowercase();
    let found = WORDS.iter().find(|(words, _)| said.contains(words));
    let reason = match (&ran.outcome, found) {
        (_, Some((_, reason))) => *reason,
        (_, None) => Reason::LaunchFailed,
    };
    let how = match &ran.outcome {
        Outcome::TimedOut => "The compose command did not end in time and was ended".to_owned(),
        Outcome::Exited { code } => format!("The compose command failed with exit code {code}"),
        Outcome::Signaled { .. }
        | Outcome::Canceled
        | Outcome::Interrupted
        | Outcome::CommandNotFound { .. }
        | Outcome::LaunchFailed { .. }
        | Outcome::Lost { .. } => "The compose command did not end by itself".to_owned(),
    };
    let lines: Vec<_> = ran.said.lines().map(str::trim).collect();
    let mut tail = lines.join(" ");
    if let Some((at, _)) = tail.char_indices().rev().nth(MAX_SAID) {
        tail.drain(..at);
    }
    Fault {
        reason,
        detail: format!("{how}: {tail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_and_compose_commands_are_understood() {
        let said = [
            (
                "ERROR: for x_api_1  Cannot start service api: driver failed programming external connectivity on endpoint x_api_1 (ab): Bind for 127.0.0.1:8001 failed: port is already allocated",
                Reason::PortConflict,
            ),
            (
                "Error starting userland proxy: listen tcp4 127.0.0.1:8001: bind: address already in use",
                Reason::PortConflict,
            ),
            (
                "Error response from daemon: failed to set up container networking: driver failed programming external connectivity on endpoint x-api-1 (ab): failed to bind host port for 127.0.0.1:8001:172.18.0.2:80/tcp: address already in use",
                Reason::PortConflict,
            ),
            (
                "Error response from daemon: Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?",
                Reason::EngineUnreachable,
            ),
            (
                "Conflict. The container name \"/x_api_1\" is already in use by container \"ab\".",
                Reason::NameConflict,
            ),
            (
                "ERROR: could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
                Reason::NoAddressPool,
            ),
            (
                "failed to create network x_default: Error response from daemon: all predefined address pools have been fully subscribed",
                Reason::NoAddressPool,
            ),
            ("No such image: nowhere:1", Reason::ImageNotFound),
            (
                "Service 'api' failed to build : COPY failed",
                Reason::BuildFailed,
            ),
            (
                "OCI runtime create failed: exec: \"/nothing\": stat /nothing: no such file or directory: unknown",
                Reason::CommandNotFound,
            ),
            (
                "ERROR: Couldn't connect to Docker daemon - you might need to run `docker-machine start default`.",
                Reason::EngineUnreachable,
            ),
            ("something else", Reason::LaunchFailed),
        ];
        for (said, reason) in said {
            let ran = Ran {
                outcome: Outcome::Exited { code: 1 },
                said: said.to_owned(),
            };
            assert_eq!(explain(&ran).reason, reason, "{said}");
        }
        let hung = Ran {
            outcome: Outcome::TimedOut,
            said: "é".repeat(2000),
        };
        assert_eq!(explain(&hung).reason, Reason::LaunchFailed);
        for (said, expected) in [
            ("ERROR: for api  Container \"ab\" is unhealthy.", true),
            (
                "dependency failed to start: container x-db-1 exited (3)",
                true,
            ),
            ("No such image: nowhere:1", false),
        ] {
            let outcome = Outcome::Exited { code: 1 };
            let said = said.to_owned();
            assert_eq!(is_about_a_service(&Ran { outcome, said }), expected);
        }
        assert!(explain(&hung).detail.chars().count() < 700);
    }
}
