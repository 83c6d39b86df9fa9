//! The real backend as a test starts it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::program::{self, Ended, Program};
use crate::wire::{Address, Answer, Request};

const READY: &str = "orket-backend listening on ";

/// A running backend with its store and workspace in a folder of its own. Dropping it kills it and
/// whatever it left running.
#[derive(Debug)]
pub struct Backend {
    program: Option<Program>,
    address: Address,
    config: PathBuf,
    env: Vec<(String, String)>,
    /// A program and its arguments that starts it, if not we ourselves.
    under: Vec<String>,
    dir: TempDir,
}

impl Backend {
    /// Starts one. `config` is a `backend.toml` in which `{dir}` stands for the test's folder;
    /// where it does not say otherwise, the listener is a unix socket, store and workspace lie in that
    /// folder, and commands are not confined: `confinement` is about that.
    pub async fn start(config: &str) -> Self {
        Self::start_with_env(config, &[]).await
    }

    /// As [`Backend::start`], with further variables in its environment.
    pub async fn start_with_env(config: &str, env: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let config = write_config(dir.path(), config);
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let (program, address) = started(serve(dir.path(), &config, &env)).await;
        Self {
            program: Some(program),
            address,
            config,
            env,
            under: Vec::new(),
            dir,
        }
    }

    /// As [`Backend::start`], by another program: `under` makes it and its arguments from the test's
    /// folder. It has to become the backend in the end.
    pub async fn start_under(config: &str, under: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let config = write_config(dir.path(), config);
        let mut backend = Self {
            program: None,
            address: Address::Unix(dir.path().join("backend.sock")),
            config,
            env: Vec::new(),
            under: under(dir.path()),
            dir,
        };
        backend.restart().await;
        backend
    }

    /// Starts one expecting that it refuses to.
    pub async fn refused(config: &str) -> Ended {
        let dir = TempDir::new().expect("a temporary folder");
        let config = write_config(dir.path(), config);
        let ended = program::run(serve(dir.path(), &config, &[])).await;
        assert!(
            !ended.status.success(),
            "it ended with success: {}",
            ended.output()
        );
        assert!(
            !ended.stdout.contains(READY),
            "it listened before it refused: {}",
            ended.stdout
        );
        ended
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The test's folder: `orket.db` and `workspace` are in it unless the test said otherwise.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The workspace.
    pub fn workspace(&self) -> PathBuf {
        self.dir.path().join("workspace")
    }

    /// The store's file.
    pub fn database(&self) -> PathBuf {
        let written = self.written();
        let url = written["store"]["url"].as_str().expect("a text");
        PathBuf::from(url.strip_prefix("sqlite:").expect("an embedded store"))
    }

    /// Its configuration, as it was written.
    pub fn written(&self) -> Table {
        let config = std::fs::read_to_string(&self.config).expect("the configuration");
        config.parse().expect("TOML, as it was written")
    }

    /// The directory that belongs to the store.
    pub fn state_dir(&self) -> PathBuf {
        self.database().with_extension("db.d")
    }

    /// The program: its output, its process id, signals.
    pub fn program(&mut self) -> &mut Program {
        self.program
            .as_mut()
            .expect("the backend was killed and not restarted")
    }

    /// Its process id; 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.program.as_ref().map_or(0, Program::pid)
    }

    /// All it has written since its last start.
    pub fn output(&self) -> String {
        self.program
            .as_ref()
            .map(|program| format!("{}{}", program.stdout(), program.stderr()))
            .unwrap_or_default()
    }

