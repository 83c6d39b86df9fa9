//! The command line of the gateway.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use orket_gateway::{
    builtin, canary,
    config::diagnostic::Diagnostics,
    edge::Edge,
    log,
    policy::posture,
    rehearsal::{self, Ready},
    server,
};

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
    },
    /// Check a running deployment from outside: a line for each check, SUCCESS at the end.
    Canary(canary::Options),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve { config } => serve(config.as_deref()),
        Command::Check { file } => check(&file),
        Command::Canary(options) => canary::run(&options),
    }
}

fn load(config: Option<&Path>) -> Result<Ready, Diagnostics> {
    let env = &builtin::process_environment;
    let loaded = match config {
        Some(file) => builtin::load_file(file, env),
        None => builtin::load(env),
    };
    rehearsal::ready(loaded?, None)
}

fn serve(config: Option<&Path>) -> ExitCode {
    let ready = match load(config) {
        Ok(ready) => ready,
        Err(problems) => {
            eprint!("{problems}");
            eprintln!("orket-gateway: the policy does not load, so nothing is served");
            return ExitCode::FAILURE;
        }
    };
    let _log = log::start();
    for warning in ready.diagnostics.sorted() {
        tracing::warn!(
            event = "posture_warning",
            hint = warning.hint,
            "{}",
            warning.message
        );
    }
    let policy = &ready.snapshot.policy;
    posture::announce(policy);
    let bound = match server::Bound::new(policy.listen.http, policy.listen.admin) {
        Ok(bound) => bound,
        Err(e) => {
            eprintln!("orket-gateway: {e}");
            return ExitCode::FAILURE;
        }
    };
    match bound.announcement() {
        Ok(line) => println!("{line}"),
        Err(e) => eprintln!("orket-gateway: {e}"),
    }
    server::run(&Arc::new(Edge::new(ready.snapshot)), bound);
    ExitCode::SUCCESS
}

fn check(file: &Path) -> ExitCode {
    let outcome = load(Some(file));
    let (problems, loads) = match &outcome {
        Ok(ready) => (&ready.diagnostics, true),
        Err(problems) => (problems, false),
    };
    print!("{problems}");
    let (errors, warnings) = problems.counts();
    println!(
        "{}: {errors} error(s), {warnings} warning(s)",
        file.display()
    );
    if loads {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
