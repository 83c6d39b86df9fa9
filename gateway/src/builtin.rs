//! The built-in policy: a TOML policy filled from the environment, loaded like any file.
//!
//! There is no second way for a setting to take effect: every variable becomes a line of the text that
//! [`text`] returns, and that text goes through the same loader, the same pipeline and the same tests.

mod environment;

use std::{ffi::OsString, path::Path};

use self::environment::{Settings, is_set, value};
pub use self::environment::{VARIABLES, Variable};
use crate::{
    config::diagnostic::{Diagnostics, SET_BY},
    policy::{
        Origin,
        load::{self, Env, Loaded},
    },
};

/// The name diagnostics give the built-in policy.
pub const NAME: &str = "built-in policy";

/// The process's environment.
pub fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
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
