//! The environment as the built-in policy reads it: which variables there are, and what each has to look like.

use crate::policy::load::{DEFAULT_ADMIN, DEFAULT_HTTP, DEFAULT_STATE_DIR, Env};

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

/// A variable's value; blank ones count as unset. `Err` when it is not UTF-8.
pub(super) fn value(env: Env<'_>, name: &str) -> Result<Option<String>, String> {
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
pub(super) fn is_set(env: Env<'_>, name: &str) -> bool {
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
pub(super) struct Settings {
    pub(super) environment: String,
    pub(super) listen: String,
    pub(super) admin: String,
    pub(super) backend: String,
    pub(super) state: String,
    pub(super) threads: Option<u32>,
    pub(super) webhook_rate: u32,
    pub(super) api_rate: u32,
    pub(super) failures: u32,
    pub(super) insecure: bool,
    pub(super) test_enabled: bool,
    pub(super) has_key: bool,
    pub(super) has_webhook_secret: bool,
    pub(super) has_token: bool,
}

impl Settings {
    /// Reads all variables, or names each that cannot be read.
    pub(super) fn read(env: Env<'_>) -> Result<Self, Vec<String>> {
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
