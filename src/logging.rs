//! Structured logs on standard error.
//!
//! Only events of this workspace are written, at every level: trace events of the HTTP libraries contain headers, and
//! headers contain secrets.

mod line_format;

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use mongodb_atlas_client::Clock;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

use line_format::LineFormat;

crate::closed_list::closed_list! {
    /// Minimum level of events.
    pub enum LogLevel {
        /// Errors.
        Error = "error",
        /// Warnings and errors.
        Warn = "warn",
        /// Informational events as well.
        Info = "info",
        /// Events for debugging as well.
        Debug = "debug",
        /// All events.
        Trace = "trace",
    }
}

crate::closed_list::closed_list! {
    /// Format of an event.
    pub enum LogFormat {
        /// `key=value`, as in the exporters of the Prometheus project.
        Logfmt = "logfmt",
        /// A JSON object.
        Json = "json",
    }
}

/// The crates that write events to the log.
const TARGETS: [&str; 4] = [
    env!("CARGO_CRATE_NAME"),
    "exporter_toolkit",
    "mongodb_atlas_client",
    "mongodb_atlas_sim",
];

/// Writes buffered events and stops the writer thread when dropped.
static WRITER_GUARD: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Buffered lines while standard error is not read. Excess lines are dropped.
const MAX_BUFFERED_LINES: usize = 10_000;

/// Handles that change the filters of both formats; the unused format is off.
static RELOAD_HANDLES: OnceLock<Vec<(LogFormat, ReloadHandle)>> = OnceLock::new();

type ReloadHandle = reload::Handle<Targets, Registry>;

fn level_filter(level: LogLevel, is_on: bool) -> Targets {
    // `LevelFilter` has the same names.
    let level = level.as_str().parse().ok();
    let level = level.filter(|_| is_on).unwrap_or(LevelFilter::OFF);
    Targets::new().with_targets(TARGETS.map(|target| (target, level)))
}

/// Initializes logging for the whole process. Later calls have no effect.
pub fn init(level: LogLevel, format: LogFormat) {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_BUFFERED_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(io::stderr());
    let mut handles = Vec::new();
    let layers = LogFormat::ALL.map(|own| {
        let (filter, handle) = reload::Layer::new(level_filter(level, own == format));
        handles.push((own, handle));
        let line_format = LineFormat {
            format: own,
            clock: Clock::system(),
        };
        tracing_subscriber::fmt::layer()
            .event_format(line_format)
            .with_writer(writer.clone())
            .with_filter(filter)
    });
    // The only error is that logging is initialized already.
    let initialized = tracing_subscriber::registry()
        .with(layers.into_iter().collect::<Vec<_>>())
        .try_init();
    if initialized.is_ok() {
        *WRITER_GUARD.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
        let _ = RELOAD_HANDLES.set(handles);
    }
}

/// Writes the buffered lines, for at most one second, and stops logging.
pub fn finish() {
    let guard = WRITER_GUARD.lock();
    drop(guard.unwrap_or_else(PoisonError::into_inner).take());
}

/// Changes the level and the format.
pub fn reload(level: LogLevel, format: LogFormat) {
    for (own, handle) in RELOAD_HANDLES.get().into_iter().flatten() {
        // The only error is a dropped subscriber, but the subscriber lives as long as the process.
        let _ = handle.reload(level_filter(level, format == *own));
    }
}
