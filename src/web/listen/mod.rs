//! Listeners: bound all before anything is served, closed in good order.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `sockets` | opening them, or taking those that systemd hands over |
//! | `serve` | taking connections in, until the stop |
//! | `connection` | one connection: its TLS, its HTTP |
//! | `crowd` | the open connections, and who has to go when there are too many |
//! | `seat` | what one connection is doing, and for how long it may |
//! | `limits` | how patient the listeners are |

mod connection;
mod crowd;
mod limits;
mod seat;
mod serve;
mod sockets;

pub use limits::Limits;
pub use serve::{Door, serve};
pub use sockets::{BindError, bind, handed_over, hands_over};
