//! `orket-gateway spool`: asks the running gateway over its control socket what waits and what failed, and changes it.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use http::Method;
use orket_shared::{complain, say_text};

use super::operator::{Acted, Drop, Line, List, Retry};
use crate::{
    canary::Format,
    control::{self, ControlError},
};

/// Options of `orket-gateway spool`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    act: Act,
    /// The policy file the gateway runs with; tells where its control socket is.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// The control socket itself.
    #[arg(long, global = true, value_name = "SOCKET", conflicts_with = "config")]
    control: Option<PathBuf>,
    /// How the outcome is printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// What waits, or with --dead what failed for good.
    List {
        /// The dead letters instead.
        #[arg(long)]
        dead: bool,
    },
    /// Send what waits now, without waiting for the next try.
    Retry {
        /// This entry; a dead letter is taken back to the end of what waits.
        #[arg(value_name = "ID", conflicts_with = "all")]
        id: Option<String>,
        /// Take all dead letters back, too.
        #[arg(long)]
        all: bool,
    },
    /// Forget a delivery. It is gone for good, unless its sender sends it again.
    Drop {
        /// This entry, waiting or dead.
        #[arg(value_name = "ID", required_unless_present = "all_dead")]
        id: Option<String>,
        /// All dead letters.
        #[arg(long, conflicts_with = "id")]
        all_dead: bool,
    },
}

/// Runs the command.
pub fn run(options: Options) -> ExitCode {
    match answer(options) {
        Ok(text) => {
            say_text!("{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            complain!("orket-gateway: {e}");
            ExitCode::FAILURE
        }
    }
}

fn answer(options: Options) -> Result<String, ControlError> {
    let socket = match options.control {
        Some(socket) => socket,
        None => control::socket_of(options.config.as_deref())?,
    };
    let format = options.format;
    let act = |path: &str, body: serde_json::Value| {
        let acted: Acted =
            control::ask(&socket, &Method::POST, path, Some(&body), control::PATIENCE)?;
        Ok(match format {
            Format::Json => format!("{}\n", serde_json::json!(acted)),
            Format::Text => told(&acted),
        })
    };
    match options.act {
        Act::List { dead } => {
            let list: List =
                control::ask(&socket, &Method::GET, "/spool", None, control::PATIENCE)?;
            Ok(match (format, dead) {
                (Format::Json, _) => format!("{}\n", serde_json::json!(list)),
                (Format::Text, true) => lines(&list.dead, list.dead_total, "failed for good"),
                (Format::Text, false) => waiting(&list),
            })
        }
        Act::Retry { id, all } => act("/spool/retry", serde_json::json!(Retry { id, dead: all })),
        Act::Drop { id, all_dead } => act(
            "/spool/drop",
            serde_json::json!(Drop { id, dead: all_dead }),
        ),
    }
}

fn told(acted: &Acted) -> String {
    let mut lines = acted.ids.clone();
    lines.push(acted.message.clone());
    lines.join("\n") + "\n"
}

fn waiting(list: &List) -> String {
    let dead = match list.dead_total {
        0 => String::new(),
        n => format!("{n} failed for good: orket-gateway spool list --dead\n"),
    };
    let unreadable = match list.unreadable {
        0 => String::new(),
        n => format!("{n} cannot be read and lie in spool/unreadable in [state] dir\n"),
    };
    lines(&list.waiting, list.waiting_total, "waiting") + &dead + &unreadable
}

fn lines(lines: &[Line], total: usize, what: &str) -> String {
    let all: String = lines.iter().map(line).collect();
    match total.saturating_sub(lines.len()) {
        0 => format!("{all}{total} {what}\n"),
        more => format!("{all}… and {more} more\n{total} {what}\n"),
    }
}

fn line(line: &Line) -> String {
    let status = line
        .last_status
        .map(|status| format!(" {status}"))
        .unwrap_or_default();
    let next = line
        .next_attempt
        .map(|at| format!(", next {at:.0}"))
        .unwrap_or_default();
    format!(
        "{}  {}  {}  received {:.0}, {} bytes, {} attempt(s), {}{status}{next}\n",
        line.id,
        line.source,
        line.event.as_deref().unwrap_or("-"),
        line.received,
        line.bytes,
        line.attempts,
        line.why,
    )
}
