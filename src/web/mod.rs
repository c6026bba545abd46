//! What is served: the metrics, discovery, health and readiness, and a page for people. Nothing
//! here ever waits for Atlas.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `address`, `listen` | where to listen; sockets, connections and their limits |
//! | `access` | TLS, client certificates, passwords: `--web.config.file` |
//! | `routes` | every path, and what a wrong one is told |
//! | `scrapes`, `choice` | `/metrics`; which organizations a request asks for |
//! | `cross_site` | requests that another site's page has made a browser send |
//! | `request_limiter` | concurrent scrapes and pages, fairly among clients |
//! | `host` | the host that a request names, and which are answered |
//! | `discovery` | `/sd` |
//! | `health` | `/-/healthy` and `/-/ready` |
//! | `page` | `/` |
//! | `settings` | what the routes are told of the configuration |

mod access;
mod address;
mod choice;
mod cross_site;
mod discovery;
mod health;
mod host;
mod listen;
mod page;
mod request_limiter;
mod routes;
mod scrapes;
mod settings;

pub use access::{Access, AccessError, ContentDigest, Loaded, SharedAccess};
pub use address::ListenAddress;
pub use host::AllowedHosts;
pub use listen::{BindError, Door, Limits, bind, handed_over, hands_over, serve};
pub use page::{Board, Readers, has_words_for};
pub use routes::{App, probes, router};
pub use scrapes::Scrapes;
pub use settings::{Reload, Settings, SharedSettings};
