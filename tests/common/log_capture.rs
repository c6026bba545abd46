//! The log of an exporter in this process.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Once;

use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;

type SharedLog = Rc<RefCell<Vec<u8>>>;

thread_local! {
    /// The log of this thread during a capture.
    static CAPTURED: RefCell<Option<SharedLog>> = const { RefCell::new(None) };
}

fn is_captured() -> bool {
    CAPTURED.with_borrow(Option::is_some)
}

struct ThreadLog;

impl Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        CAPTURED.with_borrow(|log| {
            if let Some(log) = log {
                log.borrow_mut().extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Captures the log events of the current thread at level `DEBUG` and above, until it is dropped. A runtime with paused
/// time runs all tasks on one thread.
pub struct LogCapture {
    log: SharedLog,
}

impl LogCapture {
    #[must_use]
    pub fn start() -> Self {
        static SUBSCRIBER: Once = Once::new();
        // All threads share a subscriber. A subscriber of one thread would miss events that another thread logged first,
        // because tracing caches whether a subscriber is interested in an event.
        SUBSCRIBER.call_once(|| {
            let layer = tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .without_time()
                .with_writer(|| ThreadLog)
                .with_filter(dynamic_filter_fn(|metadata, _| {
                    *metadata.level() <= Level::DEBUG && is_captured()
                }));
            let subscriber = tracing_subscriber::registry().with(layer);
            tracing::subscriber::set_global_default(subscriber).unwrap();
            tracing::callsite::rebuild_interest_cache();
        });
        let log = SharedLog::default();
        CAPTURED.set(Some(Rc::clone(&log)));
        Self { log }
    }

    /// Returns the lines with this level that contain `text`, such as a message or a field.
    pub fn lines(&self, level: &str, text: &str) -> Vec<String> {
        let log = String::from_utf8(self.log.borrow().clone()).unwrap();
        let lines = log.lines().filter(|line| {
            let line = line.trim_start();
            line.starts_with(level) && line.contains(text)
        });
        lines.map(str::to_owned).collect()
    }

    /// Returns the number of lines with this level that contain `text`.
    pub fn count(&self, level: &str, text: &str) -> usize {
        self.lines(level, text).len()
    }
}

impl Drop for LogCapture {
    fn drop(&mut self) {
        CAPTURED.set(None);
    }
}
