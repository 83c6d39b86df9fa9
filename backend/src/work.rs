//! What a card or a run does: a command and its bounds. Pure: it is checked here without looking
//! at the machine; `workspace` checks the working directory against the real one.

use std::collections::BTreeMap;

use orket_shared::id;
use serde::{Deserialize, Serialize};

use crate::confine::Network;
use crate::plan::Bounds;

/// Bytes of one argument, or of one `NAME=value`, at most: with the NUL behind it they are the 32
/// pages the kernel takes.
const MAX_STRING: usize = 131_071;
/// Bytes of all arguments and of the environment together, at most: the kernel takes a quarter of
/// the stack's limit, 2 MiB where nobody changed that, pointers included, and some of it is ours.
const MAX_BYTES: usize = 1 << 20;
/// What the kernel counts for each string beside its bytes: a NUL and a pointer.
const STRING_COST: usize = 9;
/// The longest timeout: 30 days.
const MAX_TIMEOUT_MS: u64 = 30 * 24 * 3600 * 1000;
/// The longest delay before a retry: a day.
const MAX_DELAY_MS: u64 = 24 * 3600 * 1000;
/// The most retries.
const MAX_RETRIES: u32 = 100;

/// A command and its bounds, as stored and as captured by a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Program and arguments; with `shell` the script and its positional parameters.
    pub command: Vec<String>,
    /// Whether `command` is a script for `/bin/sh`.
    #[serde(default)]
    pub shell: bool,
    /// The command's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where it runs, relative to the workspace; the workspace itself when absent.
    #[serde(default)]
    pub workdir: Option<String>,
    /// After how many milliseconds it is ended; the configured default when absent.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// How often it may run again when it did not succeed.
    #[serde(default)]
    pub retries: u32,
    /// The sandbox stack that belongs to it.
    #[serde(default)]
    pub stack: Option<String>,
    /// What bounds it beside the timeout of an attempt.
    #[serde(default)]
    pub bounds: Bounds,
    /// The network it asks for; that of the configuration when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

