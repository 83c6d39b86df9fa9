//! The configuration as meant: parsed, complete, immutable. Made from [`crate::config`] only;
//! nothing at run time holds a config struct.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use toml::Spanned;

use crate::{
    config::{self, Config, diagnostic::Diagnostic, unit},
    executor::Isolation,
    plan::{Bounds, QueueRule, Rules},
};

pub mod confinement;
mod sandboxes;
pub mod users;

pub use confinement::Confinement;
pub use sandboxes::{SandboxDriver, Sandboxes};
use users::Uid;

/// Everything an operator decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where requests come in.
    pub listen: Listen,
    /// The store's file.
    pub store: PathBuf,
    /// The directory that all commands work in.
    pub workspace: PathBuf,
    /// How runs are run.
    pub runs: Runs,
    /// How runs and the services of sandboxes are confined.
    pub confinement: Confinement,
    /// How sandboxes are kept.
    pub sandboxes: Sandboxes,
    /// Which pull requests cause work.
    pub review: Review,
}

/// Where requests come in, and from whom.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address.
    pub address: Address,
    /// The users admitted on a unix socket beside our own.
    pub peers: Vec<Uid>,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// An IP address and port: every local process, at least, can connect.
    Tcp(SocketAddr),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("`unix:` needs a path behind it".to_owned());
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("`{text}` is neither `unix:/path` nor `ip:port` such as 127.0.0.1:8082")
        })
    }
}

/// How runs are run.
#[derive(Debug, Clone)]
pub struct Runs {
    /// How many wait and how many run at once, and the bounds of those that say nothing.
    pub rules: Arc<Rules>,
    /// The isolation level that work from webhooks needs.
    pub min_isolation: Isolation,
    /// When a run is ended that says nothing itself.
    pub timeout: Duration,
    /// Time between TERM and KILL.
    pub grace: Duration,
    /// Bytes of output kept of one attempt.
    pub output_limit: u64,
    /// What a stop does to active runs.
    pub on_stop: OnStop,
    /// How long a stop that drains waits.
    pub drain_timeout: Duration,
}

/// What a stop of the backend does to active runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// They go on under their supervisors; the next start takes them over.
    Leave,
    /// The stop waits for their ends, for a time; what then still runs is left.
    Drain,
    /// They are canceled, and the stop waits for that.
    Cancel,
}

/// Which pull requests cause work. An empty list admits nothing.
#[derive(Debug, Clone, Default)]
pub struct Review {
    /// Repositories as `owner/name`.
    pub repositories: Vec<String>,
    /// Base branches.
    pub branches: Vec<String>,
    /// Login names of who opens or pushes.
    pub people: Vec<String>,
}

/// Settings, and what an operator should look at.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Warnings, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

impl Settings {
    /// The settings a file's text means; all of its mistakes otherwise.
    pub fn load(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
        let config = config::parse(text).map_err(|error| vec![error])?;
        Reading::default().settings(config)
    }
}

/// Collects findings while a config is read, so that all are reported at once.
#[derive(Default)]
struct Reading {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Reading {
    fn settings(mut self, config: Config) -> Result<Loaded, Vec<Diagnostic>> {
        let listen = self.listen(config.listen);
        let place = config.store.url.as_ref().map(Spanned::span);
        let place = place.or_else(|| config.workspace.dir.as_ref().map(Spanned::span));
        let settings = Settings {
            store: self.store(config.store.url),
            workspace: PathBuf::from(self.value(
                config.workspace.dir,
                "/var/lib/orket/workspace".to_owned(),
                |dir| {
                    if dir.trim().is_empty() {
                        Err("`dir` is empty".to_owned())
                    } else {
                        Ok(dir)
                    }
                },
            )),
            runs: self.runs(config.runs, config.queues),
            confinement: self.confinement(config.confinement),
            sandboxes: self.sandboxes(config.sandboxes, &listen.address),
            review: self.review(config.review),
            listen,
        };
        if let Err(message) = apart(&settings.store, &settings.workspace) {
            self.errors.push(Diagnostic::error(place, message));
        }
        if self.errors.is_empty() {
            Ok(Loaded {
                settings,
                warnings: self.warnings,
            })
        } else {
            Err(self.errors)
        }
    }

