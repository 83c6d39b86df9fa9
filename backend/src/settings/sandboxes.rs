//! `[sandboxes]` as meant.

use std::{ops::RangeInclusive, time::Duration};

use super::{Address, Reading};
use crate::{
    config::{self, diagnostic::Diagnostic, unit},
    sandbox::ports::{self, Ranges, Role},
};

/// How sandboxes are kept.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    /// Which driver serves them.
    pub driver: SandboxDriver,
    /// The ports they may use.
    pub ports: Ranges,
    /// How long a released port rests.
    pub cool_down: Duration,
    /// How long a sandbox lives that says nothing itself.
    pub ttl: Duration,
    /// The longest life that may be asked for.
    pub max_ttl: Duration,
    /// Sandboxes at once, at most, whatever their state but deleted.
    pub limit: i64,
    /// How long a new sandbox may take to become well.
    pub start_timeout: Duration,
    /// Time between TERM and KILL.
    pub grace: Duration,
    /// Bytes of output kept of one service.
    pub output_limit: u64,
}

/// Which driver serves sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxDriver {
    /// The best one that is built in and works here.
    Auto,
    /// A Docker engine.
    Docker,
    /// Commands under supervisors.
    Process,
}

impl Reading {
    pub(super) fn sandboxes(
        &mut self,
        sandboxes: config::Sandboxes,
        listen: &Address,
    ) -> Sandboxes {
        let time = |text: String| {
            let time = unit::duration(&text)?;
            if time.is_zero() {
                Err("must be more than 0".to_owned())
            } else {
                Ok(time)
            }
        };
        let settings = Sandboxes {
            driver: self.value(sandboxes.driver, SandboxDriver::Auto, |name| {
                match name.as_str() {
                    "auto" => Ok(SandboxDriver::Auto),
                    "docker" => Ok(SandboxDriver::Docker),
                    "process" => Ok(SandboxDriver::Process),
                    _ => Err(format!(
                        "no driver is called `{name}`: auto, docker or process"
                    )),
                }
            }),
            ports: self.ports(sandboxes.ports, listen),
            cool_down: self.value(sandboxes.cool_down, Duration::from_secs(30), |text| {
                unit::duration(&text)
            }),
            ttl: self.value(sandboxes.ttl, Duration::from_hours(8), time),
            max_ttl: self.value(sandboxes.max_ttl, Duration::from_hours(7 * 24), time),
            limit: self.value(sandboxes.limit, 32, |limit| {
                if (1..=1000).contains(&limit) {
                    Ok(limit)
                } else {
                    Err(format!("`limit` must be between 1 and 1000, not {limit}"))
                }
            }),
            start_timeout: self.value(sandboxes.start_timeout, Duration::from_mins(1), time),
            grace: self.value(sandboxes.grace, Duration::from_secs(10), |text| {
                unit::duration(&text)
            }),
            output_limit: self.value(sandboxes.output_limit, 64 << 20, |text| unit::size(&text)),
        };
        if settings.ttl > settings.max_ttl {
            let text = "`ttl` is more than `max_ttl`: raise the one or lower the other";
            self.errors.push(Diagnostic::error(None, text));
        }
        settings
    }

    fn ports(&mut self, written: config::SandboxPorts, listen: &Address) -> Ranges {
        let fields = [
            (Role::Api, written.api),
            (Role::Frontend, written.frontend),
            (Role::Database, written.database),
            (Role::DocumentDatabase, written.document_database),
            (Role::Admin, written.admin),
        ];
        let mut place = None;
        let mut changed: Vec<(Role, RangeInclusive<u16>)> = Vec::new();
        for (role, field) in fields {
            let Some(field) = field else { continue };
            place = Some(field.span());
            match ports::parse_range(field.as_ref()) {
                Ok(range) => changed.push((role, range)),
                Err(error) => self
                    .errors
                    .push(Diagnostic::error(place.clone(), error.to_string())),
            }
        }
        let own = match listen {
            Address::Unix(_) => None,
            Address::Tcp(address) => Some(address.port()),
        };
        Ranges::new(changed, own).unwrap_or_else(|error| {
            self.errors
                .push(Diagnostic::error(place, error.to_string()));
            Ranges::default()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::{super::Settings, *};

    fn errors(text: &str) -> String {
        let errors = Settings::load(text).unwrap_err();
        format!("{errors:?}")
    }

    #[test]
    fn ranges_can_be_moved_but_not_onto_each_other() {
        let text = "[sandboxes]\nttl = \"1h\"\n[sandboxes.ports]\napi = \"9001-9010\"\n";
        let sandboxes = Settings::load(text).unwrap().settings.sandboxes;
        assert_eq!(sandboxes.ports.of(Role::Api).next(), Some(9001));
        assert_eq!(sandboxes.ports.of(Role::Admin).next(), Some(8101));
        assert_eq!(sandboxes.ttl, Duration::from_hours(1));
        assert!(errors("[sandboxes.ports]\napi = \"8101-8110\"").contains("overlap"));
        assert!(errors("[sandboxes.ports]\napi = \"40000-40010\"").contains("ephemeral"));
        assert!(errors("[sandboxes.ports]\napi = \"many\"").contains("not a range"));
        assert!(errors("[sandboxes.ports]\nweb = \"1-2\"").contains("web"));
        assert!(errors("[sandboxes]\nttl = \"8d\"").contains("max_ttl"));
        assert!(errors("[sandboxes]\ndriver = \"podman\"").contains("podman"));
    }

    #[test]
    fn our_own_listener_is_never_given_out() {
        let text = "[listen]\naddress = \"127.0.0.1:8001\"";
        let ports = Settings::load(text).unwrap().settings.sandboxes.ports;
        assert_eq!(ports.of(Role::Api).next(), Some(8002));
    }
}
