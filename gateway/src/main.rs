//! The command line of the gateway.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};
use orket_gateway::{
    builtin, canary, config::diagnostic::Diagnostics, edge::Edge, log, policy::load::Loaded,
    policy::posture, server,
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
    /// Check a policy file: every problem with its place, then a verdict.
    Check {
        /// The policy file.
        file: PathBuf,
    },
    /// Check a running deployment from outside: a line for each check, SUCCESS at the end.
    Canary(canary::Options),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve { config } => serve(config),
        Command::Check { file } => check(&file),
        Command::Canary(options) => canary::run(&options),
    }
}

fn load(config: Option<PathBuf>) -> Result<Loaded, Diagnostics> {
    let env = &builtin::process_environment;
    match config {
        Some(file) => builtin::load_file(&file, env),
        None => builtin::load(env),
    }
}

fn serve(config: Option<PathBuf>) -> ExitCode {
    let loaded = match load(config) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprint!("{problems}");
            eprintln!("orket-gateway: the policy does not load, so nothing is served");
            return ExitCode::FAILURE;
        }
    };
    let _log = log::start();
    for warning in loaded.diagnostics.sorted() {
        tracing::warn!(
            event = "posture_warning",
            hint = warning.hint,
            "{}",
            warning.message
        );
    }
    posture::announce(&loaded.policy);
    let listen = loaded.policy.listen.clone();
    let Some(edge) = Edge::new(loaded.policy).map(Arc::new) else {
        eprintln!("orket-gateway: a rate of the policy cannot be used");
        return ExitCode::FAILURE;
    };
    let bound = match server::Bound::new(listen.http, listen.admin) {
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
    server::run(&edge, bound);
    ExitCode::SUCCESS
}

fn check(file: &std::path::Path) -> ExitCode {
    let outcome = builtin::load_file(file, &builtin::process_environment);
    let (problems, loads) = match &outcome {
        Ok(loaded) => (&loaded.diagnostics, true),
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
