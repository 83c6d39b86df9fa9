//! The command line of `orket-backend`.

// `orket_shared::say` does not panic when nobody reads any more.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use orket_backend::{
    Backend,
    api::{
        archive::{ArchiveAnswer, ArchiveRequest},
        openapi,
        replay::{ReplayAnswer, ReplayRequest},
    },
    cli, crash_point,
    run::State,
    settings::{Loaded, Settings},
    supervisor,
};
use orket_shared::{complain, complain_text, say, say_text};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Schedules and runs work, keeps sandboxes. It asks nobody for proof: it stands behind
/// orket-gateway.
#[derive(Parser)]
#[command(name = "orket-backend", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the backend. SIGTERM and SIGINT stop it; no attempt is spent by that.
    Serve {
        /// The configuration; every field has a default.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check a configuration: every mistake with its line and column.
    Check {
        /// The configuration.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Show how commands are confined here, and what a child that is confined like a run can reach.
    /// Fails when the configured level does not hold.
    SelfTest {
        /// The configuration; every field has a default.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Archive cards, through the running backend or, when none runs, in the store itself.
    Archive(Archive),
    /// List runs that did not succeed, newest first.
    Runs(Runs),
    /// Submit runs that did not succeed once more, through the running backend or, when none
    /// runs, in the store itself. Asking twice replays nothing twice.
    Replay(Replay),
    /// Look at the stack of a repository.
    #[command(subcommand)]
    Stack(Stack),
    /// Print the description of the API (`OpenAPI` 3.1).
    ExportOpenapi,
}

#[derive(Subcommand)]
enum Stack {
    /// Tell what would be run as the stack of a repository, or what stands against it. Looks at files only.
    Check {
        /// The repository.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The configuration, which may list the registries that images come from.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct Archive {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A card, by id; may be repeated.
    #[arg(long = "card", value_name = "ID")]
    cards: Vec<String>,
    /// All cards of a build.
    #[arg(long, value_name = "ID")]
    build: Option<String>,
    /// All cards whose id, title or build contains this text; may be repeated.
    #[arg(long = "related", value_name = "TEXT")]
    related: Vec<String>,
    /// Why, for the record.
    #[arg(long)]
    reason: Option<String>,
    /// Who, for the record.
    #[arg(long = "by", value_name = "NAME")]
    archived_by: Option<String>,
}

#[derive(clap::Args)]
struct Runs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A state; may be repeated. Without it: `failed`, `timed_out` and `lost`.
    #[arg(long = "state", value_name = "STATE", value_parser = state)]
    states: Vec<State>,
    /// How many of each state at most, 1 to 500.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=500))]
    limit: i64,
}

#[derive(clap::Args)]
struct Replay {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A run, by id; may be repeated. Nothing else selects then.
    #[arg(long = "run", value_name = "ID")]
    runs: Vec<String>,
    /// All of this state: `failed`, `timed_out`, `lost` or `canceled`; may be repeated.
    #[arg(long = "state", value_name = "STATE", value_parser = state)]
    states: Vec<State>,
    /// Only of this card.
    #[arg(long, value_name = "ID")]
    card: Option<String>,
    /// Only of this build.
    #[arg(long, value_name = "ID")]
    build: Option<String>,
    /// Only of this queue.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Only with this reason, such as `exit_status`.
    #[arg(long, value_name = "WORD")]
    reason: Option<String>,
    /// Only those that ended then or later (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since: Option<jiff::Timestamp>,
    /// How many at most, the oldest first.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

fn state(name: &str) -> Result<State, String> {
    State::parse(name).ok_or_else(|| {
        let names = State::ALL.map(State::as_str);
        format!("it is none of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    // Before anything else: this program is also its own supervisor, which must start at once and
    // know nothing of what follows.
    if let Some(code) = supervisor::intercept(std::env::args_os()) {
        return code;
    }
    match run(Arguments::parse().command) {
        Ok(code) => orket_shared::say::ended(code),
        Err(error) => {
            complain!("orket-backend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { config } => serve(config.as_deref()),
        Command::Check { config } => {
            let Some(Loaded { warnings, .. }) = load(Some(&config))? else {
                return Ok(ExitCode::FAILURE);
            };
            let count = warnings.len();
            say!("{}: ok, {count} warning{}", config.display(), plural(count));
            Ok(ExitCode::SUCCESS)
        }
        Command::SelfTest { config } => self_test(config.as_deref()),
        Command::Archive(archive) => run_archive(archive),
        Command::Runs(runs) => list_runs(&runs),
        Command::Replay(replay) => run_replay(replay),
        Command::Stack(Stack::Check { dir, config }) => {
            let Some(Loaded { settings, .. }) = load(config.as_deref())? else {
                return Ok(ExitCode::FAILURE);
            };
            match cli::stack_check(&dir, &settings.sandboxes.docker.registries) {
                Ok(said) => say_text!("{said}"),
                Err(refused) => {
                    complain_text!("{refused}");
                    return Ok(ExitCode::FAILURE);
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::ExportOpenapi => {
            say_text!("{}", openapi::text()?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Loads the configuration and shows what is wrong with it; `None` when it cannot be used.
fn load(config: Option<&Path>) -> anyhow::Result<Option<Loaded>> {
    let (name, text) = match config {
        None => ("(defaults)".to_owned(), String::new()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                anyhow::anyhow!(
                    "cannot read the configuration {}: {error}; name one that is there and that this user may read",
                    path.display()
                )
            })?;
            (path.display().to_string(), text)
        }
    };
    match Settings::load(&text) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain_text!("{}", warning.render(&name, &text));
            }
            Ok(Some(loaded))
        }
        Err(errors) => {
            for error in errors {
                complain_text!("{}", error.render(&name, &text));
            }
            Ok(None)
        }
    }
}

fn serve(config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let Some(Loaded { settings, .. }) = load(config)? else {
        return Ok(ExitCode::FAILURE);
    };
    log_to_stderr();
    if let Some(at) = crash_point::armed().map_err(anyhow::Error::msg)? {
        tracing::warn!(
            event = "crash_point",
            at,
            "a test lets this process be killed"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before anything is started: a signal that comes early must stop us, too.
        let mut signals = cli::Signals::listen()?;
        let backend = tokio::select! {
            started = Backend::start(settings) => started?,
            // As if it was killed: the next start settles what this one did not.
            () = signals.received() => return Ok(()),
        };
        let stop = backend.stop();
        say!("orket-backend listening on {}", backend.address()?);
        let told = async {
            signals.received().await;
            tracing::info!(event = "stopping", "the backend stops");
            stop.stop();
            // Nothing is lost by leaving early: the next start settles what is not recorded yet.
            signals.received().await;
            tracing::warn!(event = "stopping", "told to stop again: leaving at once");
        };
        tokio::select! {
            served = backend.serve() => served?,
            () = told => {}
        }
        Ok::<_, anyhow::Error>(())
    })?;
    // Tasks that follow attempts are dropped with the runtime; their supervisors go on.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    Ok(ExitCode::SUCCESS)
}

fn self_test(config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let Some(Loaded { settings, .. }) = load(config)? else {
        return Ok(ExitCode::FAILURE);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    say_text!("{}", runtime.block_on(orket_backend::rehearse(&settings))?);
    Ok(ExitCode::SUCCESS)
}

fn run_archive(archive: Archive) -> anyhow::Result<ExitCode> {
    let Some(Loaded { settings, .. }) = load(archive.config.as_deref())? else {
        return Ok(ExitCode::FAILURE);
    };
    let request = ArchiveRequest {
        card_ids: archive.cards,
        build_id: archive.build,
        related_tokens: archive.related,
        reason: archive.reason,
        archived_by: archive.archived_by,
    };
    let ArchiveAnswer {
        archived_count,
        archived_ids,
        missing_ids,
        ..
    } = runtime()?.block_on(cli::archive(&settings, request))?;
    say!("{archived_count} card{} archived", plural(archived_count));
    for id in archived_ids {
        say!("  {id}");
    }
    for id in &missing_ids {
        complain!("no card {id}");
    }
    Ok(if missing_ids.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn list_runs(runs: &Runs) -> anyhow::Result<ExitCode> {
    let Some(Loaded { settings, .. }) = load(runs.config.as_deref())? else {
        return Ok(ExitCode::FAILURE);
    };
    let usual = [State::Failed, State::TimedOut, State::Lost];
    let states: &[State] = if runs.states.is_empty() {
        &usual
    } else {
        &runs.states
    };
    let listed = runtime()?.block_on(cli::runs(&settings, states, runs.limit))?;
    for run in &listed {
        let ended = run.ended_at.map(|at| at.to_string());
        say!(
            "{}  {}  {}  {}  {}",
            run.id,
            run.state.as_str(),
            run.reason.as_deref().unwrap_or("-"),
            ended.as_deref().unwrap_or("-"),
            run.card_id.as_deref().unwrap_or("-"),
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn run_replay(replay: Replay) -> anyhow::Result<ExitCode> {
    let Some(Loaded { settings, .. }) = load(replay.config.as_deref())? else {
        return Ok(ExitCode::FAILURE);
    };
    let request = ReplayRequest {
        ids: replay.runs,
        states: replay.states,
        card_id: replay.card,
        build_id: replay.build,
        queue: replay.queue,
        reason: replay.reason,
        since: replay.since,
        limit: replay.limit,
        cursor: None,
    };
    let ReplayAnswer {
        replayed,
        skipped,
        next,
    } = runtime()?.block_on(cli::replay(&settings, request))?;
    let count = replayed.len();
    say!("{count} run{} replayed", plural(count));
    for run in replayed {
        say!("  {} as {}", run.id, run.run_id);
    }
    for run in &skipped {
        complain!("{}: {}", run.id, run.why);
    }
    if next.is_some() {
        complain!("Not all that fit were looked at: run it again to go on");
    }
    Ok(if skipped.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Logs go to standard error: as text for a terminal, else as JSON; `ORKET_LOG_FORMAT=json|text`
/// decides otherwise, `ORKET_LOG` what is logged.
fn log_to_stderr() {
    let format = std::env::var("ORKET_LOG_FORMAT").unwrap_or_default();
    let json = match format.as_str() {
        "json" => true,
        "text" => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let filter = EnvFilter::try_from_env("ORKET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if json {
        registry.with(layer.json().flatten_event(true)).init();
    } else {
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        registry.with(layer.with_ansi(color)).init();
    }
}
