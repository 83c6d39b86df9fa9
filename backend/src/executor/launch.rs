//! What to run, checked before anything exists of it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::LaunchError;
use crate::{
    confine::{Network, Plan},
    supervisor::files::Spec,
};

const ID_MAX: usize = 128;

/// What to run, and within which bounds.
#[derive(Debug, Clone)]
pub struct Launch {
    /// `<run_id>.<epoch>`: names the attempt and its directory; ASCII letters, digits, `.`, `_` and
    /// `-`, at most 128, not starting with `.`.
    pub id: String,
    /// Program and arguments, never a shell string. At least one element.
    pub argv: Vec<String>,
    /// The command's environment, on top of a minimal one; nothing of the backend's own reaches it.
    pub env: BTreeMap<String, String>,
    /// Where the command starts; must exist.
    pub workdir: PathBuf,
    /// What it may read beside the system's own files. All of these exist.
    pub readable: Vec<PathBuf>,
    /// Folders it may change beside its temporary directory.
    pub writable: Vec<PathBuf>,
    /// [`Network::None`]: without a network. It never gets more than the plan has.
    pub network: Network,
    /// Wall-clock time after which the tree is ended and the outcome is
    /// [`super::Outcome::TimedOut`].
    pub timeout: Option<Duration>,
    /// Time between TERM and KILL.
    pub grace: Duration,
    /// Bytes of output kept (both streams together); what comes after is dropped and counted.
    pub output_cap: u64,
}

/// The same in the words of the supervisor.
pub(super) fn specify(launch: Launch, plan: &Plan) -> Spec {
    let mut plan = plan.clone();
    plan.readable.extend(launch.readable);
    plan.writable.extend(launch.writable);
    match launch.network {
        Network::None => plan.network = Network::None,
        Network::Host => {}
    }
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Spec {
        nonce: ulid::Ulid::generate().to_string(),
        argv: launch.argv,
        env: launch.env,
        workdir: launch.workdir,
        timeout_ms: launch.timeout.map(millis),
        grace_ms: millis(launch.grace),
        output_cap: launch.output_cap,
        plan,
    }
}

/// Refuses what could never be executed.
pub(super) fn validate(launch: &Launch) -> Result<(), LaunchError> {
    let invalid = |what: &str| Err(LaunchError::Invalid(what.to_owned()));
    if !is_safe_name(&launch.id) {
        return invalid("the id must be 1 to 128 of A-Z a-z 0-9 . _ - and not start with a dot");
    }
    match launch.argv.first() {
        None => return invalid("the command is empty; give at least a program"),
        Some(program) if program.is_empty() => return invalid("the program's name is empty"),
        Some(_) => {}
    }
    if launch.argv.iter().any(|argument| argument.contains('\0')) {
        return invalid("an argument contains a NUL character, which no program can receive");
    }
    for (name, value) in &launch.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return invalid(
                "an environment variable has an empty name, a = in its name, or a NUL character",
            );
        }
    }
    if !launch.workdir.is_absolute() {
        return invalid("the working directory must be an absolute path");
    }
    Ok(())
}

/// A name that is one path component and nothing else.
pub(super) fn is_safe_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= ID_MAX
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn a_name_never_leaves_its_directory() {
        for good in ["run_01J.1", "a", "A-b_c.9"] {
            assert!(is_safe_name(good), "{good}");
        }
        let long = "x".repeat(129);
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "../a",
            "a\0",
            "ä",
            "a b",
            long.as_str(),
        ] {
            assert!(!is_safe_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_launch_nobody_could_execute_is_refused() {
        let good = Launch {
            id: "a.1".into(),
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            workdir: "/".into(),
            readable: vec![],
            writable: vec![],
            network: Network::Host,
            timeout: None,
            grace: Duration::ZERO,
            output_cap: 0,
        };
        assert!(validate(&good).is_ok());
        let bad = [
            Launch {
                argv: vec![],
                ..good.clone()
            },
            Launch {
                argv: vec![String::new()],
                ..good.clone()
            },
            Launch {
                argv: vec!["a".into(), "b\0".into()],
                ..good.clone()
            },
            Launch {
                env: [("A=B".to_owned(), String::new())].into(),
                ..good.clone()
            },
            Launch {
                env: [("A".to_owned(), "\0".to_owned())].into(),
                ..good.clone()
            },
            Launch {
                workdir: "relative".into(),
                ..good.clone()
            },
            Launch {
                id: "../up".into(),
                ..good.clone()
            },
        ];
        for launch in bad {
            assert!(
                matches!(validate(&launch), Err(LaunchError::Invalid(_))),
                "{launch:?}"
            );
        }
    }
}
