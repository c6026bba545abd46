//! The HTTP handlers: metrics, service discovery, health and readiness, and the status page. No handler waits for Atlas.
//!
//! | module | purpose |
//! | --- | --- |
//! | `state` | what handlers share, the part of the configuration they use |
//! | `router` | the routes, `/-/healthy` and `/-/ready`, and the responses to unknown paths and methods |
//! | `metrics` | `/metrics` |
//! | `scope` | the series that a scrape selects |
//! | `authority` | the authority that a request was sent to; requests that a page of another site sends |
//! | `http_sd` | `/sd` |
//! | `ui` | `/`, and the embedded documentation |

mod authority;
mod http_sd;
mod metrics;
mod router;
mod scope;
mod state;
mod ui;

pub use metrics::ScrapeState;
pub use router::{probe_router, router};
pub use state::{AppState, HandlerOptions, Reload, SharedHandlerOptions};
pub use ui::RenderLimiter;
