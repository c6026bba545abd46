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

mod connection;
mod crowd;
mod limits;
mod seat;
mod serve;
mod sockets;

pub use limits::Limits;
#[cfg(test)]
pub(super) use seat::ConnectionState;
pub(super) use seat::{ResponseHandle, STALLED_AFTER, mark_authorized};
pub use serve::{Door, serve};
pub use sockets::{BindError, bind, handed_over, hands_over};
