//! Structured logs on standard error.
//!
//! Only this crate's own events are written, whatever the level: the HTTP libraries' trace output
//! would show headers, and headers hold secrets.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// From which level on events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(LevelFilter);

impl LogLevel {
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

/// Begins to write logs, for the whole process. A second call changes nothing.
pub fn start(level: LogLevel, format: LogFormat) {
    let own = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level.0);
    let layer = match format {
        LogFormat::Logfmt => tracing_logfmt::builder()
            .with_target(false)
            .with_span_name(false)
            .with_span_path(false)
            .layer()
            .with_writer(io::stderr)
            .with_filter(own)
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_writer(io::stderr)
            .with_filter(own)
            .boxed(),
    };
    // the only error is that somebody has begun already
    let _ = tracing_subscriber::registry().with(layer).try_init();
}
