//! What is served: the metrics, health and readiness, and a page that names them. Nothing here
//! ever waits for Atlas.

mod listen;
mod routes;
mod scrapes;
mod settings;

pub use listen::{BindError, Patience, bind, serve};
pub use routes::{App, router};
pub use scrapes::Scrapes;
pub use settings::{Reload, Settings, SharedSettings};
