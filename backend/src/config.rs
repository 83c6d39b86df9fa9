//! `backend.toml` as written: every field optional, unknown ones refused, places remembered so
//! that a mistake is reported at its line and column. What it means is [`crate::settings`].

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

pub mod diagnostic;
pub mod unit;

use diagnostic::Diagnostic;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where requests come in.
    pub listen: Listen,
    /// Where the truth lies.
    pub store: Store,
    /// Where commands work.
    pub workspace: Workspace,
    /// How runs are run.
    pub runs: Runs,
    /// The queues that runs wait in, by name.
    pub queues: BTreeMap<String, Queue>,
    /// How runs and the services of sandboxes are confined.
    pub confinement: Confinement,
    /// How sandboxes are kept.
    pub sandboxes: Sandboxes,
    /// Which pull requests cause work.
    pub review: Review,
    /// How long what is done with is kept.
    pub retention: Retention,
}

/// `[listen]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// `unix:/path` or `ip:port`.
    pub address: Option<Spanned<String>>,
    /// Users (names or uids) admitted on the socket beside our own.
    pub peers: Option<Vec<Spanned<String>>>,
    /// Whether an address other than loopback may be listened on.
    pub allow_remote: bool,
    /// How long a peer may take nothing of what is written to it, e.g. `"30s"`.
    pub write_timeout: Option<Spanned<String>>,
}

/// `[store]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// `sqlite:<path>`.
    pub url: Option<Spanned<String>>,
}

/// `[workspace]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workspace {
    /// The directory that all commands work in.
    pub dir: Option<Spanned<String>>,
}

/// `[runs]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runs {
    /// Runs at once, at most.
    pub concurrency: Option<Spanned<i64>>,
    /// Waiting runs, at most.
    pub queue_limit: Option<Spanned<i64>>,
    /// The isolation level that work from webhooks needs.
    pub min_isolation: Option<Spanned<String>>,
    /// After which time a run is ended when it says nothing itself, e.g. `"1h"`.
    pub timeout: Option<Spanned<String>>,
    /// How long a run may wait in its queue, e.g. `"1h"`; without it, for ever.
    pub waiting_timeout: Option<Spanned<String>>,
    /// How long a run may take from submission to its end; without it, for ever.
    pub total_timeout: Option<Spanned<String>>,
    /// How long an attempt may write nothing; without it, for ever.
    pub silence_timeout: Option<Spanned<String>>,
    /// The delay before the second attempt; it doubles, e.g. `"1s"`.
    pub retry_delay: Option<Spanned<String>>,
    /// The longest delay before an attempt, e.g. `"5m"`.
    pub retry_delay_most: Option<Spanned<String>>,
    /// Time between TERM and KILL, e.g. `"10s"`.
    pub grace: Option<Spanned<String>>,
    /// Output kept of one attempt, e.g. `"16MiB"`.
    pub output_limit: Option<Spanned<String>>,
    /// What a stop does to active runs: `leave`, `drain` or `cancel`.
    pub on_stop: Option<Spanned<String>>,
    /// How long a stop that drains waits, e.g. `"30s"`.
    pub drain_timeout: Option<Spanned<String>>,
}

/// `[queues.NAME]`: what is absent is bounded by `[runs]` only.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Runs of it at once, at most.
    pub concurrency: Option<Spanned<i64>>,
    /// Runs of one build in it at once, at most.
    pub key_concurrency: Option<Spanned<i64>>,
    /// Runs of it that wait, at most.
    pub length: Option<Spanned<i64>>,
}

/// `[confinement]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Confinement {
    /// `auto`, or a level that has to be reached.
    pub level: Option<Spanned<String>>,
    /// The user that commands become: `user` or `user:group`.
    pub run_as: Option<Spanned<String>>,
    /// The network of runs: `host` or `none`.
    pub network: Option<Spanned<String>>,
    /// What commands may read, beside the system's own files.
    pub readable: Vec<Spanned<String>>,
    /// What commands may change, beside their own folders.
    pub writable: Vec<Spanned<String>>,
    /// What has to be out of reach: paths and `ip:port`.
    pub keep_out: Option<Vec<Spanned<String>>>,
    /// Processes and threads of one command.
    pub processes: Option<Spanned<i64>>,
    /// Files that one process may have open.
    pub open_files: Option<Spanned<i64>>,
    /// The size of one file, e.g. `"8GiB"`.
    pub file_size: Option<Spanned<String>>,
    /// Memory of one command, e.g. `"2GiB"`.
    pub memory: Option<Spanned<String>>,
    /// Processors of one command, e.g. `1.5`.
    pub cpu: Option<Spanned<f64>>,
    /// Which control groups are used: `auto`, `v1` or `off`.
    pub cgroups: Option<Spanned<String>>,
}

