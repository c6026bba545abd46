//! Tests with other programs, which `make test` installs: one module per documented behavior.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::too_many_lines,
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and counts in small numbers"
)]

#[path = "../common/mod.rs"]
mod common;

mod alerts;
mod browser;
mod curl;
mod dashboards;
mod documents;
mod drill;
mod exposition_formats;
mod full_disk;
mod key_policy;
mod kubernetes;
mod packages;
mod prometheus;
mod release_files;
mod report;
mod resident_memory;
mod systemd;
mod terminal;
mod textfile_collector;
mod web_config;
