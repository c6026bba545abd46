//! A simulated MongoDB Atlas Admin API for tests, demos and dashboards.
//!
//! [`SimHandle::start`] serves the AI model API key endpoints, and those for organizations, projects with their tags
//! and the secrets of the service account, over HTTP, with OAuth and Digest authentication, rate limits and
//! pagination. Keys are created, used, renamed and deleted as time passes, and [`Fault`]s make responses fail on
//! demand. The simulator is written from the API documentation and shares no code with any client, so an error in a
//! client's reading of the documentation is not repeated here. Tests validate all responses against the JSON schemas in
//! `schemas/`, which follow the published API description.
//!
//! ```
//! use mongodb_atlas_sim::{Effect, Fault, SimConfig, SimEndpoint, SimHandle};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let sim = SimHandle::start(listener, &SimConfig::default(), jiff::Timestamp::now)?;
//! println!("{}", sim.env_exports());
//!
//! // The next two requests for keys fail with HTTP 503.
//! sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, Effect::error_status(503)).times(2));
//! sim.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! | module | purpose |
//! | --- | --- |
//! | `config`, `scenario` | configuration and predefined situations |
//! | `handle`, `server`, `state` | public handle, connections, shared state |
//! | `model`, `world`, `population`, `events`, `random` | organizations, projects and keys; initial data and changes |
//! | `tags`, `service_account` | tags of projects; the service account and its secrets |
//! | `credentials`, `digest`, `buckets` | tokens, nonces, token buckets |
//! | `endpoint`, `request`, `response`, `handlers`, `pages`, `page_cache`, `keys`, `oauth` | API endpoints |
//! | `faults`, `body` | fault injection, malformed bodies |
//! | `control` | control endpoint below `/sim` |

#![expect(
    clippy::result_large_err,
    reason = "an error response is built at most once per request"
)]

mod body;
mod buckets;
mod config;
mod control;
mod credentials;
mod digest;
mod endpoint;
mod events;
mod faults;
mod handle;
mod handlers;
mod keys;
mod model;
mod oauth;
mod page_cache;
mod pages;
mod population;
mod random;
mod request;
mod response;
mod scenario;
mod server;
mod service_account;
mod state;
mod tags;
mod world;

pub use buckets::{BucketConfig, BucketScope};
pub use config::SimConfig;
pub use credentials::SimCredentials;
pub use endpoint::SimEndpoint;
pub use faults::{Effect, ErrorBodyFormat, Fault};
pub use handle::SimHandle;
pub use model::{ChangeKind, LoggedChange, SimKey, SimProject, SimTag};
pub use scenario::Scenario;
pub use service_account::{SimSecret, SimServiceAccount};
pub use state::LoggedRequest;
pub use world::World;
