//! The built-in policy: a TOML policy filled from the environment, loaded like any file.
//!
//! There is no second way for a setting to take effect: every variable becomes a line of the text that
//! [`text`] returns, and that text goes through the same loader, the same pipeline and the same tests.

use std::{ffi::OsString, path::Path};

use crate::policy::load::{self, DEFAULT_ADMIN, DEFAULT_HTTP, DEFAULT_STATE_DIR, Env, Loaded};
use crate::{
    config::diagnostic::{Diagnostics, SET_BY},
    policy::Origin,
};

/// The name diagnostics give the built-in policy.
pub const NAME: &str = "built-in policy";

/// One variable of the environment.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What holds when it is not set.
    pub default: &'static str,
}

const fn var(name: &'static str, meaning: &'static str, default: &'static str) -> Variable {
    Variable {
        name,
        meaning,
        default,
    }
}

/// Every variable the gateway reads when it runs without a policy file.
pub const VARIABLES: [Variable; 14] = [
    var(
        "ORKET_API_KEY",
        "the one API key, id `default`",
        "none: every `/v1/*` request is refused",
    ),
    var(
        "ORKET_ALLOW_INSECURE_NO_API_KEY",
        "opens the key routes when no key is configured; loopback only, not from a browser",
        "false",
    ),
    var(
        "GITEA_WEBHOOK_SECRET",
        "secret of `/webhook/gitea`",
        "none: refused",
    ),
    var(
        "ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT",
        "switches `/webhook/test` on",
        "false",
    ),
    var(
        "ORKET_WEBHOOK_TEST_TOKEN",
        "token for `/webhook/test`; when set, only the token opens it",
        "none: `ORKET_API_KEY` opens it",
    ),
    var(
        "ORKET_RATE_LIMIT",
        "new proven webhook deliveries a minute, per source",
        "60",
    ),
    var(
        "ORKET_API_RATE_LIMIT",
        "proven API requests a minute, per key; 0 = none",
        "6000",
    ),
    var(
        "ORKET_FAILURE_LIMIT",
        "failed proofs a minute, per client address; 0 = none",
        "120",
    ),
    var("ORKET_ENV", "`local`, `ci` or `production`", "local"),
    var(
        "ORKET_GATEWAY_LISTEN",
        "where clients connect",
        DEFAULT_HTTP,
    ),
    var(
        "ORKET_GATEWAY_ADMIN",
        "metrics and readiness",
        DEFAULT_ADMIN,
    ),
    var(
        "ORKET_BACKEND",
        "the backend: `host:port` or `unix:/path`",
        DEFAULT_BACKEND,
    ),
    var("ORKET_GATEWAY_THREADS", "worker threads", "number of cores"),
    var("ORKET_STATE_DIR", "where state lies", DEFAULT_STATE_DIR),
];

const DEFAULT_BACKEND: &str = "unix:/run/orket/backend.sock";

/// The process's environment.
pub fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A variable's value; blank ones count as unset. `Err` when it is not UTF-8.
fn value(env: Env<'_>, name: &str) -> Result<Option<String>, String> {
    match env(name) {
        None => Ok(None),
        Some(v) => match v.into_string() {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(format!("{name} is not UTF-8 text")),
        },
    }
}

/// Whether a secret is set at all; its bytes are left to the loader.
fn is_set(env: Env<'_>, name: &str) -> bool {
    env(name).is_some_and(|v| !v.as_encoded_bytes().iter().all(u8::is_ascii_whitespace))
}

fn switch(env: Env<'_>, name: &str) -> Result<bool, String> {
    let Some(text) = value(env, name)? else {
        return Ok(false);
    };
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{name} is neither on nor off: use true or false")),
    }
}

/// A number a minute.
fn per_minute(env: Env<'_>, name: &str, default: u32) -> Result<u32, String> {
    match value(env, name)? {
        None => Ok(default),
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| format!("{name} is not a whole number a minute, such as {default}")),
    }
}

