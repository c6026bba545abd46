//! The HTTP handlers: metrics, service discovery, health and readiness, and the status page. No handler waits for Atlas.
//!
//! | module | purpose |
//! | --- | --- |
//! | `state` | the state that all handlers share, and the options that a reload can replace |
//! | `router` | the routes, health, readiness and reload, and the responses to unknown paths and methods |
//! | `metrics` | `/metrics` |
//! | `scope` | the series that a scrape selects |
//! | `authority` | the authority of a request; detects requests of other sites |
//! | `http_sd` | `/sd` |
//! | `ui` | `/`, the status page, and the embedded documentation |

mod authority;
mod http_sd;
mod metrics;
mod router;
mod scope;
mod state;
mod ui;

use axum::http::StatusCode;

pub use metrics::ScrapeState;
pub use router::{probe_router, router};
pub use state::{AppState, HandlerOptions, Reload, SharedHandlerOptions};
pub use ui::RenderLimiter;

/// Returns the response to an unknown path.
fn not_found() -> (StatusCode, &'static str) {
    let text = "404 Not Found. See / for available endpoints.\n";
    (StatusCode::NOT_FOUND, text)
}
