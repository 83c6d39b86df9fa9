//! Where log records go: to standard error, one line each, never waiting for whoever reads them.
//!
//! Only this program's own records are written. The proxy library's logs can hold raw request bytes, so
//! they are not connected at all.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How many lines may wait to be written. Beyond it lines are dropped rather than requests held up.
const BUFFERED_LINES: usize = 64 * 1024;

/// Starts logging. `ORKET_LOG` filters (`info` unless set; `info,access=debug` adds a record for every
/// request); `ORKET_LOG_FORMAT` is `json` or `text`, by default `text` on a terminal and `json` elsewhere.
/// Keep what is returned: dropping it writes what still waits.
pub fn start() -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(BUFFERED_LINES)
        .lossy(true)
        .finish(std::io::stderr());
    let filter = EnvFilter::try_from_env("ORKET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let json = match std::env::var("ORKET_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        Ok(_) | Err(_) => !std::io::stderr().is_terminal(),
    };
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry
            .with(fmt::layer().json().flatten_event(true).with_writer(writer))
            .init();
    } else {
        registry
            .with(fmt::layer().with_ansi(colour).with_writer(writer))
            .init();
    }
    guard
}
