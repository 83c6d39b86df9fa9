//! The process that stands between the backend and one command: this program executed again.
//!
//! It leads its own session, is child subreaper, runs the command in a clean environment without a
//! shell, writes the output and the end into the attempt's directory, enforces timeout and output
//! cap, and ends the whole tree: after a cancel, after a timeout, and whatever is left after a
//! normal end. It survives a kill of the backend; a kill of it takes the command with it.
//!
//! It must never open the store, a socket or the configuration, and holds nothing of the backend's
//! environment. There is no runtime in it: it starts in a millisecond and waits in one `poll`.
//!
//! Next: `watch` for its loop, `files` for what is on disk, `launch` for how the command comes to
//! be, [`crate::executor`] for the other side.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when the disk behind them is full, and a supervisor must live on"
)]

use crate::confine::probe;
use std::{
    ffi::OsString,
    fmt,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(crate) mod channel;
pub(crate) mod events;
pub mod exit;
pub(crate) mod files;
pub mod identity;
pub(crate) mod init;
pub(crate) mod intake;
pub mod isolation;
pub(crate) mod journal;
pub(crate) mod launch;
pub mod record;
pub(crate) mod tree;
pub(crate) mod watch;

/// The argument that makes this program a supervisor.
pub(crate) const SUPERVISE: &str = "supervise";
/// The argument that makes it the last step before the command.
pub(crate) const LAUNCH: &str = "supervise-launch";
/// The argument that makes it the first process of a command's own namespaces.
pub(crate) const INIT: &str = "supervise-init";

/// Runs as a supervisor when the arguments say so; `None` for every other use of the program.
/// `main` calls this first, before argument parsing, logging or a runtime.
pub fn intercept(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter().skip(1);
    let step = args.next()?;
    if step == SUPERVISE {
        let dir = PathBuf::from(args.next()?);
        return Some(supervise(&dir));
    }
    if step == INIT {
        return Some(init::begin());
    }
    if step == LAUNCH {
        let parent = args.next()?.to_str()?.parse().ok()?;
        return Some(launch::become_command(parent));
    }
    (step == probe::PROBE).then(|| probe::run(args))
}

/// The exit code of a supervisor that could not take its attempt on: nothing was executed.
pub(crate) const UNBEGUN: u8 = 75;

fn supervise(dir: &Path) -> ExitCode {
    let files = files::AttemptDir::new(dir.to_owned());
    let failed = |error: io::Error, code| {
        complain(format_args!("cannot supervise {}: {error}", dir.display()));
        code
    };
    match watch::take_on(&files) {
        Ok(Some(taken)) => match watch::supervise(&files, taken) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(error, ExitCode::FAILURE),
        },
        // It was given up before.
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => failed(error, ExitCode::from(UNBEGUN)),
    }
}

/// Writes to standard error, which is the attempt's `supervisor.log`: the backend quotes it. What
/// the disk does not take is lost, and nothing else is.
fn complain(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}
