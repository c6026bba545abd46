//! The timeouts of connections, and the connection limit.

use std::time::Duration;

/// The maximum number of open connections, if the system allows as many open files.
const MAX_CONNECTIONS: usize = 1024;
/// The minimum of the connection limit.
const MIN_CONNECTIONS: usize = 16;
/// The number of open files reserved for other purposes: outgoing connections, state files, logs.
const RESERVED_FILES: u64 = 128;

/// The timeouts of connections, and the connection limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// The timeout of a TLS handshake, and of a request header from its first to its last byte.
    pub header_timeout: Duration,
    /// The time without a read by the client after which a response is aborted.
    pub write_stall_timeout: Duration,
    /// The timeout of a whole response, from the request to the last byte read.
    pub response_timeout: Duration,
    /// The timeout of a connection without a request, for example between two scrapes.
    pub idle_timeout: Duration,
    /// The maximum number of open connections, on all listeners of a [`Server`](super::Server) together.
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
    /// Returns the default limits, with a connection limit below the process's limit of open files.
    pub fn from_rlimit() -> Self {
        let mut limits = Self::default();
        #[cfg(unix)]
        if let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            let max = usize::try_from(files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX);
            limits.max_connections = limits.max_connections.min(max).max(MIN_CONNECTIONS);
        }
        limits
    }

    /// Returns the limits for health probes: fewer connections and a shorter idle timeout.
    #[must_use]
    pub fn for_probes(self) -> Self {
        Self {
            idle_timeout: Duration::from_secs(90),
            max_connections: self.max_connections.min(64),
            ..self
        }
    }
}
