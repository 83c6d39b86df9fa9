//! What a sandbox consists of. Pure: checked here without looking at the machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    container::Container,
    ports::{Role, Wish},
    value::{MAX_ID, image_fault, is_user},
};
use crate::work::{Invalid, Work};

/// The most services of one sandbox.
pub(super) const MAX_SERVICES: usize = 16;
/// The most generated credentials of one sandbox.
pub(super) const MAX_SECRETS: usize = 16;
/// Within the sandbox's directory: where services work that name no place.
pub(super) const OWN_WORKDIR: &str = "work";
const MAX_NAME: usize = 40;
/// The credential that is generated when none is named.
const DEFAULT_SECRET: &str = "password";

/// How it is seen whether a service is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Health {
    /// `GET` of this path on the service's port answers 2xx or 3xx.
    Path(String),
    /// The service's port accepts a connection (`true`), or living is enough (`false`).
    Tcp(bool),
}

impl Default for Health {
    fn default() -> Self {
        Self::Tcp(false)
    }
}

/// A service as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unique within the sandbox.
    pub name: String,
    /// The image of its container; without one it is a process.
    #[serde(default)]
    pub image: Option<String>,
    /// Program and arguments; the image's own when empty.
    pub command: Vec<String>,
    /// What it is to its users; gives it a port.
    pub role: Option<Role>,
    /// The port it was given, or asked for.
    pub port: Option<u16>,
    /// Whether exactly that port was asked for.
    #[serde(default)]
    pub pinned: bool,
    /// The port it listens on in its container; `port` when absent.
    #[serde(default)]
    pub container_port: Option<u16>,
    /// Where volumes of the sandbox's own lie in its container.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// The user in its container, in figures: `uid` or `uid:gid`.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether it is started again when it fails.
    #[serde(default)]
    pub restart: bool,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Where it runs, relative to the workspace; a folder of the sandbox's own when absent.
    pub workdir: Option<String>,
    /// How it is seen whether it is well.
    pub health: Health,
    /// What a stack says of its container.
    #[serde(default)]
    pub container: Container,
}

/// A sandbox as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What people call it.
    pub name: Option<String>,
    /// The build it belongs to.
    pub build_id: Option<String>,
    /// Its services, in the order of their start.
    pub services: Vec<Service>,
    /// Names of credentials to generate.
    pub secrets: Vec<String>,
    /// How long it lives unless it is extended.
    pub ttl: Duration,
}

/// A sandbox as a driver sees it: everything decided, every path real.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The sandbox.
    pub id: String,
    /// Its services, every port given.
    pub services: Vec<Service>,
    /// The working directory of each service, or why it has none.
    pub workdirs: Vec<Result<PathBuf, String>>,
    /// The repository of each service whose image is built, by service, or why there is none.
    pub repositories: BTreeMap<String, Result<PathBuf, String>>,
    /// Names of its credentials.
    pub secrets: Vec<String>,
    /// The directory that belongs to it alone.
    pub dir: PathBuf,
}

impl Plan {
    /// The working directory of services that name none.
    pub fn own_workdir(&self) -> PathBuf {
        self.dir.join(OWN_WORKDIR)
    }
}

