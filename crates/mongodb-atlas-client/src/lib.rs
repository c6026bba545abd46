//! A client for the part of the MongoDB Atlas Administration API that concerns AI model API keys: organizations, projects,
//! keys, limits, and the expiry of the service account's client secrets.
//!
//! The client authenticates with a service account (OAuth 2.0), a programmatic API key (Digest) or an access token, detects the last
//! page of a list, and waits for Atlas' token buckets before it sends a request. Responses are bounded in size, and invalid
//! fields do not invalidate a response.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use mongodb_atlas_client::{
//!     ApiVersion, Client, ClientConfig, ClientDeps, ClientObserver, Clock, Credential, ProxyRoute, StaticSecret,
//!     new_http_transport,
//! };
//!
//! struct NoopObserver;
//! impl ClientObserver for NoopObserver {}
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ClientConfig {
//!     credential_name: "default".into(),
//!     user_agent: "my-tool/1.0".to_owned(),
//!     credential: Credential::ServiceAccount {
//!         id: Arc::new(StaticSecret::new("the client id", "mdb_sa_id_…")),
//!         secret: Arc::new(StaticSecret::new("the client secret", "mdb_sa_sk_…")),
//!     },
//!     base_url: "https://cloud.mongodb.com/".parse()?,
//!     route: ProxyRoute::Direct,
//!     api_version: ApiVersion::Preview,
//!     request_timeout: Duration::from_secs(30),
//!     max_retry_wait: Duration::from_secs(60),
//! };
//! let deps = ClientDeps {
//!     transport: new_http_transport(&config)?,
//!     rate_limiter: Arc::default(),
//!     token_store: None,
//!     observer: Arc::new(NoopObserver),
//!     clock: Clock::system(),
//! };
//! let client = Client::new(config, deps)?;
//! for org in client.list_orgs().await?.items {
//!     for project in client.list_projects(&org.id, Some("owner")).await? {
//!         println!("{}: {}", org.id, project.name);
//!     }
//! }
//! client.revoke_token().await;
//! # Ok(())
//! # }
//! ```
//!
//! | module | purpose |
//! | --- | --- |
//! | `client` | the requests of one credential, with their retries |
//! | `credential`, `auth` | secrets; access tokens and Digest |
//! | `rate_limit`, `backoff` | waits before requests and after failures |
//! | `transport`, `http`, `proxy` | sending requests and receiving responses |
//! | `body` | limits on responses |
//! | `wire` | the parts of responses that are used |
//! | `pagination` | detection of the last page of a list |
//! | `error`, `observer`, `names` | errors, events, and their names |
//! | `ids`, `clock` | identifiers; the time of day |

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod auth;
mod backoff;
mod body;
mod client;
mod clock;
mod credential;
mod error;
mod http;
mod ids;
mod names;
mod observer;
mod pagination;
mod proxy;
mod rate_limit;
mod transport;
mod wire;

pub use auth::{StoredToken, TokenStore};
#[doc(hidden)]
pub use auth::{fuzz_token_response, fuzz_www_authenticate};
pub use backoff::ExponentialBackoff;
pub use body::Body;
pub use client::{ApiVersion, Client, ClientConfig, ClientDeps, ListResult, OrgList};
pub use clock::{Clock, unix_seconds};
pub use credential::{Credential, SecretError, SecretFuture, SecretSource, StaticSecret};
pub use error::{Endpoint, Error, ErrorCode, ErrorKind, FailureReason};
pub use http::new_http_transport;
pub use ids::{InvalidOrgId, KeyId, OrgId, ProjectId, stable_hash};
pub use observer::{ClientObserver, RequestOutcome, RetryReason, TokenOutcome};
pub use pagination::{NextPage, PageSummary, Pagination};
pub use proxy::{Proxy, ProxyError, ProxyRoute};
#[doc(hidden)]
pub use rate_limit::Rejection;
pub use rate_limit::{
    BucketKey, BucketParams, BucketRate, EndpointSet, RateLimiter, RequestTarget, Scope,
};
#[doc(hidden)]
pub use transport::fuzz_rate_limited;
pub use transport::{Response, Transport, TransportFactory};
pub use wire::{
    ApiKey, ApiTime, ClientSecret, InvalidItem, KeyAttributes, KeyPage, MAX_NAME_CHARS, ModelLimit,
    NextLink, OptionalFields, OrgSummary, Project,
};
#[doc(hidden)]
pub use wire::{fuzz_key_page, fuzz_rate_limits};
