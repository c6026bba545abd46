//! Structured logs on standard error.
//!
//! Only this crate's own events are written, whatever the level: the HTTP libraries' trace output
//! would show headers, and headers hold secrets.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

/// From which level on events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(LevelFilter);

impl LogLevel {
    /// What may need somebody, and nothing else.
    pub const WARN: Self = Self(LevelFilter::WARN);

    /// The level of that name.
    pub fn named(name: &str) -> Option<Self> {
        Some(Self(match name {
            "error" => LevelFilter::ERROR,
            "warn" => LevelFilter::WARN,
            "info" => LevelFilter::INFO,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            _ => return None,
        }))
    }
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value`, as Prometheus' own exporters.
    Logfmt,
    /// A JSON object.
    Json,
}

impl LogFormat {
    /// The format of that name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "logfmt" => Some(Self::Logfmt),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// What is written in each form; the other form is off.
struct ReloadHandles {
    logfmt: reload::Handle<Targets, Registry>,
    json: reload::Handle<Targets, Registry>,
}

/// Flushes and ends the thread that writes, when dropped.
static WRITER_GUARD: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Lines that may wait for a standard error that is not read. Past that, lines are dropped.
const MAX_BUFFERED_LINES: usize = 10_000;

static RELOAD_HANDLES: OnceLock<ReloadHandles> = OnceLock::new();

/// The crates that are logged. Dependencies are not: they could log a header with a secret.
const CRATES: [&str; 3] = [
    env!("CARGO_CRATE_NAME"),
    "exporter_toolkit",
    "mongodb_atlas_client",
];

fn level_filter(level: LogLevel, on: bool) -> Targets {
    let level = if on { level.0 } else { LevelFilter::OFF };
    Targets::new().with_targets(CRATES.map(|name| (name, level)))
}

/// Begins to write logs, for the whole process. A second call changes nothing.
pub fn init(level: LogLevel, format: LogFormat) {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_BUFFERED_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(io::stderr());
    let is = |form| level_filter(level, format == form);
    let (logfmt, logfmt_filter) = reload::Layer::new(is(LogFormat::Logfmt));
    let (json, json_filter) = reload::Layer::new(is(LogFormat::Json));
    let logfmt = tracing_logfmt::builder()
        .with_target(false)
        .with_span_name(false)
        .with_span_path(false)
        .layer()
        .with_writer(writer.clone())
        .with_filter(logfmt);
    let json = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_writer(writer)
        .with_filter(json);
    // the only error is that somebody has begun already
    let begun = tracing_subscriber::registry()
        .with(vec![logfmt.boxed(), json.boxed()])
        .try_init();
    if begun.is_ok() {
        *WRITER_GUARD.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
        let _ = RELOAD_HANDLES.set(ReloadHandles {
            logfmt: logfmt_filter,
            json: json_filter,
        });
    }
}

/// Writes the lines that still wait, for a second at most, and writes no other after them.
pub fn finish() {
    drop(
        WRITER_GUARD
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(),
    );
}

/// Writes from another level on, or in another form, from now on.
pub fn reload(level: LogLevel, format: LogFormat) {
    if let Some(filters) = RELOAD_HANDLES.get() {
        // the subscriber lives as long as the process
        let _ = filters
            .logfmt
            .reload(level_filter(level, format == LogFormat::Logfmt));
        let _ = filters
            .json
            .reload(level_filter(level, format == LogFormat::Json));
    }
}