impl Spec {
    /// Refuses what could never be started.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |text: String| Err(Invalid(text));
        if self.services.is_empty() {
            return invalid("`services` is empty: name at least one".into());
        }
        if self.services.len() > MAX_SERVICES {
            return invalid(format!("`services` names more than {MAX_SERVICES}"));
        }
        let images = self.services.iter().filter(|s| s.is_contained()).count();
        if images != 0 && images != self.services.len() {
            return invalid("`services` mixes those with an `image` and those without: give all of them one, or none".into());
        }
        let mut names = BTreeSet::new();
        let mut variables = BTreeSet::new();
        for service in &self.services {
            service.check()?;
            if !names.insert(&service.name) || !variables.insert(variable(&service.name)) {
                return invalid(format!(
                    "`services` names `{}` twice, as a name or as an environment variable",
                    service.name
                ));
            }
        }
        if self.secrets.len() > MAX_SECRETS {
            return invalid(format!("`credentials` names more than {MAX_SECRETS}"));
        }
        for secret in &self.secrets {
            let named = is_label(secret) && !secret.contains('-');
            if !named {
                return invalid(
                    "`credentials` has a name that is not 1 to 40 lower-case letters, digits and `_`, beginning with a letter".into(),
                );
            }
        }
        if self.secrets.iter().collect::<BTreeSet<_>>().len() < self.secrets.len() {
            return invalid("`credentials` has a name twice".into());
        }
        if self
            .name
            .as_ref()
            .is_some_and(|name| name.is_empty() || name.len() > 200)
        {
            return invalid("`name` must have 1 to 200 bytes".into());
        }
        if self.ttl.is_zero() {
            return invalid("`ttl` must be more than 0 seconds".into());
        }
        Ok(())
    }

    /// Whether its services are containers.
    pub fn is_of_images(&self) -> bool {
        self.services.iter().any(Service::is_contained)
    }

    /// The credentials to generate: at least one.
    pub fn secrets_or_default(secrets: Option<Vec<String>>) -> Vec<String> {
        secrets.unwrap_or_else(|| vec![DEFAULT_SECRET.to_owned()])
    }

    /// What is asked of the allocation of ports: which service, which wish.
    pub fn wishes(&self) -> Vec<(usize, Wish)> {
        let wish = |service: &Service| match (service.port, service.role) {
            (Some(port), _) => Some(Wish::Exactly(port)),
            (None, Some(role)) => Some(Wish::Any(role)),
            (None, None) => None,
        };
        let services = self.services.iter().enumerate();
        services
            .filter_map(|(at, service)| Some((at, wish(service)?)))
            .collect()
    }
}

impl Service {
    /// Whether it is a container: of an image, or of one that is built for it.
    pub fn is_contained(&self) -> bool {
        self.image.is_some() || self.container.build.is_some()
    }

    fn check(&self) -> Result<(), Invalid> {
        if !is_label(&self.name) {
            return Err(Invalid(
                "`services` has a `name` that is not 1 to 40 lower-case letters, digits, `-` and `_`, beginning with a letter".into(),
            ));
        }
        let within = |Invalid(text): Invalid| Invalid(format!("service `{}`: {text}", self.name));
        let mut command = self.command.clone();
        if self.is_contained() && command.is_empty() {
            command.push("the image's own".into());
        }
        let work = Work {
            command,
            env: self.env.clone(),
            ..Work::default()
        };
        work.check().map_err(within)?;
        self.check_container().map_err(within)?;
        let has_port = self.port.is_some() || self.role.is_some();
        match &self.health {
            Health::Path(path) => {
                let good = path.starts_with('/')
                    && path.len() <= 1024
                    && path.bytes().all(|byte| byte.is_ascii_graphic());
                if !good {
                    return Err(within(Invalid(
                        "`health.path` must begin with `/` and be printable ASCII".into(),
                    )));
                }
                if !has_port {
                    return Err(within(Invalid(
                        "`health` needs a port: give a `role` or a `port`".into(),
                    )));
                }
            }
            Health::Tcp(true) if !has_port => {
                return Err(within(Invalid(
                    "`health` needs a port: give a `role` or a `port`".into(),
                )));
            }
            Health::Tcp(_) => {}
        }
        Ok(())
    }

    /// What only containers have, and what only processes have.
    fn check_container(&self) -> Result<(), Invalid> {
        let invalid = |text: &str| Err(Invalid(text.to_owned()));
        let image = self.image.as_ref();
        if !self.is_contained() {
            let given = self.container_port.is_some()
                || !self.volumes.is_empty()
                || self.user.is_some()
                || self.restart;
            return if given {
                invalid("`container_port`, `volumes`, `user` and `restart` need an `image`")
            } else {
                Ok(())
            };
        }
        if let Some(fault) = image.and_then(|image| image_fault(image)) {
            return invalid(&format!("`image` {fault}"));
        }
        if self.workdir.is_some() {
            return invalid("`workdir` is a place in the workspace, which containers do not see");
        }
        if self.container_port == Some(0) {
            return invalid("`container_port` must be more than 0");
        }
        if self.container_port.is_some() && self.port.is_none() && self.role.is_none() {
            return invalid("`container_port` needs a `role` or a `port`");
        }
        if !self.user.as_deref().is_none_or(is_user) {
            return invalid(&format!(
                "`user` must be figures up to {MAX_ID}: `uid` or `uid:gid`"
            ));
        }
        let place = |path: &String| {
            path.len() > 1
                && path.len() <= 200
                && path.starts_with('/')
                && path[1..].split('/').all(|part| {
                    !matches!(part, "" | "." | "..")
                        && part
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
                })
                && !path.starts_with(super::stack::CREDENTIALS)
        };
        let distinct = self.volumes.iter().collect::<BTreeSet<_>>().len();
        if distinct < self.volumes.len()
            || self.volumes.len() > 8
            || !self.volumes.iter().all(place)
        {
            return invalid(
                "`volumes` must be up to 8 different absolute paths of plain names in the container",
            );
        }
        Ok(())
    }

