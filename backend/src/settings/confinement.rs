//! `[confinement]` as meant.

use std::{fmt, net::SocketAddr, path::PathBuf};

use toml::Spanned;

use super::{Reading, users};
use crate::{
    config::{self, diagnostic::Diagnostic, unit},
    confine::{Limits, Network, User},
    executor::Isolation,
};

/// How runs and the services of sandboxes are confined.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// What is to be reached.
    pub aim: Aim,
    /// The user that commands become.
    pub run_as: Option<User>,
    /// The network of runs.
    pub network: Network,
    /// What commands may read, beside the system's own files.
    pub readable: Vec<PathBuf>,
    /// What commands may change, beside their own folders.
    pub writable: Vec<PathBuf>,
    /// What the self-test has to find out of reach, beside what is ours.
    pub keep_out: Vec<KeptOut>,
    /// What one command may use.
    pub limits: Limits,
    /// Which control groups are used.
    pub groups: Groups,
}

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The strongest that works here.
    Auto,
    /// This level, or the backend does not start.
    At(Isolation),
}

/// Which control groups are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// The unified hierarchy, where ours is delegated.
    Auto,
    /// The separate hierarchies.
    V1,
    /// None.
    Off,
}

/// Something of others that no command may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptOut {
    /// A unix socket, a file or a folder.
    Path(PathBuf),
    /// A TCP listener.
    Tcp(SocketAddr),
}

impl fmt::Display for KeptOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// Where the gateway's own things lie unless they were moved. What is not there is not tried.
const GATEWAYS: [&str; 5] = [
    "/var/lib/orket/gateway",
    "/var/lib/orket/gateway/gateway.sock",
    "/etc/orket",
    "/etc/orket/api_key",
    "/etc/orket/gitea_secret",
];

impl Default for Confinement {
    fn default() -> Self {
        Self {
            aim: Aim::Auto,
            run_as: None,
            network: Network::Host,
            readable: Vec::new(),
            writable: Vec::new(),
            keep_out: GATEWAYS
                .iter()
                .map(|path| KeptOut::Path(PathBuf::from(path)))
                .collect(),
            limits: Limits::default(),
            groups: Groups::Auto,
        }
    }
}

impl Reading {
    pub(super) fn confinement(&mut self, written: config::Confinement) -> Confinement {
        let default = Confinement::default();
        let place = written.level.as_ref().map(Spanned::span);
        let count = |name: &'static str, least: i64| {
            move |n: i64| match u64::try_from(n) {
                Ok(count) if n >= least => Ok(count),
                Ok(_) | Err(_) => Err(format!("`{name}` must be at least {least}, not {n}")),
            }
        };
        let limits = Limits {
            processes: self.value(
                written.processes,
                default.limits.processes,
                count("processes", 1),
            ),
            open_files: self.value(
                written.open_files,
                default.limits.open_files,
                count("open_files", 16),
            ),
            file_size: self.value(written.file_size, None, |text| unit::size(&text).map(Some)),
            memory: self.value(written.memory, None, |text| match unit::size(&text)? {
                few if few < 16 << 20 => Err("`memory` must be at least 16MiB".to_owned()),
                bytes => Ok(Some(bytes)),
            }),
            cpu: self.value(written.cpu, None, |count| {
                if (0.01..=1024.0).contains(&count) {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "it is between 10 and 1 024 000"
                    )]
                    Ok(Some((count * 1000.0) as u64))
                } else {
                    Err(format!(
                        "`cpu` must be between 0.01 and 1024 processors, not {count}"
                    ))
                }
            }),
        };
        let settings = Confinement {
            aim: self.value(written.level, default.aim, |name| parse_aim(&name)),
            run_as: self.value(written.run_as, None, |name| parse_user(&name).map(Some)),
            network: self.value(written.network, default.network, |name| {
                match name.as_str() {
                    "host" => Ok(Network::Host),
                    "none" => Ok(Network::None),
                    _ => Err(format!("`{name}` is no network: host or none")),
                }
            }),
            readable: self.paths(written.readable),
            writable: self.paths(written.writable),
            keep_out: written.keep_out.map_or(default.keep_out, |all| {
                all.into_iter()
                    .filter_map(|kept| {
                        self.value(Some(kept), None, |text| kept_out(&text).map(Some))
                    })
                    .collect()
            }),
            limits,
            groups: self.value(written.cgroups, default.groups, |name| {
                match name.as_str() {
                    "auto" => Ok(Groups::Auto),
                    "v1" => Ok(Groups::V1),
                    "off" => Ok(Groups::Off),
                    _ => Err(format!("`{name}` is unknown: auto, v1 or off")),
                }
            }),
        };
        if let Aim::At(level) = settings.aim {
            if level >= Isolation::Contained && settings.network == Network::Host {
                self.errors.push(Diagnostic::error(
                    place.clone(),
                    format!(
                        "the level `{}` includes a network of its own: add `network = \"none\"`",
                        level.name()
                    ),
                ));
            }
            if level == Isolation::User && settings.run_as.is_none() {
                self.errors.push(Diagnostic::error(
                    place,
                    "the level `user` needs a user: name one in `run_as`",
                ));
            }
        }
        settings
    }

    fn paths(&mut self, written: Vec<Spanned<String>>) -> Vec<PathBuf> {
        let paths = written.into_iter().filter_map(|path| {
            self.value(Some(path), None, |text| {
                let path = PathBuf::from(&text);
                match (path.is_absolute(), path.parent()) {
                    (true, Some(_)) => Ok(Some(path)),
                    (true, None) => Err("the whole file system is too much".to_owned()),
                    (false, _) => Err(format!("`{text}` is not an absolute path")),
                }
            })
        });
        paths.collect()
    }
}

