//! Entry point.
use std::process::ExitCode;

fn main() -> ExitCode {
    // A supervisor starts in a millisecond: nothing may come before this.
    if let Some(code) = orket_backend::supervisor::intercept(std::env::args_os()) {
        return code;
    }
    ExitCode::FAILURE
}