    /// A field's meaning, its default when it is absent, and an error at its place otherwise.
    fn value<T, U>(
        &mut self,
        field: Option<Spanned<T>>,
        default: U,
        meaning: impl FnOnce(T) -> Result<U, String>,
    ) -> U {
        let Some(field) = field else { return default };
        let span = field.span();
        match meaning(field.into_inner()) {
            Ok(value) => value,
            Err(message) => {
                self.errors.push(Diagnostic::error(Some(span), message));
                default
            }
        }
    }

    fn listen(&mut self, listen: config::Listen) -> Listen {
        let span = listen.address.as_ref().map(Spanned::span);
        let default = Address::Unix(PathBuf::from("/run/orket/backend.sock"));
        let address = self.value(listen.address, default, |text| text.parse());
        match &address {
            Address::Unix(_) => {}
            Address::Tcp(tcp) if tcp.ip().is_loopback() => {
                self.warnings.push(Diagnostic::warning(
                    span,
                    "every process of this machine can connect to a loopback address, also what \
                     runs execute: prefer `unix:/path`",
                ));
            }
            Address::Tcp(tcp) if listen.allow_remote => {
                self.warnings.push(Diagnostic::warning(
                    span,
                    format!(
                        "{tcp} may be reached from other machines, and the backend asks nobody \
                         for proof: only the gateway may get there"
                    ),
                ));
            }
            Address::Tcp(tcp) => self.errors.push(Diagnostic::error(
                span,
                format!(
                    "{tcp} is not a loopback address: use `unix:/path`, or set `allow_remote = \
                     true` when only the gateway can reach it"
                ),
            )),
        }
        let Some(names) = listen.peers else {
            // The default peer: admitted where that user exists.
            let peers = users::resolve("orket-gateway").into_iter().collect();
            return Listen { address, peers };
        };
        let mut peers = Vec::new();
        for name in names {
            match users::resolve(name.as_ref()) {
                Ok(uid) => peers.push(uid),
                Err(why) => self.warnings.push(Diagnostic::warning(
                    Some(name.span()),
                    format!("{why}: nobody is admitted by this entry"),
                )),
            }
        }
        Listen { address, peers }
    }

    fn store(&mut self, url: Option<Spanned<String>>) -> PathBuf {
        let default = PathBuf::from("/var/lib/orket/backend/orket.db");
        self.value(url, default, |url| match url.strip_prefix("sqlite:") {
            Some(path) if path.starts_with(':') => Err(format!(
                "`{url}` would be forgotten at the end: write sqlite:<path of a file>"
            )),
            Some(path) if !path.is_empty() && !path.ends_with('/') => Ok(PathBuf::from(path)),
            Some(_) => Err("`sqlite:` needs the path of a file behind it".to_owned()),
            None => Err(format!(
                "`{url}` is not a store: write sqlite:<path of a file>"
            )),
        })
    }

