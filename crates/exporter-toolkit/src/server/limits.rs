//! How patient the listeners are.

use std::time::Duration;

/// Open connections at once, where the system allows so many files.
const CONNECTIONS: usize = 1024;
/// Files that are kept for everything else: Atlas, state, logs.
const OTHER_FILES: u64 = 128;

/// How patient the listeners are with connections, and how many of them they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A TLS handshake, or the head of a request from its first byte to its last.
    pub head: Duration,
    /// A response of which the client takes nothing for this long is cut off.
    pub rest: Duration,
    /// A whole answer, from the request to the last byte taken.
    pub answer: Duration,
    /// Nothing at all: a connection kept alive between two scrapes.
    pub idle: Duration,
    /// Open connections at once, on all listeners of a kind together.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            rest: Duration::from_secs(5),
            answer: Duration::from_mins(5),
            idle: Duration::from_mins(5),
            connections: CONNECTIONS,
        }
    }
}

impl Limits {
    /// The default, with no more connections than this process may have files open.
    pub fn of_this_process() -> Self {
        let mut limits = Self::default();
        #[cfg(unix)]
        if let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            let most = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
            limits.connections = limits.connections.min(most).max(16);
        }
        limits
    }

    /// For health alone: fewer connections, and shorter ones.
    #[must_use]
    pub fn for_probes(self) -> Self {
        Self {
            idle: Duration::from_secs(90),
            connections: self.connections.min(64),
            ..self
        }
    }
}
