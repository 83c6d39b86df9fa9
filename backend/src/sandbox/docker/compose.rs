//! The compose command: found by asking for its version, run under a supervisor, so that one that a
//! killed backend left behind is found and ended before anything else is done to its sandbox.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    confine::Network,
    executor::{
        AdoptError, Adoption, Attempt, Canceler, Executor, Launch, Outcome, Update, orphans,
    },
};

/// The forms in which it is installed, best first.
const FORMS: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
/// How long it may take to say its version.
const VERSION: Duration = Duration::from_secs(15);
/// Between TERM and KILL of the command itself.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes of what it says that are kept.
const OUTPUT: u64 = 256 << 10;

/// Runs the compose command.
#[derive(Debug)]
pub(super) struct Compose {
    executor: Executor,
    configured: Option<Vec<String>>,
    found: Mutex<Option<Vec<String>>>,
    host: String,
    /// Those that run now, by attempt.
    running: Mutex<HashMap<String, Canceler>>,
}

/// Which of the two things it is asked to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    Up,
    Down,
}

/// How it ended, with what it said.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) outcome: Outcome,
    pub(super) said: String,
}

impl Ran {
    pub(super) fn is_well(&self) -> bool {
        matches!(self.outcome, Outcome::Exited { code: 0 })
    }
}

impl Verb {
    const ALL: [Self; 2] = [Self::Up, Self::Down];

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Up => &["up", "-d"],
            Self::Down => &["down", "-v"],
        }
    }

    fn attempt(self, sandbox: &str) -> String {
        match self {
            Self::Up => format!("{sandbox}.up"),
            Self::Down => format!("{sandbox}.down"),
        }
    }
}

impl Compose {
    pub(super) fn new(executor: Executor, configured: Option<Vec<String>>, host: String) -> Self {
        Self {
            executor,
            configured,
            found: Mutex::default(),
            host,
            running: Mutex::default(),
        }
    }

    /// The command's words, or what to do about its absence.
    pub(super) async fn find(&self) -> Result<Vec<String>, String> {
        if let Some(found) = self.found.lock().clone() {
            return Ok(found);
        }
        let forms = match &self.configured {
            Some(words) => vec![words.clone()],
            None => FORMS
                .iter()
                .map(|words| words.iter().map(|word| (*word).to_owned()).collect())
                .collect(),
        };
        for words in &forms {
            if says_version(words).await {
                *self.found.lock() = Some(words.clone());
                return Ok(words.clone());
            }
        }
        let tried: Vec<_> = forms
            .iter()
            .map(|words| format!("`{} version`", words.join(" ")))
            .collect();
        Err(format!(
            "no compose command answers ({}): install Docker Compose, or name it in [sandboxes.docker] compose",
            tried.join(", ")
        ))
    }

    /// Runs it on the file of one sandbox to its end, or ends it after `limit`.
    pub(super) async fn run(
        &self,
        verb: Verb,
        sandbox: &str,
        project: &str,
        file: &Path,
        limit: Duration,
    ) -> Result<Ran, String> {
        let mut argv = self.find().await?;
        let dir = file.parent().map_or_else(PathBuf::new, Path::to_owned);
        argv.extend(["-p".into(), project.into(), "-f".into()]);
        argv.push(file.to_string_lossy().into_owned());
        argv.extend(verb.arguments().iter().map(|word| (*word).to_owned()));
        let id = verb.attempt(sandbox);
        self.end_one(&id).await?;
        let home = dir.to_string_lossy().into_owned();
        let launch = Launch {
            id: id.clone(),
            argv,
            env: BTreeMap::from([
                ("PATH".into(), path()),
                ("HOME".into(), home),
                ("DOCKER_HOST".into(), self.host.clone()),
                ("NO_COLOR".into(), "1".into()),
            ]),
            workdir: dir,
            readable: Vec::new(),
            writable: Vec::new(),
            network: Network::Host,
            timeout: Some(limit),
            grace: GRACE,
            output_cap: OUTPUT,
        };
        let attempt = self.executor.start(launch).await;
        let attempt = attempt.map_err(|error| error.to_string())?;
        let canceler = attempt.canceler.clone();
        self.running.lock().insert(id.clone(), canceler);
        let ran = to_end(attempt).await;
        self.running.lock().remove(&id);
        let ran = ran?;
        self.executor
            .forget(&id)
            .await
            .map_err(|error| error.to_string())?;
        Ok(ran)
    }

    /// Lets the one end that runs for this sandbox now, if there is one: `run` returns soon.
    pub(super) fn give_up(&self, verb: Verb, sandbox: &str) {
        let running = self.running.lock().get(&verb.attempt(sandbox)).cloned();
        if let Some(Err(error)) = running.map(|canceler| canceler.cancel()) {
            tracing::warn!(sandbox, %error, "the compose command cannot be ended");
        }
    }

    /// Ends whatever of it still works on this sandbox, ours or a killed backend's.
    pub(super) async fn end_all(&self, sandbox: &str) -> Result<(), String> {
        for verb in Verb::ALL {
            self.end_one(&verb.attempt(sandbox)).await?;
        }
        Ok(())
    }

    async fn end_one(&self, id: &str) -> Result<(), String> {
        let text = |error: AdoptError| error.to_string();
        match self.executor.adopt(id, u64::MAX).await.map_err(text)? {
            Adoption::Running(attempt) => {
                attempt.cancel().map_err(|error| error.to_string())?;
                timeout(GRACE * 3, to_end(attempt))
                    .await
                    .map_err(|_| "the compose command does not end".to_owned())??;
            }
            Adoption::Vanished { .. } => {}
        }
        self.executor.forget(id).await.map_err(text)
    }
}

/// Where programs are looked for: our own way of finding them.
fn path() -> String {
    std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned())
}

async fn says_version(words: &[String]) -> bool {
    let Some((program, rest)) = words.split_first() else {
        return false;
    };
    let mut asked = Command::new(program);
    asked
        .args(rest)
        .arg("version")
        .env_clear()
        .env("PATH", path())
        .env("HOME", "/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let ended = spawn_blocking(move || orphans::run_briefly(&mut asked, VERSION)).await;
    matches!(ended, Ok(Ok(status)) if status.success())
}

async fn to_end(mut attempt: Attempt) -> Result<Ran, String> {
    let mut said = Vec::new();
    while let Some(update) = attempt.updates.recv().await {
        match update {
            Update::Output(records) => {
                said.extend(records.into_iter().flat_map(|record| record.bytes));
            }
            Update::Unbegun { detail } => return Err(detail),
            Update::Ended(exit) => {
                return Ok(Ran {
                    outcome: exit.outcome,
                    said: String::from_utf8_lossy(&said).into_owned(),
                });
            }
        }
    }
    Err("nobody follows the compose command any more".into())
}
