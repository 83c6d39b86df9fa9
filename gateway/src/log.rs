//! What the gateway writes down, and where: three logs, each one record a line.
//!
//! * `access`: one record for every request, made of ids and figures only.
//! * `audit`: every refusal, and whatever an operator did: start, reload, stop.
//! * the program's own: faults, warnings, posture.
//!
//! Nothing here waits for whoever reads: records pass through a bounded queue to one thread that gives them their
//! form and writes them; what does not fit is dropped, counted and stated. The proxy library's
//! own logs can hold raw request bytes, so they are not connected at all. Which events and fields there are is
//! said in [`field`]. What an operator did has a queue and a thread of its own, so that no flood, and no reader of another log that
//! has stopped reading, can keep it from being written.

mod bound;
pub mod field;
mod output;
mod panic;
mod queue;
pub mod record;
mod settings;
mod writer;

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::queue::{Kind, Line};
pub use self::{
    bound::{IN_ALL, PER_ADDRESS},
    output::OpenError,
    panic::{report_panics, state_panics},
    queue::{Log, Queue},
    settings::{Destination, Settings, SettingsError},
    writer::Running,
};

/// The target of audit records in this program's sources.
pub const AUDIT: &str = "audit";

/// The name, in this program's sources, of an audit record of what an operator did. Such records have a queue of their own, which nothing
/// that comes from outside can fill.
pub const ACT: &str = "act";

/// What can go wrong before anything is logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A variable does not say what it should.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The thread that writes could not be started.
    #[error("the thread that writes the log could not be started: {0}")]
    Thread(std::io::Error),
}

/// Starts logging. Keep what is returned: dropping it writes what still waits.
pub fn start(settings: &Settings) -> Result<Running, LogError> {
    let running = writer::start(settings)?;
    let queue = running.queue();
    // What an operator did is written down whatever else is of interest.
    let audit = filter_fn(|of: &Metadata<'_>| of.target() == AUDIT && *of.level() <= Level::INFO);
    let filter = EnvFilter::builder().parse_lossy(&settings.filter).or(audit);
    let registry = tracing_subscriber::registry();
    // A second start in one process, as in a test, keeps the first one's subscriber.
    let _ = match settings.form {
        record::Form::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(queue)
                    .with_filter(filter),
            )
            .try_init(),
        record::Form::Text => registry
            .with(
                fmt::layer()
                    .with_ansi(settings::colour())
                    .with_writer(queue)
                    .with_filter(filter),
            )
            .try_init(),
    };
    Ok(running)
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line::new(self.clone(), Kind::Own)
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Line {
        let kind = match (of.target() == AUDIT, of.name() == ACT) {
            (true, true) => Kind::Act,
            (true, false) => Kind::Audit,
            (false, _) => Kind::Own,
        };
        Line::new(self.clone(), kind)
    }
}
