//! What the container of a service has beside its image, as a stack says it. Checked by the reader of
//! stacks; nothing else makes one.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// What is said of a container. The default says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Program and arguments in place of the image's entry point; the image's own when empty.
    pub entrypoint: Vec<String>,
    /// Where it works, in the container.
    pub working_dir: Option<String>,
    /// The services that are started before it.
    pub after: BTreeMap<String, Condition>,
    /// How the engine sees whether it is well.
    pub check: Option<Check>,
    /// Whether its own files cannot be changed.
    pub read_only: bool,
    /// Whether a first process reaps the others.
    pub init: bool,
    /// Where folders in memory lie.
    pub tmpfs: Vec<String>,
    /// Volumes of the sandbox that several services may share.
    pub mounts: Vec<Mount>,
    /// The networks it is in; the one of all when empty.
    pub networks: Vec<Network>,
    /// The credentials that it gets; all when absent.
    pub secrets: Option<Vec<String>>,
    /// Bytes of memory, where that is less than what is configured.
    pub memory: Option<u64>,
    /// Thousandths of a processor, where that is less.
    pub millicpus: Option<u64>,
    /// Processes and threads, where that is less.
    pub processes: Option<i64>,
    /// What its image is built from, where it is built.
    pub build: Option<Build>,
}

/// What an image is built from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The repository's folder, relative to the workspace.
    pub repository: String,
    /// The folder that is sent to the engine, relative to the repository; empty for all of it.
    pub context: String,
    /// The Dockerfile, relative to the context.
    pub dockerfile: String,
    /// Values for its `ARG`s.
    pub args: BTreeMap<String, String>,
    /// The stage that is the image; the last one when absent.
    pub target: Option<String>,
}

/// What a service waits for in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It was started.
    Started,
    /// Its health check passed.
    Healthy,
}

/// A health check that the engine runs inside of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `CMD` and its words, or `CMD-SHELL` and a script.
    pub test: Vec<String>,
    /// Between two tests.
    pub interval: Option<Duration>,
    /// How long one may take.
    pub timeout: Option<Duration>,
    /// How long failures do not count after a start.
    pub start_period: Option<Duration>,
    /// Failures in a row until it is not well.
    pub retries: Option<u32>,
}

/// A volume of the sandbox in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Its name in the stack.
    pub volume: String,
    /// Where it lies in the container.
    pub target: String,
    /// Whether it cannot be changed from here.
    pub read_only: bool,
}

/// A network of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name in the stack.
    pub name: String,
    /// Whether it leads nowhere else.
    pub internal: bool,
}
