//! `[sandboxes]` as meant.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use toml::Spanned;

use super::{Address, Reading};
use crate::{
    config::{self, diagnostic::Diagnostic, unit},
    sandbox::{
        ports::{self, Ranges, Role},
        registry::{self, Registries},
    },
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
    /// Sandboxes of one build at once, at most.
    pub build_limit: i64,
    /// Sandboxes that are up at once, at most; further ones wait.
    pub running: usize,
    /// How long one may go unused; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How often records are compared with what the engine holds.
    pub reconcile: Duration,
    /// Whether commands may be run inside of containers.
    pub exec: bool,
    /// The container engine.
    pub docker: Docker,
    /// How long a new sandbox may take to become well.
    pub start_timeout: Duration,
    /// Time between TERM and KILL.
    pub grace: Duration,
    /// Bytes of output kept of one service.
    pub output_limit: u64,
}

/// The container engine, and what one container may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Docker {
    /// The engine's socket.
    pub socket: PathBuf,
    /// The words of the compose command; found when absent.
    pub compose: Option<Vec<String>>,
    /// Whether images that are not there are fetched.
    pub pull: bool,
    /// How long fetching one may take.
    pub pull_timeout: Duration,
    /// How long the engine may take to answer.
    pub answer_timeout: Duration,
    /// Bytes of memory.
    pub memory: u64,
    /// Processors.
    pub cpus: f64,
    /// Processes and threads.
    pub processes: i64,
    /// Files that one process may have open.
    pub open_files: u64,
    /// Whether images are built from the Dockerfiles of repositories.
    pub build: bool,
    /// How long one build may take.
    pub build_timeout: Duration,
    /// Bytes of files that are sent to the engine for one.
    pub build_context: u64,
    /// Where images may come from.
    pub registries: Registries,
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

impl SandboxDriver {
    /// Its name, as written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Docker => "docker",
            Self::Process => "process",
        }
    }
}

/// A duration that is not nothing.
fn time(text: &str) -> Result<Duration, String> {
    let time = unit::duration(text)?;
    if time.is_zero() {
        Err("must be more than 0".to_owned())
    } else {
        Ok(time)
    }
}