/// The environment, read.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one switch of the environment"
)]
struct Settings {
    environment: String,
    listen: String,
    admin: String,
    backend: String,
    state: String,
    threads: Option<u32>,
    webhook_rate: u32,
    api_rate: u32,
    failures: u32,
    insecure: bool,
    test_enabled: bool,
    has_key: bool,
    has_webhook_secret: bool,
    has_token: bool,
}

impl Settings {
    /// Reads all variables, or names each that cannot be read.
    fn read(env: Env<'_>) -> Result<Self, Vec<String>> {
        let mut wrong = Wrong::default();
        let text = |wrong: &mut Wrong, name, default: &str| {
            wrong
                .take(value(env, name))
                .flatten()
                .unwrap_or_else(|| default.to_owned())
        };
        let settings = Self {
            environment: text(&mut wrong, "ORKET_ENV", "local"),
            listen: text(&mut wrong, "ORKET_GATEWAY_LISTEN", DEFAULT_HTTP),
            admin: text(&mut wrong, "ORKET_GATEWAY_ADMIN", DEFAULT_ADMIN),
            backend: text(&mut wrong, "ORKET_BACKEND", DEFAULT_BACKEND),
            state: text(&mut wrong, "ORKET_STATE_DIR", DEFAULT_STATE_DIR),
            threads: wrong.take(threads(env)).flatten(),
            webhook_rate: wrong.take(webhook_rate(env)).unwrap_or(1),
            api_rate: wrong
                .take(per_minute(env, "ORKET_API_RATE_LIMIT", 6000))
                .unwrap_or(1),
            failures: wrong
                .take(per_minute(env, "ORKET_FAILURE_LIMIT", 120))
                .unwrap_or(1),
            insecure: wrong
                .take(switch(env, "ORKET_ALLOW_INSECURE_NO_API_KEY"))
                .unwrap_or(false),
            test_enabled: wrong
                .take(switch(env, "ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT"))
                .unwrap_or(false),
            has_key: is_set(env, "ORKET_API_KEY"),
            has_webhook_secret: is_set(env, "GITEA_WEBHOOK_SECRET"),
            has_token: is_set(env, "ORKET_WEBHOOK_TEST_TOKEN"),
        };
        if wrong.0.is_empty() {
            Ok(settings)
        } else {
            Err(wrong.0)
        }
    }
}

/// What could not be read, so that all of it is named at once.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn take<T>(&mut self, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.0.push(message)).ok()
    }
}

fn threads(env: Env<'_>) -> Result<Option<u32>, String> {
    let parse = |text: String| text.trim().parse();
    value(env, "ORKET_GATEWAY_THREADS")?
        .map(parse)
        .transpose()
        .map_err(|_| "ORKET_GATEWAY_THREADS is not a whole number".to_owned())
}

