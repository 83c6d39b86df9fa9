//! The built-in policy: a TOML policy filled from the environment, loaded like any file.
//!
//! There is no second way for a setting to take effect: every variable becomes a line of the text that
//! [`text`] returns, and that text goes through the same loader, the same pipeline and the same tests.

use std::{ffi::OsString, fmt::Write as _, path::Path};

use crate::policy::load::{self, DEFAULT_ADMIN, DEFAULT_HTTP, DEFAULT_STATE_DIR, Env, Loaded};
use crate::{config::diagnostic::Diagnostics, policy::Origin};

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
        _ => Err(format!(
            "{name}={text} is neither on nor off: use true or false"
        )),
    }
}

fn per_minute(
    env: Env<'_>,
    name: &str,
    default: u32,
    zero_is_none: bool,
) -> Result<Option<String>, String> {
    let n = match value(env, name)? {
        None => default,
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| format!("{name}={text} is not a whole number a minute"))?,
    };
    match n {
        0 if zero_is_none => Ok(None),
        0 => Err(format!(
            "{name}=0 would refuse every delivery: give a number, or take the variable away for {default}"
        )),
        n => Ok(Some(format!("{n}/min"))),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The text of the built-in policy. `Err` names each variable that cannot be read.
pub fn text(env: Env<'_>) -> Result<String, Vec<String>> {
    let mut wrong = Vec::new();
    let mut take = |r: Result<Option<String>, String>| {
        r.unwrap_or_else(|e| {
            wrong.push(e);
            None
        })
    };
    let environment = take(value(env, "ORKET_ENV")).unwrap_or_else(|| "local".into());
    let listen = take(value(env, "ORKET_GATEWAY_LISTEN")).unwrap_or_else(|| DEFAULT_HTTP.into());
    let admin = take(value(env, "ORKET_GATEWAY_ADMIN")).unwrap_or_else(|| DEFAULT_ADMIN.into());
    let backend = take(value(env, "ORKET_BACKEND")).unwrap_or_else(|| DEFAULT_BACKEND.into());
    let state = take(value(env, "ORKET_STATE_DIR")).unwrap_or_else(|| DEFAULT_STATE_DIR.into());
    let threads = take(value(env, "ORKET_GATEWAY_THREADS"));
    let webhook_rate =
        take(per_minute(env, "ORKET_RATE_LIMIT", 60, false)).unwrap_or_else(|| "60/min".into());
    let api_rate = take(per_minute(env, "ORKET_API_RATE_LIMIT", 6000, true));
    let failures =
        take(per_minute(env, "ORKET_FAILURE_LIMIT", 120, true)).unwrap_or_else(|| "none".into());
    let mut on = |name| {
        switch(env, name).unwrap_or_else(|e| {
            wrong.push(e);
            false
        })
    };
    let insecure = on("ORKET_ALLOW_INSECURE_NO_API_KEY");
    let test_enabled = on("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT");
    let threads = match threads.as_deref().map(|t| t.trim().parse::<u32>()) {
        None => None,
        Some(Ok(n)) => Some(n),
        Some(Err(_)) => {
            wrong.push("ORKET_GATEWAY_THREADS is not a whole number".into());
            None
        }
    };
    if !wrong.is_empty() {
        return Err(wrong);
    }

    let has_key = is_set(env, "ORKET_API_KEY");
    let has_webhook_secret = is_set(env, "GITEA_WEBHOOK_SECRET");
    // A token is only read where it can open something.
    let has_token = test_enabled && is_set(env, "ORKET_WEBHOOK_TEST_TOKEN");

    let mut out = String::from("version = 1\n\n[listen]\n");
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!(
        "http = {}\nadmin = {}",
        quoted(&listen),
        quoted(&admin)
    ));
    if let Some(n) = threads {
        line(format!("threads = {n}"));
    }
    line(format!("\n[state]\ndir = {}", quoted(&state)));
    line(format!(
        "\n[posture]\nenvironment = {}\nallow_insecure_no_api_key = {insecure}",
        quoted(&environment)
    ));
    line(format!(
        "\n[limits]\nfailures_per_address = {}",
        quoted(&failures)
    ));
    line(format!(
        "\n[upstreams.backend]\naddress = {}",
        quoted(&backend)
    ));
    line("\n[secrets]".into());
    for (set, id, name) in [
        (has_key, "api_key", "ORKET_API_KEY"),
        (has_webhook_secret, "gitea", "GITEA_WEBHOOK_SECRET"),
        (has_token, "test_token", "ORKET_WEBHOOK_TEST_TOKEN"),
    ] {
        if set {
            line(format!("{id} = [{{ env = \"{name}\" }}]"));
        }
    }
    if has_key {
        line("\n[[keys]]\nid = \"default\"\nsecret = \"api_key\"\nscopes = [\"*\"]".into());
    }
    line(format!(
        "\n[[rate_limits]]\nid = \"webhooks\"\nby = \"source\"\nrate = {}",
        quoted(&webhook_rate)
    ));
    let api_limits = if let Some(rate) = api_rate {
        line(format!(
            "\n[[rate_limits]]\nid = \"api\"\nby = \"key\"\nrate = {}",
            quoted(&rate)
        ));
        "rate_limits = [\"api\"]\n"
    } else {
        ""
    };
    line(format!(
        "\n[[routes]]\nid = \"api\"\npath = \"/v1/*\"\nmethods = [\"GET\", \"HEAD\", \"POST\", \"PUT\", \"PATCH\", \"DELETE\"]\n\
         auth = {{ kind = \"api_key\" }}\n{api_limits}upstream = \"backend\""
    ));
    line(format!(
        "\n[[routes]]\nid = \"events\"\npath = \"/ws/events\"\nmethods = [\"GET\"]\nauth = {{ kind = \"api_key\" }}\n\
         {api_limits}upgrade = \"websocket\"\nupstream = \"backend\""
    ));
    let secret = if has_webhook_secret {
        ", secret = \"gitea\""
    } else {
        ""
    };
    line(format!(
        "\n[[routes]]\nid = \"gitea\"\npath = \"/webhook/gitea\"\nmethods = [\"POST\"]\n\
         auth = {{ kind = \"webhook\", provider = \"gitea\"{secret} }}\nrate_limits = [\"webhooks\"]\nreplay = true\nspool = false\nupstream = \"backend\""
    ));
    let token = if has_token {
        ", token = \"test_token\""
    } else {
        ""
    };
    line(format!(
        "\n[[routes]]\nid = \"test-webhook\"\npath = \"/webhook/test\"\nmethods = [\"POST\"]\n\
         auth = {{ kind = \"test_webhook\", enabled = {test_enabled}{token} }}\nrate_limits = [\"webhooks\"]\nupstream = \"backend\""
    ));
    Ok(out)
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
    let mut loaded = load::file(path, env)?;
    if let Ok(Some(environment)) = value(env, "ORKET_ENV")
        && environment != loaded.policy.environment.name()
    {
        let in_file = loaded.policy.environment.name();
        loaded.diagnostics.error(
            &(0..0),
            format!("ORKET_ENV={environment} contradicts this file, which says `{in_file}`"),
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