impl Reading {
    pub(super) fn sandboxes(
        &mut self,
        sandboxes: config::Sandboxes,
        listen: &Address,
    ) -> Sandboxes {
        let most = |limit: i64| {
            if (1..=1000).contains(&limit) {
                Ok(limit)
            } else {
                Err(format!("must be between 1 and 1000, not {limit}"))
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
            ttl: self.value(sandboxes.ttl, Duration::from_hours(8), |text| time(&text)),
            max_ttl: self.value(sandboxes.max_ttl, Duration::from_hours(7 * 24), |text| {
                time(&text)
            }),
            limit: self.value(sandboxes.limit, 32, most),
            build_limit: self.value(sandboxes.build_limit, 8, most),
            running: self.value(sandboxes.running, 32, |limit| {
                usize::try_from(most(limit)?).map_err(|error| error.to_string())
            }),
            idle_timeout: self.value(sandboxes.idle_timeout, None, |text| time(&text).map(Some)),
            reconcile: self.value(sandboxes.reconcile, Duration::from_secs(30), |text| {
                time(&text)
            }),
            exec: self.value(sandboxes.exec, false, Ok),
            docker: self.docker(sandboxes.docker),
            start_timeout: self.value(sandboxes.start_timeout, Duration::from_mins(1), |text| {
                time(&text)
            }),
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

    fn docker(&mut self, docker: config::Docker) -> Docker {
        let socket = PathBuf::from("/run/docker.sock");
        Docker {
            socket: self.value(docker.socket, socket, |text| {
                let path = text.strip_prefix("unix://").unwrap_or(&text);
                if path.starts_with('/') {
                    Ok(path.into())
                } else {
                    Err("must be the absolute path of a unix socket".to_owned())
                }
            }),
            compose: self.value(docker.compose, None, |words| {
                if words.first().is_some_and(|word| !word.is_empty()) {
                    Ok(Some(words))
                } else {
                    Err("names no program: write e.g. [\"docker\", \"compose\"]".to_owned())
                }
            }),
            pull: self.value(docker.pull, true, Ok),
            pull_timeout: self.value(docker.pull_timeout, Duration::from_mins(10), |text| {
                time(&text)
            }),
            answer_timeout: self.value(docker.answer_timeout, Duration::from_secs(10), |text| {
                time(&text)
            }),
            memory: self.value(docker.memory, 1 << 30, |text| {
                let memory = unit::size(&text)?;
                if memory < 6 << 20 {
                    Err("must be at least 6MiB: the engine takes no less".to_owned())
                } else {
                    Ok(memory)
                }
            }),
            cpus: self.value(docker.cpu, 1.0, |cpus| {
                if (0.01..=1024.0).contains(&cpus) {
                    Ok(cpus)
                } else {
                    Err(format!("must be between 0.01 and 1024, not {cpus}"))
                }
            }),
            processes: self.value(docker.processes, 512, |limit| {
                if (1..=1_000_000).contains(&limit) {
                    Ok(limit)
                } else {
                    Err(format!("must be between 1 and 1000000, not {limit}"))
                }
            }),
            open_files: self.value(docker.open_files, 4096, |limit| {
                if (64..=1_048_576).contains(&limit) {
                    Ok(limit.unsigned_abs())
                } else {
                    Err(format!("must be between 64 and 1048576, not {limit}"))
                }
            }),
            build: self.value(docker.build, false, Ok),
            build_timeout: self.value(docker.build_timeout, Duration::from_mins(10), |text| {
                time(&text)
            }),
            build_context: self.value(docker.build_context, 64 << 20, |text| {
                let most = unit::size(&text)?;
                if most > 1 << 30 {
                    Err("must be at most 1GiB: it is held in memory".to_owned())
                } else {
                    Ok(most)
                }
            }),
            registries: self.registries(docker.registries),
        }
    }

    fn registries(&mut self, written: Vec<Spanned<String>>) -> Registries {
        let mut all: Vec<String> = Vec::new();
        for field in written {
            let listed = self.value(Some(field), None, |text| {
                let listed = registry::listed(&text)?;
                if all.contains(&listed) {
                    Err(format!("`{text}` is listed twice"))
                } else {
                    Ok(Some(listed))
                }
            });
            all.extend(listed);
        }
        Registries::new(all)
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
    fn registries_are_listed_as_images_name_them() {
        let load = |list: &str| {
            let text = format!("[sandboxes.docker]\nregistries = {list}\n");
            let loaded = Settings::load(&text);
            loaded.map(|loaded| loaded.settings.sandboxes.docker.registries)
        };
        assert_eq!(load("[]").unwrap(), Registries::default());
        let two = load(r#"["127.0.0.1:5000", "Registry.Example.org"]"#).unwrap();
        let same = ["127.0.0.1:5000", "registry.example.org"];
        assert_eq!(two, Registries::new(same.map(str::to_owned).into()));
        for (list, words) in [
            (r#"["https://a.example"]"#, "without a scheme"),
            (r#"["registry"]"#, "Give the port"),
            (r#"["0x7f.1:80"]"#, "four numbers"),
            (r#"["a.example", "A.example"]"#, "listed twice"),
            (r#"["docker.io", "index.docker.io"]"#, "listed twice"),
            (r#"[""]"#, "is no registry"),
        ] {
            let errors = load(list).unwrap_err();
            assert!(errors[0].message.contains(words), "{list}: {errors:?}");
            assert!(errors[0].span.is_some(), "{list}");
        }
        assert!(load("\"docker.io\"").is_err());
    }

    #[test]
    fn our_own_listener_is_never_given_out() {
        let text = "[listen]\naddress = \"127.0.0.1:8001\"";
        let ports = Settings::load(text).unwrap().settings.sandboxes.ports;
        assert_eq!(ports.of(Role::Api).next(), Some(8002));
    }
}