fn parse_aim(name: &str) -> Result<Aim, String> {
    if name == "auto" {
        return Ok(Aim::Auto);
    }
    Isolation::ALL
        .into_iter()
        .find(|level| *level != Isolation::None && level.name() == name)
        .map(Aim::At)
        .ok_or_else(|| format!("`{name}` is no level: auto, group, confined, contained or user"))
}

/// `user` or `user:group`, each a name or a number.
fn parse_user(text: &str) -> Result<User, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let uid = users::resolve(user)?;
    let gid = match group {
        Some(group) => users::resolve_group(group)?,
        None => users::group_of(uid).unwrap_or(uid),
    };
    if uid == 0 || gid == 0 {
        return Err("`run_as` must not be root, nor of root's group".to_owned());
    }
    if uid == rustix::process::geteuid().as_raw() {
        return Err(format!(
            "`{user}` is the backend's own user: name another one"
        ));
    }
    Ok(User { uid, gid })
}

fn kept_out(text: &str) -> Result<KeptOut, String> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    if path.starts_with('/') {
        return Ok(KeptOut::Path(PathBuf::from(path)));
    }
    text.parse().map(KeptOut::Tcp).map_err(|_| {
        format!("`{text}` is neither an absolute path nor `ip:port` such as 127.0.0.1:8080")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::{super::Settings, *};

    fn load(text: &str) -> Result<Confinement, String> {
        Settings::load(&format!("[confinement]\n{text}"))
            .map(|loaded| loaded.settings.confinement)
            .map_err(|errors| format!("{errors:?}"))
    }

    #[test]
    fn what_it_means() {
        let read = load(
            "level = \"user\"\nrun_as = \"65534\"\nnetwork = \"none\"\nmemory = \"1GiB\"\ncpu = 1.5\n\
             keep_out = [\"127.0.0.1:8080\", \"unix:/run/x.sock\", \"/etc/x\"]",
        )
        .unwrap();
        assert_eq!(read.aim, Aim::At(Isolation::User));
        assert_eq!(read.run_as.map(|user| user.uid), Some(65_534));
        assert_eq!(
            (read.limits.memory, read.limits.cpu),
            (Some(1 << 30), Some(1500))
        );
        let kept: Vec<_> = read.keep_out.iter().map(ToString::to_string).collect();
        let engine = "/run/docker.sock";
        assert_eq!(kept, ["127.0.0.1:8080", "/run/x.sock", "/etc/x", engine]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, word) in [
            ("level = \"strong\"", "no level"),
            ("level = \"none\"", "no level"),
            ("level = \"contained\"", "network"),
            ("level = \"user\"\nnetwork = \"none\"", "run_as"),
            ("run_as = \"0\"", "root"),
            ("run_as = \"65534:0\"", "root"),
            ("run_as = \"nobody-here-by-this-name\"", "there is no user"),
            ("network = \"some\"", "host or none"),
            ("readable = [\"srv\"]", "absolute"),
            ("writable = [\"/\"]", "too much"),
            ("keep_out = [\"x\"]", "neither"),
            ("processes = 0", "at least"),
            ("memory = \"1KiB\"", "at least"),
            ("cpu = 0.0", "between"),
            ("cgroups = \"v3\"", "unknown"),
        ] {
            let errors = load(text).unwrap_err();
            assert!(errors.contains(word), "{text}: {errors}");
        }
    }
}
