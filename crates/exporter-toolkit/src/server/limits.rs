//! Timeouts of connections, and how many may be open.

use std::time::Duration;

/// Maximum number of open connections, where the system allows so many files.
const MAX_CONNECTIONS: usize = 1024;
/// Minimum number of open connections.
const MIN_CONNECTIONS: usize = 16;
/// Open files reserved for everything but connections: outgoing connections, state, logs.
const RESERVED_FILES: u64 = 128;

/// Timeouts of connections, and how many may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Time for a TLS handshake, or for a request header from its first byte to its last.
    pub header_timeout: Duration,
    /// Time after which a response is aborted of which the client reads nothing.
    pub write_stall_timeout: Duration,
    /// Time for a whole response, from the request to the last byte read.
    pub response_timeout: Duration,
    /// Time without a request, as between two scrapes over one connection.
    pub idle_timeout: Duration,
    /// Maximum number of open connections, on all listeners of a [`Server`](super::Server) together.
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
    /// Returns the default limits, with no more connections than this process may have open files.
    pub fn from_rlimit() -> Self {
        let mut limits = Self::default();
        #[cfg(unix)]
        if let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            let max = usize::try_from(files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX);
            limits.max_connections = limits.max_connections.min(max).max(MIN_CONNECTIONS);
        }
        limits
    }

    /// Returns limits for health probes: fewer connections, which stay open for a shorter time.
    #[must_use]
    pub fn for_probes(self) -> Self {
        Self {
            idle_timeout: Duration::from_secs(90),
            max_connections: self.max_connections.min(64),
            ..self
        }
    }
}
