//! Listeners: bound all before anything is served, closed in good order.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `sockets` | opening them, or taking those that systemd hands over |
//! | `serve` | taking connections in, until the stop |
//! | `connection` | one connection: its TLS, its HTTP |
//! | `crowd` | the open connections, and which one is evicted when there are too many |
//! | `seat` | activity of one connection, and how long each part of it may take |
//! | `limits` | how patient the listeners are |

mod accept;
mod connection;
mod connection_state;
mod connections;
mod limits;
mod sockets;

pub use accept::{Server, serve};
#[cfg(test)]
pub(crate) use connection_state::ConnectionState;
pub use connection_state::ResponseHandle;
pub(crate) use connection_state::{STALLED_AFTER, mark_authorized};
pub use limits::ServerLimits;
pub use sockets::{BindError, bind, has_systemd_sockets, systemd_listeners};
