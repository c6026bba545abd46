//! The HTTP handlers: metrics, service discovery, health and readiness, and the status page. No handler waits for Atlas.
//!
//! | module | purpose |
//! | --- | --- |
//! | `state`, `options` | what handlers share; the part of the configuration they use |
//! | `router` | the routes, and the responses to unknown paths and methods |
//! | `metrics`, `org_filter` | `/metrics`; the organizations that a request selects |
//! | `cross_site` | requests that a page of another site sends |
//! | `http_sd` | `/sd` |
//! | `health` | `/-/healthy` and `/-/ready` |
//! | `ui` | `/`, and the embedded documentation |

mod cross_site;
mod health;
mod http_sd;
mod metrics;
mod options;
mod org_filter;
mod router;
mod state;
mod ui;

pub use metrics::ScrapeState;
pub use options::{HandlerOptions, Reload, SharedHandlerOptions};
pub use router::{probe_router, router};
pub use state::AppState;
pub use ui::RenderLimiter;
