//! The log of an exporter in this process.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;

/// Captures the log events of the current thread. A runtime with paused time runs all tasks on it.
pub struct LogCapture {
    buffer: SharedBuffer,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for SharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogCapture {
    /// Captures events of all levels down to `DEBUG` until it is dropped.
    #[must_use]
    pub fn start() -> Self {
        let buffer = SharedBuffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::DEBUG)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        Self {
            buffer,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// Returns the lines with this level and this text, such as a message or a field.
    pub fn lines(&self, level: &str, text: &str) -> Vec<String> {
        let log = String::from_utf8(self.buffer.0.lock().unwrap().clone()).unwrap();
        let lines = log.lines().filter(|line| {
            let line = line.trim_start();
            line.starts_with(level) && line.contains(text)
        });
        lines.map(str::to_owned).collect()
    }

    /// Returns their number.
    pub fn count(&self, level: &str, text: &str) -> usize {
        self.lines(level, text).len()
    }
}
