//! HTTP server with connection limits: HTTP/1.1, and HTTP/2 over TLS.
//!
//! | module | purpose |
//! | --- | --- |
//! | `sockets` | binds listeners, or takes those of systemd's socket activation |
//! | `accept` | accepts connections until shutdown, then drains them |
//! | `connection` | serves one connection: TLS and HTTP |
//! | `connections` | limits open connections, evicting idle ones |
//! | `connection_state` | activity of one connection, and its timeouts |
//! | `response` | tracks how the client reads a response |
//! | `header_limit` | limits the size of HTTP/1 request headers |
//! | `limits` | timeouts and the connection limit |

mod accept;
mod connection;
mod connection_state;
mod connections;
mod header_limit;
mod limits;
mod response;
mod sockets;

pub use accept::{Server, serve};
#[cfg(test)]
pub(crate) use connection_state::ConnectionState;
pub use limits::ServerLimits;
pub use response::ResponseHandle;
pub(crate) use response::STALLED_AFTER;
pub use sockets::{BindError, bind, has_systemd_sockets, systemd_listeners};
