//! All that knows the Atlas Administration API: how to ask, how to authenticate, what the answers
//! mean and what can go wrong.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `client` | one credential's requests, each tried again where that is right |
//! | `auth` | access tokens and Digest |
//! | `budget` | how many requests Atlas' token buckets bear, learnt as they are sent |
//! | `transport`, `http` | how a request gets to Atlas |
//! | `proxy` | the HTTP proxy that environment variables name |
//! | `body` | the bounds on what is taken in |
//! | `pagination` | which page of a list is the last one |
//! | `wire` | the answers as they come over the wire |
//! | `error` | problems and the reasons they are counted under |
//! | `observer` | what others are told of the requests |

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod auth;
mod body;
mod client;
mod clock;
mod credential;
mod error;
mod http;
mod ids;
mod observer;
mod pagination;
mod proxy;
mod rate_limit;
mod transport;
mod wire;

pub use auth::{StoredToken, TokenStore};
#[doc(hidden)]
pub use auth::{fuzz_token_response, fuzz_www_authenticate};
pub use body::Body;
pub use client::{ApiVersion, Client, ClientConfig, ClientDeps, OrgList};
pub use clock::{Clock, unix_seconds};
pub use credential::{Credential, SecretError, SecretFuture, SecretSource};
pub use error::{Endpoint, Error, ErrorCode, ErrorKind, FailureReason};
pub use http::new_http_transport;
pub use ids::{InvalidOrgId, KeyId, OrgId, ProjectId, stable_hash};
pub use observer::{ClientObserver, RequestOutcome, RetryReason, TokenOutcome};
pub use pagination::{NextPage, PageSummary, Pagination};
pub use proxy::{Proxy, ProxyError, ProxyRoute};
pub use rate_limit::{BucketKey, BucketParams, EndpointSet, RateLimiter, Scope};
#[doc(hidden)]
pub use transport::fuzz_rate_limited;
pub use transport::{Response, Transport, TransportFactory};
pub use wire::{
    ApiKey, ApiTime, InvalidItem, KeyPage, MAX_NAME_CHARS, ModelLimit, NextLink, OptionalFields,
    OrgSummary, Project,
};
#[doc(hidden)]
pub use wire::{fuzz_key_page, fuzz_rate_limits};
