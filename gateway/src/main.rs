//! The command line of the gateway.

// `orket_shared::say` does not panic when nobody reads any more.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use orket_gateway::{
    canary::{self, Format},
    control,
    edge::Edge,
    explain, keys, log,
    policy::posture,
    presence::Presence,
    reload::{Outcome, Source},
    server, spool, tls,
};
use orket_shared::{complain, complain_text, say, say_text};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The door of Orket: decides whether a request may come in.
#[derive(Debug, Parser)]
#[command(name = "orket-gateway", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve {
        /// The policy file; without one, the built-in policy is filled from the environment.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Check a policy file: every problem with its place, and whether its own tests hold.
    Check {
        /// The policy file.
        file: PathBuf,
        /// How the outcome is printed.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Say what the policy makes of a request, and why.
    Explain(explain::Options),
    /// Make, rotate, revoke and list the API keys of a policy file.
    Keys(keys::Options),
    /// Ask the running gateway to read its policy again, and print the verdict.
    Reload {
        /// The policy file the gateway runs with; tells where its control socket is.
        #[arg(long)]
        config: Option<PathBuf>,
        /// The control socket itself.
        #[arg(long, value_name = "SOCKET", conflicts_with = "config")]
        control: Option<PathBuf>,
        /// How the verdict is printed.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// See and change what waits in the spool of the running gateway, and what failed for good.
    Spool(spool::command::Options),
    /// Check a running deployment from outside: a line for each check, SUCCESS at the end.
    Canary(canary::Options),
}

fn main() -> ExitCode {
    log::report_panics();
    tls::install_provider();
    orket_shared::say::ended(match Cli::parse().command {
        Command::Serve { config } => serve(source(config)),
        Command::Check { file, format } => check(&file, format),
        Command::Explain(options) => explain::run(options),
        Command::Keys(options) => keys::run(options),
        Command::Reload {
            config,
            control,
            format,
        } => reload(config.as_deref(), control, format),
        Command::Spool(options) => spool::command::run(options),
        Command::Canary(options) => canary::run(&options),
    })
}

fn source(config: Option<PathBuf>) -> Source {
    config.map_or(Source::BuiltIn, Source::File)
}

fn serve(source: Source) -> ExitCode {
    // Before the policy is read: `keys revoke` counts on that.
    let presence = match &source {
        Source::File(path) => Presence::with(path).map(Some),
        Source::BuiltIn => Ok(None),
    };
    let ready = match source.read(None) {
        Ok(ready) => ready,
        Err(problems) => {
            complain_text!("{problems}");
            complain!("orket-gateway: the policy does not load, so nothing is served");
            return ExitCode::FAILURE;
        }
    };
    let presence = match presence {
        Ok(presence) => presence,
        Err(e) => {
            complain!("orket-gateway: {e}");
            return ExitCode::FAILURE;
        }
    };
    let settings = log::Settings::read(&|name| std::env::var(name).ok());
    let running = match settings
        .map_err(log::LogError::from)
        .and_then(|s| log::start(&s))
    {
        Ok(running) => running,
        Err(e) => {
            complain!("orket-gateway: {e}");
            return ExitCode::FAILURE;
        }
    };
    if presence.as_ref().is_some_and(Presence::waits) {
        tracing::warn!(
            event = "presence_waits",
            "another program has locked the folder of the policy file: as long as it does, `keys revoke` cannot be certain"
        );
    }
    posture::announce(&ready.snapshot.policy, &ready.diagnostics);
    let listen = ready.snapshot.policy.listen.clone();
    let edge = match Edge::open(ready.snapshot, presence, running.queue()) {
        Ok(edge) => Arc::new(edge),
        Err(e) => {
            complain!("orket-gateway: {e}");
            return ExitCode::FAILURE;
        }
    };
    log::state_panics(edge.metrics.panics.clone(), &edge.log);
    let bound = match server::Bound::new(&listen) {
        Ok(bound) => bound,
        Err(e) => {
            complain!("orket-gateway: {e}");
            return ExitCode::FAILURE;
        }
    };
    server::run(&edge, source, bound);
    edge.replay.flush();
    ExitCode::SUCCESS
}

fn reload(config: Option<&Path>, control: Option<PathBuf>, format: Format) -> ExitCode {
    let found = control.map_or_else(|| control::socket_of(config), Ok);
    let socket = match found {
        Ok(socket) => socket,
        Err(e) => {
            complain!("orket-gateway: {e}");
            return ExitCode::FAILURE;
        }
    };
    match control::ask::<Outcome>(
        &socket,
        &http::Method::POST,
        "/reload",
        None,
        control::PATIENCE,
    ) {
        Ok(outcome) => {
            match format {
                Format::Json => say!("{}", serde_json::json!(outcome)),
                Format::Text => print_outcome(&outcome),
            }
            if outcome.in_force {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(e) => {
            complain!("orket-gateway: {e}");
            ExitCode::FAILURE
        }
    }
}

fn print_outcome(outcome: &Outcome) {
    say_text!("{}", outcome.diagnostics);
    for setting in &outcome.restart_needed {
        say!("restart needed: {setting}");
    }
    say!(
        "{}",
        if outcome.in_force {
            "the new policy is in force"
        } else {
            "the old policy stays in force"
        }
    );
}

fn check(file: &Path, format: Format) -> ExitCode {
    let outcome = Source::File(file.to_owned()).read(None);
    let (problems, loads) = match &outcome {
        Ok(ready) => (&ready.diagnostics, true),
        Err(problems) => (problems, false),
    };
    let (errors, warnings) = problems.counts();
    match format {
        Format::Json => {
            say!(
                "{}",
                serde_json::json!({"loads": loads, "diagnostics": problems.to_json()})
            );
        }
        Format::Text => {
            say_text!("{problems}");
            say!(
                "{}: {errors} error(s), {warnings} warning(s)",
                file.display()
            );
        }
    }
    if loads {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