    fn runs(&mut self, runs: config::Runs, queues: BTreeMap<String, config::Queue>) -> Runs {
        let queues = queues
            .into_iter()
            .map(|(name, queue)| {
                let rule = self.queue(&name, queue);
                (name, rule)
            })
            .collect();
        let rules = Rules {
            concurrency: self.value(runs.concurrency, 8, within("concurrency", 10_000)),
            queue_limit: self.value(runs.queue_limit, 10_000, within("queue_limit", 10_000_000)),
            queues,
            bounds: Bounds {
                waiting_ms: self.value(runs.waiting_timeout, None, |t| more_than_nothing(&t)),
                total_ms: self.value(runs.total_timeout, None, |t| more_than_nothing(&t)),
                silence_ms: self.value(runs.silence_timeout, None, |t| more_than_nothing(&t)),
                retry_delay_ms: self.value(runs.retry_delay, Some(1_000), |t| delay(&t)),
                retry_delay_most_ms: self
                    .value(runs.retry_delay_most, Some(300_000), |t| delay(&t)),
            },
        };
        Runs {
            rules: Arc::new(rules),
            min_isolation: self.value(runs.min_isolation, Isolation::Group, |name| {
                Isolation::ALL
                    .into_iter()
                    .find(|level| level.name() == name)
                    .ok_or_else(|| {
                        format!("`{name}` is no level: none, group, confined, contained or user")
                    })
            }),
            timeout: self.value(runs.timeout, Duration::from_hours(1), |t| {
                let timeout = unit::duration(&t)?;
                if timeout.is_zero() {
                    return Err("`timeout` must be more than 0: no run could end well".to_owned());
                }
                Ok(timeout)
            }),
            grace: self.value(runs.grace, Duration::from_secs(10), |t| unit::duration(&t)),
            output_limit: self.value(runs.output_limit, 16 << 20, |t| unit::size(&t)),
            on_stop: self.value(runs.on_stop, OnStop::Leave, |name| match name.as_str() {
                "leave" => Ok(OnStop::Leave),
                "drain" => Ok(OnStop::Drain),
                "cancel" => Ok(OnStop::Cancel),
                _ => Err(format!("`{name}` is unknown: leave, drain or cancel")),
            }),
            drain_timeout: self.value(runs.drain_timeout, Duration::from_secs(30), |t| {
                unit::duration(&t)
            }),
        }
    }

    fn queue(&mut self, name: &str, queue: config::Queue) -> QueueRule {
        if !orket_shared::id::is_name(name) {
            let message = format!(
                "`[queues.{name}]` is no name: letters, digits, `-`, `_` or `.`, beginning with a letter or digit"
            );
            self.errors.push(Diagnostic::error(None, message));
        }
        QueueRule {
            concurrency: self.value(queue.concurrency, None, |n| {
                within("concurrency", 10_000)(n).map(Some)
            }),
            key_concurrency: self.value(queue.key_concurrency, None, |n| {
                within("key_concurrency", 10_000)(n).map(Some)
            }),
            length: self.value(queue.length, None, |n| {
                within("length", 10_000_000)(n).map(Some)
            }),
        }
    }

