//! The real gateway as a test starts it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::policy::{Policy, SECRET_FILE};
use crate::program::{self, Ended, Program};
use crate::tls::Client;
use crate::wire::Address;

const READY: &str = "orket-gateway listening on ";

/// An API key strong enough for production.
pub const API_KEY: &str = "ork-test-4f9Q2xW7bLr8ZsT1kVn6YcD3";
/// A webhook secret strong enough for production.
pub const WEBHOOK_SECRET: &str = "whs-test-8Jd2KqR5mXvB9tGz3PnL7aFw";
/// A test token strong enough for production.
pub const TEST_TOKEN: &str = "wtt-test-6Hs1YpC4nUeM0rDk9QjZ2bVx";

/// The beginning of a policy file: free ports, state in the test's folder, environment `local`, and
/// one upstream `backend`. What a test writes follows it.
pub const PREAMBLE: &str = r#"version = 1
[listen]
http = "127.0.0.1:0"
admin = "127.0.0.1:0"
[state]
dir = "{dir}/state"
[posture]
environment = "local"
[upstreams.backend]
address = "{upstream}"
"#;

/// How a gateway is to be started.
#[derive(Debug)]
pub struct GatewayBuilder {
    dir: TempDir,
    upstream: String,
    env: Vec<(String, String)>,
    policy: Option<String>,
    arguments: Vec<String>,
    open_files: Option<u32>,
}

impl GatewayBuilder {
    /// How many files it may have open.
    #[must_use]
    pub fn open_files(mut self, most: u32) -> Self {
        self.open_files = Some(most);
        self
    }

    /// One variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Several variables of its environment.
    #[must_use]
    pub fn envs(mut self, variables: &[(&str, &str)]) -> Self {
        for (name, value) in variables {
            self = self.env(name, value);
        }
        self
    }

    /// A whole policy file. `{dir}` stands for the test's folder, `{upstream}` for the upstream.
    #[must_use]
    pub fn policy(mut self, text: &str) -> Self {
        self.policy = Some(text.to_owned());
        self
    }

    /// A [`Policy`], with the secret file it names.
    #[must_use]
    pub fn standard(self, policy: &Policy) -> Self {
        let (name, bytes) = SECRET_FILE;
        self.file(name, bytes).policy(&policy.to_string())
    }

    /// A file in the test's folder.
    #[must_use]
    pub fn file(self, name: &str, bytes: &[u8]) -> Self {
        std::fs::write(self.dir.path().join(name), bytes).expect("a file of the test");
        self
    }

    /// Further arguments of `serve`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The test's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self) -> Command {
        let mut command = program::command("orket-gateway", self.dir.path());
        command.arg("serve");
        if let Some(policy) = &self.policy {
            let path = self.dir.path().join("gateway.toml");
            let text = fill(policy, self.dir.path(), &self.upstream);
            std::fs::write(&path, text).expect("the policy file");
            command.arg("--config").arg(path);
        } else {
            command
                .env("ORKET_GATEWAY_LISTEN", "127.0.0.1:0")
                .env("ORKET_GATEWAY_ADMIN", "127.0.0.1:0")
                .env("ORKET_BACKEND", &self.upstream)
                .env("ORKET_STATE_DIR", self.dir.path().join("state"));
        }
        command.args(&self.arguments);
        if let Some(most) = self.open_files {
            command = program::with_open_files(&command, most);
        }
        program::with_env(command, self.env.iter().map(|(name, value)| (name, value)))
    }

    /// Starts it and waits until it listens.
    pub async fn start(self) -> Gateway {
        let (program, http, https, admin) = started(self.command()).await;
        Gateway {
            program,
            http,
            https,
            admin,
            builder: self,
        }
    }

    /// Starts it expecting that it refuses to: returns how it ended, with an exit code that is not
    /// 0 and without ever having listened.
    pub async fn refused(self) -> Ended {
        let ended = program::run(self.command()).await;
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
}

