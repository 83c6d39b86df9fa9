//! The process that stands between the backend and one command.

pub mod exit;
pub mod identity;
pub mod isolation;
pub mod record;

/// Runs as a supervisor when the arguments say so; `None` for every other use of the program. `main` calls this
/// first, before argument parsing, logging or a runtime.
pub fn intercept(args: impl IntoIterator<Item = std::ffi::OsString>) -> Option<std::process::ExitCode> {
    let _ = args.into_iter();
    None
}
