//! What the environment says of the logs. The same with and without a policy file: where a process may write is a
//! matter of how it is started, and has to be known before a policy is read.

use std::{io::IsTerminal, path::PathBuf};

use tracing_subscriber::EnvFilter;

use super::record::Form;

/// A variable that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `ORKET_LOG` is not a filter.
    #[error(
        "ORKET_LOG is not a filter of log records: {0}; write a level, such as `info` or `warn`"
    )]
    Filter(String),
    /// `ORKET_LOG_FORMAT` is neither form.
    #[error("ORKET_LOG_FORMAT is `json` or `text`")]
    Form,
    /// A destination that is none.
    #[error("{variable} is {offered} or the path of a file, which begins with `/` or `./`")]
    Destination {
        /// The variable.
        variable: &'static str,
        /// The words it can be.
        offered: &'static str,
    },
}

/// Where the records of one log go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard error, with this program's own.
    Stderr,
    /// This file.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// How logging is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which of this program's own records are of interest.
    pub filter: String,
    /// How a record looks.
    pub form: Form,
    /// Where access records go.
    pub access: Destination,
    /// Where audit records go; never nowhere.
    pub audit: Destination,
}

impl Settings {
    /// What these variables say.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let filter = set("ORKET_LOG").unwrap_or_else(|| "info".to_owned());
        EnvFilter::try_new(&filter).map_err(|e| SettingsError::Filter(e.to_string()))?;
        let form = match set("ORKET_LOG_FORMAT").as_deref() {
            Some("json") => Form::Json,
            Some("text") => Form::Text,
            Some(_) => return Err(SettingsError::Form),
            None if std::io::stderr().is_terminal() => Form::Text,
            None => Form::Json,
        };
        let access = match set("ORKET_LOG_ACCESS").as_deref() {
            Some("off") => Destination::Off,
            value => destination("ORKET_LOG_ACCESS", "`stderr`, `off`", value)?,
        };
        let audit = destination(
            "ORKET_LOG_AUDIT",
            "`stderr`",
            set("ORKET_LOG_AUDIT").as_deref(),
        )?;
        Ok(Self {
            filter,
            form,
            access,
            audit,
        })
    }
}

fn destination(
    variable: &'static str,
    offered: &'static str,
    value: Option<&str>,
) -> Result<Destination, SettingsError> {
    match value {
        None | Some("stderr") => Ok(Destination::Stderr),
        // A misspelt word would otherwise become a file somewhere.
        Some(path) if path.starts_with('/') || path.starts_with("./") => {
            Ok(Destination::File(path.into()))
        }
        Some(_) => Err(SettingsError::Destination { variable, offered }),
    }
}

/// Whether records for people are coloured.
pub(super) fn colour() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let of = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(&of)
    }

    #[test]
    fn both_logs_are_on_by_default() {
        let settings = read(&[("ORKET_LOG", " ")]).unwrap();
        assert_eq!(settings.filter, "info");
        assert_eq!(settings.access, Destination::Stderr);
        assert_eq!(settings.audit, Destination::Stderr);
    }

    #[test]
    fn a_log_has_a_file_of_its_own() {
        let settings = read(&[("ORKET_LOG_ACCESS", "off"), ("ORKET_LOG_AUDIT", "/a/b")]).unwrap();
        assert_eq!(settings.access, Destination::Off);
        assert_eq!(settings.audit, Destination::File("/a/b".into()));
    }

    #[test]
    fn what_cannot_be_followed_is_an_error() {
        for (name, value) in [
            ("ORKET_LOG", "nonsense=nonsense=1"),
            ("ORKET_LOG_FORMAT", "xml"),
            ("ORKET_LOG_ACCESS", "of"),
            ("ORKET_LOG_AUDIT", "off"),
            ("ORKET_LOG_AUDIT", "stdout"),
        ] {
            assert!(read(&[(name, value)]).is_err(), "{name}={value}");
        }
    }
}
