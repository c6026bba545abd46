//! All that knows the Atlas Administration API: how to ask, how to authenticate, what the answers
//! mean and what can go wrong.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `client` | one credential's requests, each tried again where that is right |
//! | `auth` | access tokens and Digest |
//! | `transport` | the HTTP client, and the bounds on what it takes in |
//! | `wire`, `lenient` | the page of keys as it comes over the wire |
//! | `error` | problems and the reasons they are counted under |
//! | `observer` | what others are told of the requests |

mod auth;
mod client;
mod error;
mod lenient;
mod observer;
mod transport;
mod wire;

pub use client::{Client, ClientConfig, Version};
pub use error::{Endpoint, Error, ErrorCode, Problem, Reason};
pub use observer::{Observer, Outcome, Retry, TokenOutcome};
pub use wire::{ApiKey, KeyPage, Malformed, Next, When};