/// `[sandboxes]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sandboxes {
    /// `auto`, `docker` or `process`.
    pub driver: Option<Spanned<String>>,
    /// The ports of each role.
    pub ports: SandboxPorts,
    /// How long a released port rests, e.g. `"30s"`.
    pub cool_down: Option<Spanned<String>>,
    /// How long a sandbox lives that says nothing itself, e.g. `"8h"`.
    pub ttl: Option<Spanned<String>>,
    /// The longest life that may be asked for, e.g. `"7d"`.
    pub max_ttl: Option<Spanned<String>>,
    /// Sandboxes at once, at most.
    pub limit: Option<Spanned<i64>>,
    /// Sandboxes of one build at once, at most.
    pub build_limit: Option<Spanned<i64>>,
    /// Sandboxes that are up at once, at most; further ones wait for a place.
    pub running: Option<Spanned<i64>>,
    /// How long one may go unused before it is removed, e.g. `"2h"`; without it, for ever.
    pub idle_timeout: Option<Spanned<String>>,
    /// How often records are compared with what the engine holds, e.g. `"30s"`.
    pub reconcile: Option<Spanned<String>>,
    /// Whether commands may be run inside of containers.
    pub exec: Option<Spanned<bool>>,
    /// The container engine.
    pub docker: Docker,
    /// How long a new sandbox may take to become well, e.g. `"1m"`.
    pub start_timeout: Option<Spanned<String>>,
    /// Time between TERM and KILL, e.g. `"10s"`.
    pub grace: Option<Spanned<String>>,
    /// Output kept of one service, e.g. `"64MiB"`.
    pub output_limit: Option<Spanned<String>>,
}

/// `[sandboxes.docker]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Docker {
    /// The engine's socket.
    pub socket: Option<Spanned<String>>,
    /// The words of the compose command, e.g. `["docker", "compose"]`.
    pub compose: Option<Spanned<Vec<String>>>,
    /// Whether images that are not on the engine are fetched.
    pub pull: Option<Spanned<bool>>,
    /// How long fetching one image may take, e.g. `"10m"`.
    pub pull_timeout: Option<Spanned<String>>,
    /// How long the engine may take to answer, e.g. `"10s"`.
    pub answer_timeout: Option<Spanned<String>>,
    /// Memory of one container, e.g. `"1GiB"`.
    pub memory: Option<Spanned<String>>,
    /// Processors of one container, e.g. `1.5`.
    pub cpu: Option<Spanned<f64>>,
    /// Processes and threads of one container.
    pub processes: Option<Spanned<i64>>,
    /// Files that one process of a container may have open.
    pub open_files: Option<Spanned<i64>>,
    /// Whether images are built from the Dockerfiles of repositories.
    pub build: Option<Spanned<bool>>,
    /// How long one build may take, e.g. `"10m"`.
    pub build_timeout: Option<Spanned<String>>,
    /// The files that are sent to the engine for one, e.g. `"64MiB"`.
    pub build_context: Option<Spanned<String>>,
    /// The registries that images may come from, e.g. `["registry.example.org"]`; without one, all with
    /// public names.
    pub registries: Vec<Spanned<String>>,
}

/// `[sandboxes.ports]`: one range for each role, written `"first-last"`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxPorts {
    /// APIs.
    pub api: Option<Spanned<String>>,
    /// What people see in a browser.
    pub frontend: Option<Spanned<String>>,
    /// Databases with tables.
    pub database: Option<Spanned<String>>,
    /// Databases with documents.
    pub document_database: Option<Spanned<String>>,
    /// Tools for administration.
    pub admin: Option<Spanned<String>>,
}

/// `[review]`: an empty list admits nothing, `"*"` everything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Review {
    /// Repositories as `owner/name`.
    pub repositories: Vec<Spanned<String>>,
    /// Base branches.
    pub branches: Vec<Spanned<String>>,
    /// Login names of who opens or pushes.
    pub people: Vec<Spanned<String>>,
}

/// `[retention]`: each a time such as `"30d"`, or `"never"`: nothing is removed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Runs that have ended.
    pub finished_runs: Option<Spanned<String>>,
    /// The output of runs that have ended.
    pub logs: Option<Spanned<String>>,
    /// Events.
    pub events: Option<Spanned<String>>,
    /// Deliveries, with the memory of their keys.
    pub deliveries: Option<Spanned<String>>,
    /// Archived cards.
    pub archived_cards: Option<Spanned<String>>,
    /// Records of deleted sandboxes.
    pub deleted_sandboxes: Option<Spanned<String>>,
    /// How often it is looked at.
    pub period: Option<Spanned<String>>,
}

/// Reads a file's text.
pub fn parse(text: &str) -> Result<Config, Diagnostic> {
    toml::from_str(text).map_err(|error| Diagnostic::error(error.span(), error.message()))
}