    /// The probe for a service of which nothing was said: its port, if it has one.
    pub fn default_health(has_port: bool) -> Health {
        Health::Tcp(has_port)
    }
}

/// The form of a name in an environment variable.
pub fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

pub(super) fn is_label(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    fn service(name: &str) -> Service {
        Service {
            name: name.into(),
            command: vec!["true".into()],
            role: Some(Role::Api),
            health: Health::Tcp(true),
            ..Service::default()
        }
    }

    fn spec(services: Vec<Service>) -> Spec {
        Spec {
            name: None,
            build_id: None,
            services,
            secrets: vec![],
            ttl: Duration::from_secs(1),
        }
    }

    #[test]
    fn what_could_never_start_is_refused() {
        assert!(spec(vec![service("api"), service("web")]).check().is_ok());
        let portless = Service {
            role: None,
            ..service("a")
        };
        assert!(
            spec(vec![Service {
                health: Health::Tcp(false),
                ..portless.clone()
            }])
            .check()
            .is_ok()
        );
        let bad = [
            spec(vec![]),
            spec((0..17).map(|n| service(&format!("s{n}"))).collect()),
            spec(vec![service("api"), service("api")]),
            spec(vec![service("a-b"), service("a_b")]),
            spec(vec![service("API")]),
            spec(vec![service("../x")]),
            spec(vec![Service {
                command: vec![],
                ..service("a")
            }]),
            spec(vec![portless.clone()]),
            spec(vec![Service {
                health: Health::Path("/".into()),
                ..portless
            }]),
            spec(vec![Service {
                health: Health::Path("x".into()),
                ..service("a")
            }]),
            spec(vec![Service {
                health: Health::Path("/ x".into()),
                ..service("a")
            }]),
            spec(vec![Service {
                health: Health::Path("/\r\nX: y".into()),
                ..service("a")
            }]),
            Spec {
                secrets: vec!["../x".into()],
                ..spec(vec![service("a")])
            },
            Spec {
                secrets: vec!["a".into(), "a".into()],
                ..spec(vec![service("a")])
            },
            Spec {
                ttl: Duration::ZERO,
                ..spec(vec![service("a")])
            },
            Spec {
                name: Some(String::new()),
                ..spec(vec![service("a")])
            },
        ];
        for spec in bad {
            assert!(spec.check().is_err(), "{spec:?}");
        }
    }

    #[test]
    fn containers_are_named_for_good_and_touch_nothing_of_the_host() {
        let contained = Service {
            image: Some("registry.example:5000/a/b:1.2".into()),
            command: vec![],
            ..service("db")
        };
        let full = Service {
            container_port: Some(80),
            volumes: vec!["/var/lib/data".into()],
            user: Some("70:70".into()),
            restart: true,
            ..contained.clone()
        };
        for good in [&contained, &full] {
            assert!(spec(vec![good.clone()]).check().is_ok(), "{good:?}");
        }
        let image = |name: &str| Service {
            image: Some(name.into()),
            ..contained.clone()
        };
        let volume = |path: &str| Service {
            volumes: vec![path.into()],
            ..contained.clone()
        };
        let user = |user: &str| Service {
            user: Some(user.into()),
            ..contained.clone()
        };
        let mut bad: Vec<Service> = ["", "a", "a:latest", "host:5000/a", "-a:1", "a b:1", "$A:1"]
            .map(image)
            .into();
        bad.extend(["a:/b", "/", "/a/../b", "//a", "/a:/b:rw", "/run/secrets/x"].map(volume));
        bad.extend(["root", "", "0:", "-1", "+1", "1:2:3"].map(user));
        bad.extend(["0:2147483648", "4294967295"].map(user));
        bad.push(image("orket-01arz3ndektsv4rrffq69g5fav-0:built"));
        bad.push(Service {
            workdir: Some("x".into()),
            ..contained.clone()
        });
        bad.push(Service {
            restart: true,
            ..service("plain")
        });
        for service in bad {
            assert!(spec(vec![service.clone()]).check().is_err(), "{service:?}");
        }
        assert!(spec(vec![contained, service("plain")]).check().is_err());
    }
}
