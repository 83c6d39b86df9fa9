//! What a program says on its standard output and its standard error.
//!
//! `println!` panics when nobody reads any more, as in `orket-gateway explain … | head -1`. Here a reader that has
//! gone is a quiet end. Any other failure, such as a full disk, is told once on the standard error and remembered, so that
//! the program can end as failed: what was asked for is not there.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

/// Something could not be written to the standard output, and its reader had not gone.
static LOST: AtomicBool = AtomicBool::new(false);

/// Writes a line to the standard output; see the [module](mod@crate::say).
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}

/// Writes text without a line's end to the standard output; see the [module](mod@crate::say).
#[macro_export]
macro_rules! say_text {
    ($($text:tt)*) => { $crate::say::text(format_args!($($text)*)) };
}

/// Writes a line to the standard error; where that cannot be, there is nowhere to say so.
#[macro_export]
macro_rules! complain {
    ($($text:tt)*) => { $crate::say::complaint(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes text without a line's end to the standard error.
#[macro_export]
macro_rules! complain_text {
    ($($text:tt)*) => { $crate::say::complaint(format_args!($($text)*)) };
}

/// A line on the standard output. Use [`say!`](crate::say!).
pub fn line(text: Arguments<'_>) {
    self::text(format_args!("{text}\n"));
}

/// Text on the standard output. Use [`say_text!`](crate::say_text!).
pub fn text(text: Arguments<'_>) {
    let mut out = io::stdout().lock();
    note(out.write_fmt(text).and_then(|()| out.flush()));
}

/// Text on the standard error. Use [`complain!`](crate::complain!).
pub fn complaint(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

fn note(written: io::Result<()>) {
    match written {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            if !LOST.swap(true, Ordering::Relaxed) {
                complaint(format_args!(
                    "the standard output cannot be written: {e}; what was asked for is not whole\n"
                ));
            }
        }
        Ok(()) | Err(_) => {}
    }
}

/// How the program ends: as it would, or failed where something it said was lost.
pub fn ended(as_it_would: ExitCode) -> ExitCode {
    if LOST.load(Ordering::Relaxed) {
        ExitCode::FAILURE
    } else {
        as_it_would
    }
}