fn webhook_rate(env: Env<'_>) -> Result<u32, String> {
    match per_minute(env, "ORKET_RATE_LIMIT", 60)? {
        0 => Err("ORKET_RATE_LIMIT is 0, which would refuse every delivery: give a number, or unset it for 60".to_owned()),
        n => Ok(n),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The text of the policy, made of lines that say which variable set them.
#[derive(Default)]
struct Text(String);

impl Text {
    fn plain(&mut self, lines: &str) {
        self.0.push_str(lines);
        self.0.push('\n');
    }

    fn set(&mut self, line: &str, variable: &str) {
        // A value with a line break becomes a multi-line string, which cannot carry a comment.
        let comment = if line.contains('\n') {
            String::new()
        } else {
            format!("{SET_BY}{variable}")
        };
        self.plain(&format!("{line}{comment}"));
    }
}

/// The text of the built-in policy. `Err` names each variable that cannot be read.
pub fn text(env: Env<'_>) -> Result<String, Vec<String>> {
    let s = Settings::read(env)?;
    let mut out = Text::default();
    out.plain("version = 1\n\n[listen]");
    out.set(
        &format!("http = {}", quoted(&s.listen)),
        "ORKET_GATEWAY_LISTEN",
    );
    out.set(
        &format!("admin = {}", quoted(&s.admin)),
        "ORKET_GATEWAY_ADMIN",
    );
    if let Some(n) = s.threads {
        out.set(&format!("threads = {n}"), "ORKET_GATEWAY_THREADS");
    }
    out.plain("\n[state]");
    out.set(&format!("dir = {}", quoted(&s.state)), "ORKET_STATE_DIR");
    out.plain("\n[posture]");
    out.set(
        &format!("environment = {}", quoted(&s.environment)),
        "ORKET_ENV",
    );
    out.set(
        &format!("allow_insecure_no_api_key = {}", s.insecure),
        "ORKET_ALLOW_INSECURE_NO_API_KEY",
    );
    out.plain("\n[limits]");
    let failures = if s.failures == 0 {
        "none".to_owned()
    } else {
        format!("{}/min", s.failures)
    };
    out.set(
        &format!("failures_per_address = {}", quoted(&failures)),
        "ORKET_FAILURE_LIMIT",
    );
    out.plain("\n[upstreams.backend]");
    out.set(
        &format!("address = {}", quoted(&s.backend)),
        "ORKET_BACKEND",
    );
    secrets_and_keys(&mut out, &s);
    routes(&mut out, &s);
    Ok(out.0)
}

fn secrets_and_keys(out: &mut Text, s: &Settings) {
    out.plain("\n[secrets]");
    for (set, id, name) in [
        (s.has_key, "api_key", "ORKET_API_KEY"),
        (s.has_webhook_secret, "gitea", "GITEA_WEBHOOK_SECRET"),
        // A token is only read where it can open something.
        (
            s.test_enabled && s.has_token,
            "test_token",
            "ORKET_WEBHOOK_TEST_TOKEN",
        ),
    ] {
        if set {
            out.set(&format!("{id} = [{{ env = \"{name}\" }}]"), name);
        }
    }
    if s.has_key {
        out.plain("\n[[keys]]\nid = \"default\"\nsecret = \"api_key\"\nscopes = [\"*\"]");
    }
}

fn routes(out: &mut Text, s: &Settings) {
    out.plain("\n[[rate_limits]]\nid = \"webhooks\"\nby = \"source\"");
    out.set(
        &format!("rate = \"{}/min\"", s.webhook_rate),
        "ORKET_RATE_LIMIT",
    );
    let mut api_limits = "[]";
    if s.api_rate > 0 {
        api_limits = "[\"api\"]";
        out.plain("\n[[rate_limits]]\nid = \"api\"\nby = \"key\"");
        out.set(
            &format!("rate = \"{}/min\"", s.api_rate),
            "ORKET_API_RATE_LIMIT",
        );
    }
    out.plain(&format!(
        r#"
[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
auth = {{ kind = "api_key" }}
rate_limits = {api_limits}
upstream = "backend"

[[routes]]
id = "events"
path = "/ws/events"
methods = ["GET"]
auth = {{ kind = "api_key" }}
rate_limits = {api_limits}
upgrade = "websocket"
upstream = "backend"

[[routes]]
id = "gitea"
path = "/webhook/gitea"
methods = ["POST"]
rate_limits = ["webhooks"]
replay = true
spool = false
upstream = "backend""#
    ));
    let secret = if s.has_webhook_secret {
        ", secret = \"gitea\""
    } else {
        ""
    };
    out.set(
        &format!("auth = {{ kind = \"webhook\", provider = \"gitea\"{secret} }}"),
        "GITEA_WEBHOOK_SECRET",
    );
    out.plain(
        r#"
[[routes]]
id = "test-webhook"
path = "/webhook/test"
methods = ["POST"]
rate_limits = ["webhooks"]
upstream = "backend""#,
    );
    let token = if s.test_enabled && s.has_token {
        ", token = \"test_token\""
    } else {
        ""
    };
    out.set(
        &format!(
            "auth = {{ kind = \"test_webhook\", enabled = {}{token} }}",
            s.test_enabled
        ),
        "ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT",
    );
}

/// Loads the built-in policy.
pub fn load(env: Env<'_>) -> Result<Loaded, Diagnostics> {
    match text(env) {
        Ok(text) => load::load(&text, NAME, Origin::BuiltIn, env),
        Err(wrong) => {
            let mut problems = Diagnostics::new("environment", "");
            for message in wrong {
                problems.error(&(0..0), message, None);
            }
            Err(problems)
        }
    }
}

/// Loads a policy file. The environment must not contradict it: with a file, secrets, limits and
/// environment come only from the file.
pub fn load_file(path: &Path, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    judge_beside(load::file(path, env)?, env)
}

/// As [`load_file`], with what is about to be written into that file.
pub fn load_file_text(text: &str, path: &Path, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    let origin = Origin::File(path.to_owned());
    judge_beside(
        load::load(text, &path.display().to_string(), origin, env)?,
        env,
    )
}

/// What the environment makes of a policy from a file.
fn judge_beside(mut loaded: Loaded, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    if let Ok(Some(environment)) = value(env, "ORKET_ENV")
        && environment != loaded.policy.environment.name()
    {
        let in_file = loaded.policy.environment.name();
        loaded.diagnostics.error(
            &(0..0),
            format!("ORKET_ENV={environment} contradicts this file, which means `{in_file}` (a file that does not say where it runs means production)"),
            Some("unset ORKET_ENV, or set [posture] environment to the same".into()),
        );
        return Err(loaded.diagnostics);
    }
    let ignored = VARIABLES
        .iter()
        .filter(|v| v.name.starts_with("ORKET_") && v.name != "ORKET_ENV");
    for variable in ignored {
        // A file may well name one of them as the place of a secret.
        if is_set(env, variable.name) && !loaded.diagnostics.mentions(variable.name) {
            loaded.diagnostics.warning(
                &(0..0),
                format!(
                    "{} is set and has no effect: with a policy file, only the file counts",
                    variable.name
                ),
                Some("unset it".into()),
            );
        }
    }
    Ok(loaded)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
mod tests {
    use super::*;
    use crate::policy::{Bypass, posture::Environment};

    fn with<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| OsString::from(v))
        }
    }

    #[test]
    fn an_empty_environment_is_closed() {
        let env = with(&[]);
        let loaded = load(&env).unwrap_or_else(|d| panic!("{d}"));
        assert!(loaded.policy.keys.is_empty());
        assert_eq!(loaded.policy.bypass, Bypass::Off);
        assert_eq!(loaded.policy.environment, Environment::Local);
        assert_eq!(loaded.policy.routes.iter().count(), 4);
    }

    #[test]
    fn blank_counts_as_unset_and_nonsense_is_named() {
        let env = with(&[("ORKET_API_KEY", "  "), ("GITEA_WEBHOOK_SECRET", "")]);
        assert!(load(&env).unwrap().policy.keys.is_empty());
        let env = with(&[
            ("ORKET_RATE_LIMIT", "many"),
            ("ORKET_ALLOW_INSECURE_NO_API_KEY", "maybe"),
            ("ORKET_RATE_LIMIT", "0"),
        ]);
        let text = load(&env).unwrap_err().to_string();
        assert!(
            text.contains("ORKET_RATE_LIMIT") && text.contains("ORKET_ALLOW_INSECURE_NO_API_KEY"),
            "{text}"
        );
    }

    #[test]
    fn a_value_is_taken_verbatim_and_cannot_break_out_of_the_text() {
        let env = with(&[(
            "ORKET_STATE_DIR",
            "a\"\n[posture]\nallow_insecure_no_api_key = true #",
        )]);
        let loaded = load(&env).unwrap_or_else(|d| panic!("{d}"));
        assert_eq!(loaded.policy.bypass, Bypass::Off);
    }
}