    /// Kills it (SIGKILL); what it started lives on.
    pub async fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.kill().await;
        }
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.program
            .take()
            .expect("a running backend")
            .terminate()
            .await
    }

    /// Starts it again over the same store; kills it first if it still runs.
    pub async fn restart(&mut self) {
        self.kill().await;
        let (program, address) = started(self.command(&self.env)).await;
        (self.program, self.address) = (Some(program), address);
    }

    /// Starts it again over the same store, to be killed where `at` says (see
    /// [`orket_backend::crash_point`]). It may be so before it listens.
    pub async fn restart_to_crash(&mut self, at: &str) {
        self.kill().await;
        let mut env = self.env.clone();
        env.push(("ORKET_BACKEND_CRASH_AT".to_owned(), at.to_owned()));
        let mut program = Program::spawn(self.command(&env));
        if let Some(address) = program.ready_or_ended(READY).await {
            self.address = Address::parse(&address);
        }
        self.program = Some(program);
    }

    /// Starts it again expecting that it refuses to.
    pub async fn restart_refused(&mut self) -> Ended {
        self.kill().await;
        let ended = program::run(self.command(&self.env)).await;
        assert!(
            !ended.status.success(),
            "it ended with success: {}",
            ended.output()
        );
        ended
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.program
            .as_mut()
            .is_some_and(|program| program.ended().is_none())
    }

    /// Waits until it was killed; fails when it ends in any other way.
    pub async fn crashed(&mut self) {
        let program = self.program();
        let status = program.wait().await;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(Signal::KILL.as_raw()),
            "it was not killed but ended with {status}: {}",
            self.output()
        );
        self.program = None;
    }

    /// `POST target` with a JSON body to a backend that may be gone, or go before it has answered.
    pub async fn attempt(&self, target: &str, body: &serde_json::Value) -> Option<Answer> {
        Request::post_json(target, body)
            .attempt(&self.address)
            .await
    }

    /// Kills it, starts it again over the same store.
    pub async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.restart().await;
    }

    /// What the backend counts, as Prometheus reads it.
    pub async fn metrics(&self) -> String {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// The number behind `sample`, a name with its labels, without the prefix; 0 where it is not.
    pub async fn metric(&self, sample: &str) -> u64 {
        self.sample(sample).await
    }

    /// The same of a number with a fraction.
    pub async fn metric_sum(&self, sample: &str) -> f64 {
        self.sample(sample).await
    }

    async fn sample<T: std::str::FromStr + Default>(&self, sample: &str) -> T {
        let name = format!("orket_backend_{sample} ");
        let page = self.metrics().await;
        let value = page.lines().find_map(|line| line.strip_prefix(&name));
        let parsed = value.map(|value| value.parse().ok());
        parsed.map_or_else(T::default, |value| value.expect("a number"))
    }

    fn command(&self, env: &[(String, String)]) -> Command {
        let direct = serve(self.dir.path(), &self.config, env);
        let [program, arguments @ ..] = &self.under[..] else {
            return direct;
        };
        let mut whole = Command::new(program);
        whole.args(arguments).arg(direct.get_program());
        whole.args(direct.get_args()).current_dir(self.dir.path());
        for (name, value) in direct.get_envs() {
            match value {
                Some(value) => whole.env(name, value),
                None => whole.env_remove(name),
            };
        }
        whole
    }

    /// `GET target`.
    pub async fn get(&self, target: &str) -> Answer {
        Request::get(target).send(&self.address).await
    }

    /// `POST target` with a JSON body.
    pub async fn post(&self, target: &str, body: &serde_json::Value) -> Answer {
        Request::post_json(target, body).send(&self.address).await
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.program.take());
        program::kill_processes_under(self.dir.path());
    }
}

/// Runs a subcommand of `orket-backend` to its end.
pub async fn run(dir: &Path, arguments: &[&str]) -> Ended {
    let mut command = program::command("orket-backend", dir);
    command.args(arguments);
    program::run(command).await
}

/// Writes a configuration into `dir` as it is and asks `orket-backend check` about it.
pub async fn check(dir: &Path, config: &str) -> Ended {
    let path = dir.join("backend.toml");
    std::fs::write(&path, config.replace("{dir}", &dir.to_string_lossy())).expect("the file");
    run(dir, &["check", path.to_str().expect("a path of text")]).await
}

fn serve(dir: &Path, config: &Path, env: &[(String, String)]) -> Command {
    let mut command = program::command("orket-backend", dir);
    command.arg("serve").arg("--config").arg(config);
    program::with_env(command, env.iter().map(|(name, value)| (name, value)))
}

async fn started(command: Command) -> (Program, Address) {
    let mut program = Program::spawn(command);
    let address = Address::parse(&program.ready(READY).await);
    (program, address)
}

/// Writes `config` with what it leaves out about places; its path.
fn write_config(dir: &Path, config: &str) -> PathBuf {
    let place = dir.to_string_lossy();
    let mut table: Table = config
        .replace("{dir}", &place)
        .parse()
        .unwrap_or_else(|error| panic!("the test's backend.toml: {error}"));
    for (section, field, value) in [
        ("listen", "address", format!("unix:{place}/backend.sock")),
        ("store", "url", format!("sqlite:{place}/orket.db")),
        ("workspace", "dir", format!("{place}/workspace")),
        // Most tests look at their commands from outside: at their files, numbers and signals.
        ("confinement", "level", "group".to_owned()),
        // Nor does a start of theirs have to look for an engine and its commands.
        ("sandboxes", "driver", "process".to_owned()),
    ] {
        let section = table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.entry(field).or_insert(Value::String(value));
        }
    }
    let path = dir.join("backend.toml");
    std::fs::write(&path, toml::to_string(&table).expect("a table is TOML")).expect("the file");
    path
}
