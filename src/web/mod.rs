//! What is served: the metrics, discovery, health and readiness, and a page for people. Nothing
//! here ever waits for Atlas.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `router` | every path, and what a wrong one is told |
//! | `metrics`, `choice` | `/metrics`; which organizations a request asks for |
//! | `cross_site` | requests that another site's page has made a browser send |
//! | `http_sd` | `/sd` |
//! | `health` | `/-/healthy` and `/-/ready` |
//! | `ui` | `/` |
//! | `options` | what the routes are told of the configuration |

mod cross_site;
mod health;
mod http_sd;
mod metrics;
mod options;
mod org_filter;
mod router;
mod ui;

pub use metrics::ScrapeState;
pub use options::{HandlerOptions, Reload, SharedHandlerOptions};
pub use router::{AppState, probe_router, router};
pub use ui::{RenderLimiter, has_description};