    fn review(&mut self, review: config::Review) -> Review {
        let mut list = |names: Vec<Spanned<String>>| {
            for name in &names {
                if name.as_ref().trim().is_empty() {
                    let message = "an empty name admits nothing: remove it, or write \"*\" for all";
                    self.errors
                        .push(Diagnostic::error(Some(name.span()), message));
                }
            }
            names.into_iter().map(Spanned::into_inner).collect()
        };
        Review {
            repositories: list(review.repositories),
            branches: list(review.branches),
            people: list(review.people),
        }
    }
}

/// A number of `name` from 1 to `most`.
fn within(name: &'static str, most: i64) -> impl Fn(i64) -> Result<i64, String> {
    move |n| {
        if (1..=most).contains(&n) {
            Ok(n)
        } else {
            Err(format!("`{name}` must be between 1 and {most}, not {n}"))
        }
    }
}

/// A time that may pass before a run is ended, in milliseconds.
fn more_than_nothing(text: &str) -> Result<Option<u64>, String> {
    match delay(text)? {
        Some(0) => Err("it must be more than 0: no run could end well".to_owned()),
        ms => Ok(ms),
    }
}

/// A delay in milliseconds.
fn delay(text: &str) -> Result<Option<u64>, String> {
    let ms = unit::duration(text)?.as_millis();
    u64::try_from(ms)
        .map(Some)
        .map_err(|_| format!("`{text}` is too long"))
}

/// Refuses a store that what runs execute could reach by a path inside their workspace. Links are
/// looked through at the start only.
pub(crate) fn apart(store: &Path, workspace: &Path) -> Result<(), String> {
    let plain = |path: &Path| {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut plain = PathBuf::new();
        for part in whole.components() {
            if part == Component::ParentDir {
                plain.pop();
            } else {
                plain.push(part);
            }
        }
        plain
    };
    let (store, workspace) = (plain(store), plain(workspace));
    let mut state = store.clone().into_os_string();
    state.push(".d");
    if store.starts_with(&workspace) {
        return Err(format!(
            "the store {} lies in the workspace {}, where every run may write: keep them apart",
            store.display(),
            workspace.display()
        ));
    }
    if workspace.starts_with(PathBuf::from(state)) {
        return Err(format!(
            "the workspace {} lies in the store's own directory: keep them apart",
            workspace.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test may fail"
    )]
    use super::*;

    #[test]
    fn the_empty_file_is_all_defaults() {
        let loaded = Settings::load("").unwrap();
        assert_eq!(
            loaded.settings.listen.address.to_string(),
            "unix:/run/orket/backend.sock"
        );
        assert_eq!(loaded.settings.runs.rules.concurrency, 8);
        assert_eq!(loaded.settings.runs.on_stop, OnStop::Leave);
        assert!(loaded.settings.review.repositories.is_empty());
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn every_mistake_is_reported_at_its_place() {
        let text = r#"[listen]
address = "0.0.0.0:8082"
[store]
url = "postgres://x"
[runs]
concurrency = 0
min_isolation = "strong"
timeout = "soon"
[review]
repositories = [""]
"#;
        let shown: String = Settings::load(text)
            .unwrap_err()
            .iter()
            .map(|d| d.render("b.toml", text))
            .collect();
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn unknown_fields_and_bad_toml_are_refused_with_a_caret() {
        for (text, place) in [
            (
                "[runs]\nconcurency = 1\n",
                "b.toml:2:1: error: unknown field `concurency`",
            ),
            ("[listen\n", "b.toml:1:"),
            (
                "[runs]\nconcurrency = \"8\"\n",
                "b.toml:2:15: error: invalid type",
            ),
        ] {
            let errors = Settings::load(text).unwrap_err();
            let shown = errors[0].render("b.toml", text);
            assert!(shown.starts_with(place), "{shown}");
            assert!(shown.contains('^'), "{shown}");
        }
    }

    #[test]
    fn what_could_never_work_is_refused() {
        for (text, word) in [
            ("[runs]\ntimeout = \"0s\"", "timeout"),
            ("[store]\nurl = \"sqlite::memory:\"", "path of a file"),
            (
                "[store]\nurl = \"sqlite:/w/a/o.db\"\n[workspace]\ndir = \"/w\"",
                "keep them apart",
            ),
            (
                "[store]\nurl = \"sqlite:/x/../w/o.db\"\n[workspace]\ndir = \"/w/./\"",
                "keep them apart",
            ),
            ("[workspace]\ndir = \"/var/lib\"", "keep them apart"),
            (
                "[store]\nurl = \"sqlite:w/o.db\"\n[workspace]\ndir = \"w\"",
                "keep them apart",
            ),
            (
                "[store]\nurl = \"sqlite:/o.db\"\n[workspace]\ndir = \"/o.db.d/w\"",
                "keep them apart",
            ),
        ] {
            let errors = Settings::load(text).unwrap_err();
            assert!(errors[0].message.contains(word), "{text}: {errors:?}");
            assert!(errors[0].span.is_some(), "{text}");
        }
        let beside = "[store]\nurl = \"sqlite:/w.db\"\n[workspace]\ndir = \"/w\"";
        assert!(Settings::load(beside).is_ok());
    }

    #[test]
    fn loopback_is_warned_of_and_remote_has_to_be_allowed() {
        let warned = Settings::load("[listen]\naddress = \"127.0.0.1:8082\"").unwrap();
        assert_eq!(warned.warnings.len(), 1);
        assert!(Settings::load("[listen]\naddress = \"192.0.2.1:1\"").is_err());
        let allowed = "[listen]\naddress = \"192.0.2.1:1\"\nallow_remote = true";
        assert_eq!(Settings::load(allowed).unwrap().warnings.len(), 1);
    }

    #[test]
    fn an_unknown_peer_admits_nobody_and_is_said() {
        let loaded = Settings::load("[listen]\npeers = [\"no-such-user-here\", \"4242\"]").unwrap();
        assert_eq!(loaded.settings.listen.peers, [4242]);
        assert_eq!(loaded.warnings.len(), 1);
    }
}
