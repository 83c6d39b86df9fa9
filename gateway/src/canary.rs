//! A black-box security check of a running deployment: it knocks where it must be refused, and looks
//! whether it is; with a key and a webhook secret it also looks whether proof is let in and whether a
//! claimed identity arrives inside.
//!
//! It changes nothing: its one delivery is of an event that nobody acts on.

mod checks;
mod wire;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use orket_shared::{complain, say};
use serde::Serialize;

/// Options of `orket-gateway canary`.
#[derive(Debug, Args)]
pub struct Options {
    /// Where clients reach the deployment, e.g. <http://127.0.0.1:8080>.
    #[arg(long)]
    pub url: url::Url,
    /// The variable that holds an API key; without it, what needs a key is not checked.
    #[arg(long, value_name = "NAME")]
    pub api_key_env: Option<String>,
    /// The variable that holds the webhook secret; without it, what needs a signature is not checked.
    #[arg(long, value_name = "NAME")]
    pub webhook_secret_env: Option<String>,
    /// The path of the Gitea webhook.
    #[arg(long, default_value = "/webhook/gitea")]
    pub webhook_path: String,
    /// How the outcome is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How the outcome is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line for each check.
    Text,
    /// One JSON object.
    Json,
}

/// One check, done.
#[derive(Debug, Serialize)]
struct Checked {
    name: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(tag = "outcome", content = "why", rename_all = "lowercase")]
enum Outcome {
    Holds,
    Fails(String),
    Skipped(&'static str),
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    url: &'a str,
    success: bool,
    checks: &'a [Checked],
}

/// Runs all checks. Exit code 0 only when none failed.
pub fn run(options: &Options) -> ExitCode {
    let target = match wire::Target::new(options) {
        Ok(target) => target,
        Err(problem) => {
            complain!("orket-gateway canary: {problem}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            complain!("orket-gateway canary: cannot start: {e}");
            return ExitCode::from(2);
        }
    };
    let checks = runtime.block_on(checks::all(&target));
    let failed = checks
        .iter()
        .filter(|c| matches!(c.outcome, Outcome::Fails(_)))
        .count();
    match options.format {
        Format::Text => print_text(&checks, failed),
        Format::Json => {
            let report = Report {
                url: options.url.as_str(),
                success: failed == 0,
                checks: &checks,
            };
            say!(
                "{}",
                serde_json::to_string_pretty(&report).unwrap_or_default()
            );
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_text(checks: &[Checked], failed: usize) {
    for check in checks {
        match &check.outcome {
            Outcome::Holds => say!("ok    {}", check.name),
            Outcome::Fails(why) => say!("FAIL  {}: {why}", check.name),
            Outcome::Skipped(why) => say!("skip  {}: {why}", check.name),
        }
    }
    if failed == 0 {
        say!("SUCCESS");
    } else {
        say!("FAILURE: {failed} of {} checks do not hold", checks.len());
    }
}