/// The program, and where it listens: for plain HTTP (for TLS where it takes nothing else), for TLS,
/// for its operator.
async fn started(command: Command) -> (Program, Address, Option<SocketAddr>, Address) {
    let mut program = Program::spawn(command);
    let line = program.ready(READY).await;
    let (clients, admin) = line
        .split_once(" admin ")
        .unwrap_or_else(|| panic!("`{READY}<urls> admin <url>` was to come, not {line:?}"));
    let https = clients
        .split(' ')
        .find_map(|url| url.strip_prefix("https://"))
        .map(|socket| socket.parse().expect("an address"));
    let http = clients.split(' ').find(|url| url.starts_with("http://"));
    let http = http.map_or_else(|| Address::Tcp(https.expect("a listener")), Address::parse);
    let admin = Address::parse(admin);
    (program, http, https, admin)
}

/// A running gateway. Dropping it kills it and removes its folder.
#[derive(Debug)]
pub struct Gateway {
    program: Program,
    http: Address,
    https: Option<SocketAddr>,
    admin: Address,
    builder: GatewayBuilder,
}

impl Gateway {
    /// A gateway yet to be started, in front of `upstream`.
    pub fn before(upstream: &Address) -> GatewayBuilder {
        Self::before_text(&upstream.to_string())
    }

    /// As [`Gateway::before`], with the upstream's address as the configuration writes it.
    pub fn before_text(upstream: &str) -> GatewayBuilder {
        GatewayBuilder {
            dir: TempDir::new().expect("a temporary folder"),
            upstream: upstream.to_owned(),
            env: Vec::new(),
            policy: None,
            arguments: Vec::new(),
            open_files: None,
        }
    }

    /// Starts one with the built-in policy, from the environment alone.
    pub async fn builtin(upstream: &Address, env: &[(&str, &str)]) -> Self {
        Self::before(upstream).envs(env).start().await
    }

    /// Starts one with the built-in policy, [`API_KEY`] and [`WEBHOOK_SECRET`].
    pub async fn with_key_and_secret(upstream: &Address) -> Self {
        let env = [
            ("ORKET_API_KEY", API_KEY),
            ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ];
        Self::builtin(upstream, &env).await
    }

    /// Starts one with a policy file.
    pub async fn with_policy(upstream: &Address, policy: &Policy) -> Self {
        Self::before(upstream).standard(policy).start().await
    }

    /// Where it takes requests.
    pub fn address(&self) -> &Address {
        &self.http
    }

    /// Where it takes requests by TLS, as this client speaks it.
    pub fn https(&self, client: &Client) -> Address {
        Address::Tls(self.https.expect("a listener for TLS"), client.clone())
    }

    /// Where it shows metrics and readiness.
    pub fn admin(&self) -> &Address {
        &self.admin
    }

    /// The test's folder.
    pub fn dir(&self) -> &Path {
        self.builder.dir.path()
    }

    /// The program: its output, its process id, signals.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// All it has written so far.
    pub fn output(&self) -> String {
        format!("{}{}", self.program.stdout(), self.program.stderr())
    }

    /// Kills it, if it still runs, and starts it again with the same configuration and state, on a
    /// port of its own.
    pub async fn restart(&mut self) {
        self.program.kill().await;
        let (program, http, https, admin) = started(self.builder.command()).await;
        (self.program, self.http, self.https, self.admin) = (program, http, https, admin);
    }
}

/// Runs a subcommand of `orket-gateway` to its end.
pub async fn run(dir: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Ended {
    let mut command = program::command("orket-gateway", dir);
    command.args(arguments);
    program::run(program::with_env(command, env.iter().copied())).await
}

/// Writes a policy into `dir` and asks `orket-gateway check` about it.
pub async fn check(dir: &Path, policy: &str) -> Ended {
    let path: PathBuf = dir.join("gateway.toml");
    std::fs::write(&path, fill(policy, dir, "127.0.0.1:9")).expect("the policy file");
    run(dir, &["check", path.to_str().expect("a path of text")], &[]).await
}

fn fill(policy: &str, dir: &Path, upstream: &str) -> String {
    policy
        .replace("{dir}", &dir.to_string_lossy())
        .replace("{upstream}", upstream)
}
