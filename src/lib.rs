//! Prometheus exporter for MongoDB Atlas AI model API keys.
//!
//! Data goes one way, and no way back:
//!
//! ```text
//! configuration ─► Atlas client ─► walk ─► inventory ─► exposition ─► HTTP
//!    (config)        (atlas)      (poll)  (inventory)   (metrics)    (web)
//! ```
//!
//! A *walk* reads every page of one organization. Only a complete walk becomes an *inventory*: an
//! immutable value that is swapped in whole. A scrape reads the inventories that stand at that
//! moment; it never waits for Atlas or for another scrape.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`cli`], [`config`] | the command line; what it means, checked |
//! | [`credentials`] | where secrets come from |
//! | [`poll`] | walks, and when they happen |
//! | [`inventory`] | the keys of an organization, and the shelf where inventories stand |
//! | [`metrics`] | every metric family, and the exposition |
//! | [`web`] | listeners, who is let in, routes, the page |
//! | [`check`] | everything that can be wrong, found at once |
//! | [`app`], [`commands`] | the rooms put together; what each command does |
//! | [`storage`] | state that survives a restart |
//! | [`status`] | the state of each organization |
//! | [`logging`], [`shard`] | logs; shares of the organizations |

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod app;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod credentials;
pub mod inventory;
pub mod logging;
pub mod metrics;
pub mod poll;
pub mod shard;
pub mod status;
pub mod storage;
pub mod web;

/// The `User-Agent` header of requests to Atlas.
const USER_AGENT: &str = concat!("atlas-ai-keys-exporter/", env!("CARGO_PKG_VERSION"));
