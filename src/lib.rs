//! Prometheus exporter for MongoDB Atlas AI model API keys.
//!
//! Data flows in one direction:
//!
//! ```text
//! configuration ─► Atlas client ─► walk ─► builder ─► inventory ─► store ─► snapshot ─► exposition ─► HTTP
//!                                  └─────── poll ───────────────────┘        └─────── scrape ───────┘
//! ```
//!
//! A *walk* reads every page of one organization. A *poll* is one scheduled collection of an organization. Only a
//! complete poll becomes an *inventory*: an immutable value that replaces the previous one in the *store* as a whole. A
//! scrape takes a *snapshot* of the store; it never waits for Atlas or for another scrape.
//!
//! A module imports only from modules below it in this table; a test checks the order.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`commands`] | the commands, from their arguments to the exit code |
//! | [`check`] | validates configuration, credentials, API access and rate limits |
//! | [`app`] | wires the modules into a running exporter; reloads, systemd, one-shot runs |
//! | [`web`] | HTTP handlers and the status page |
//! | [`config`] | merges flags, environment and file into one validated configuration |
//! | [`metrics`] | metric families and the exposition |
//! | [`status`] | state of each organization |
//! | [`poll`] | scheduler, walks and change detection |
//! | [`storage`] | state kept across restarts |
//! | [`inventory`] | keys of an organization, the store, the key query |
//! | [`key_policy`] | owners of projects, and exemptions of keys |
//! | [`failure`], [`humanize`] | explanations of failures; durations and counts as text |
//! | [`cli`] | the table of flags |
//! | [`credentials`] | locations of secrets, and how secrets are read |
//! | [`shard`], [`logging`], `closed_list` | subsets of the organizations; logs; enums with names |
//!
//! The Atlas API is in the crate `mongodb-atlas-client`, the HTTP server in `exporter-toolkit`, the simulated Atlas in
//! `mongodb-atlas-sim`.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

#[cfg(not(unix))]
compile_error!(
    "unsupported platform: the exporter needs Unix signals, file modes and resource limits"
);

pub mod app;
pub mod check;
pub mod cli;
mod closed_list;
pub mod commands;
pub mod config;
pub mod credentials;
pub mod failure;
pub mod humanize;
pub mod inventory;
pub mod key_policy;
pub mod logging;
pub mod metrics;
pub mod poll;
pub mod shard;
pub mod status;
pub mod storage;
pub mod web;

/// The `User-Agent` header of requests to Atlas.
const USER_AGENT: &str = concat!("atlas-ai-keys-exporter/", env!("CARGO_PKG_VERSION"));
