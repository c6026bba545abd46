//! How patient the listeners are.

use std::time::Duration;

/// Open connections at once, where the system allows so many files.
const MAX_CONNECTIONS: usize = 1024;
/// Files that are kept for everything else: Atlas, state, logs.
const RESERVED_FILES: u64 = 128;

/// How patient the listeners are with connections, and how many of them they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// A TLS handshake, or the head of a request from its first byte to its last.
    pub header_timeout: Duration,
    /// A response of which the client takes nothing for this long is cut off.
    pub write_stall_timeout: Duration,
    /// A whole answer, from the request to the last byte taken.
    pub response_timeout: Duration,
    /// Nothing at all: a connection kept alive between two scrapes.
    pub idle_timeout: Duration,
    /// Open connections at once, on all listeners of a kind together.
    pub max_connections: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            write_stall_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_mins(5),
            idle_timeout: Duration::from_mins(5),
            max_connections: MAX_CONNECTIONS,
        }
    }
}

impl ServerLimits {
    /// The default, with no more connections than this process may have files open.
    pub fn from_rlimit() -> Self {
        let mut limits = Self::default();
        #[cfg(unix)]
        if let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            let most = usize::try_from(files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX);
            limits.max_connections = limits.max_connections.min(most).max(16);
        }
        limits
    }

    /// For health alone: fewer connections, and shorter ones.
    #[must_use]
    pub fn for_probes(self) -> Self {
        Self {
            idle_timeout: Duration::from_secs(90),
            max_connections: self.max_connections.min(64),
            ..self
        }
    }
}
