//! The real backend as a test starts it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

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
            dir,
        }
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
        self.dir.path().join("orket.db")
    }

    /// The directory that belongs to the store.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("orket.db.d")
    }

    /// The program: its output, its process id, signals.
    pub fn program(&mut self) -> &mut Program {
        self.program
            .as_mut()
            .expect("the backend was killed and not restarted")
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
        let (program, address) = started(serve(self.dir.path(), &self.config, &self.env)).await;
        (self.program, self.address) = (Some(program), address);
    }

    /// Kills it, starts it again over the same store.
    pub async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.restart().await;
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