/// What is wrong with a piece of work; the text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Work {
    /// Program and arguments as they are executed.
    pub fn argv(&self) -> Vec<String> {
        if !self.shell {
            return self.command.clone();
        }
        let mut argv = vec!["/bin/sh".to_owned(), "-c".to_owned()];
        let mut rest = self.command.iter().cloned();
        argv.extend(rest.next());
        argv.push("sh".to_owned());
        argv.extend(rest);
        argv
    }

    /// Whether it could be executed as far as can be said without looking.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |text: &str| Err(Invalid(text.to_owned()));
        match self.command.first() {
            None => return invalid("`command` is empty: name a program"),
            Some(program) if program.trim().is_empty() => {
                return invalid("`command` begins with an empty string: name a program");
            }
            Some(_) => {}
        }
        if self.command.iter().any(|argument| argument.contains('\0')) {
            return invalid("`command` contains a NUL character, which no argument can hold");
        }
        if self.command.iter().any(|text| text.len() > MAX_STRING) {
            return invalid(
                "`command` has an argument longer than 131071 bytes: put the data into a file",
            );
        }
        for (name, value) in &self.env {
            let named = !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if !named {
                return invalid(
                    "`env` has a name that is not made of letters, digits and `_` (not beginning with a digit)",
                );
            }
            if value.contains('\0') {
                return invalid("`env` has a value with a NUL character, which it cannot hold");
            }
        }
        let long = |(name, value): (&String, &String)| name.len() + 1 + value.len() > MAX_STRING;
        if self.env.iter().any(long) {
            return invalid(
                "`env` has an entry longer than 131071 bytes: put the data into a file",
            );
        }
        let arguments = self.command.iter().map(|text| text.len() + STRING_COST);
        let variables = self
            .env
            .iter()
            .map(|(name, value)| name.len() + 1 + value.len() + STRING_COST);
        if arguments.chain(variables).sum::<usize>() > MAX_BYTES {
            return invalid(
                "`command` and `env` are longer than 1 MiB together: put the data into a file",
            );
        }
        if self.stack.as_ref().is_some_and(|stack| !id::is_name(stack)) {
            return invalid(
                "`stack` must be the name of a stack: letters, digits, `-`, `_` or `.`, beginning with a letter or digit",
            );
        }
        match self.timeout_ms {
            Some(0) => return invalid("`timeout` must be more than 0 seconds"),
            Some(ms) if ms > MAX_TIMEOUT_MS => return invalid("`timeout` is more than 30 days"),
            Some(_) | None => {}
        }
        for (name, ms) in [
            ("waiting", self.bounds.waiting_ms),
            ("total", self.bounds.total_ms),
            ("silence", self.bounds.silence_ms),
        ] {
            match ms {
                Some(0) => {
                    return Err(Invalid(format!(
                        "`bounds.{name}` must be more than 0 seconds"
                    )));
                }
                Some(ms) if ms > MAX_TIMEOUT_MS => {
                    return Err(Invalid(format!("`bounds.{name}` is more than 30 days")));
                }
                Some(_) | None => {}
            }
        }
        let delays = [self.bounds.retry_delay_ms, self.bounds.retry_delay_most_ms];
        if delays.into_iter().flatten().any(|ms| ms > MAX_DELAY_MS) {
            return invalid("`bounds.retry_delay` and `retry_delay_most` are at most 1 day");
        }
        if self.retries > MAX_RETRIES {
            return invalid("`retries` is more than 100");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a test may fail")]
    use super::*;

    fn work(command: &[&str]) -> Work {
        Work {
            command: command.iter().map(ToString::to_string).collect(),
            shell: false,
            env: BTreeMap::new(),
            workdir: None,
            timeout_ms: None,
            retries: 0,
            stack: None,
            bounds: Bounds::default(),
            network: None,
        }
    }

    #[test]
    fn a_script_gets_its_parameters_and_argv_is_left_alone() {
        assert_eq!(work(&["a", "b c"]).argv(), ["a", "b c"]);
        let script = Work {
            shell: true,
            ..work(&["echo $1", "x"])
        };
        assert_eq!(script.argv(), ["/bin/sh", "-c", "echo $1", "sh", "x"]);
    }

    #[test]
    fn what_cannot_be_executed_is_refused_by_field() {
        let env = |name: &str, value: &str| Work {
            env: BTreeMap::from([(name.to_owned(), value.to_owned())]),
            ..work(&["a"])
        };
        let long = "x".repeat(MAX_STRING + 1);
        let most = "x".repeat(MAX_STRING - 2);
        for (bad, field) in [
            (work(&[]), "command"),
            (work(&[" "]), "command"),
            (work(&["a\0"]), "command"),
            (work(&["a", &long]), "command"),
            (env("A=B", ""), "env"),
            (env("1A", ""), "env"),
            (env("A", "\0"), "env"),
            (env("A", &long), "env"),
            (env("A", &"x".repeat(MAX_STRING - 1)), "env"),
            (work(&[most.as_str(); 8]), "command"),
            (work(&vec!["x"; 200_000]), "command"),
            (
                Work {
                    stack: Some("../x".to_owned()),
                    ..work(&["a"])
                },
                "stack",
            ),
            (
                Work {
                    timeout_ms: Some(0),
                    ..work(&["a"])
                },
                "timeout",
            ),
            (
                Work {
                    timeout_ms: Some(u64::MAX),
                    ..work(&["a"])
                },
                "timeout",
            ),
            (
                Work {
                    retries: 101,
                    ..work(&["a"])
                },
                "retries",
            ),
            (
                Work {
                    bounds: Bounds {
                        silence_ms: Some(0),
                        ..Bounds::default()
                    },
                    ..work(&["a"])
                },
                "bounds.silence",
            ),
        ] {
            let error = bad.check().expect_err(field).to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
        assert_eq!(env("PATH_1", "x").check(), Ok(()));
        assert_eq!(env("A", &most).check(), Ok(()));
        assert_eq!(work(&[most.as_str(); 7]).check(), Ok(()));
    }
}
