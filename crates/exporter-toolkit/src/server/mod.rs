//! An HTTP server with a connection limit and timeouts: HTTP/1.1, and HTTP/2 over TLS.
//!
//! | module | purpose |
//! | --- | --- |
//! | `sockets` | binds listeners, or takes the sockets that systemd passes |
//! | `accept` | accepts connections until shutdown, then drains them |
//! | `connection` | serves one connection: TLS and HTTP |
//! | `connections` | limits the number of open connections, and evicts idle ones |
//! | `connection_state` | tracks the activity of one connection, and checks its timeouts |
//! | `response` | tracks how the client reads a response |
//! | `header_limit` | limits the size of HTTP/1 request headers |
//! | `limits` | the timeouts of connections, and the connection limit |

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
