//! Tests that need nothing but Rust: one module per documented behavior.

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

mod architecture;
mod audit_log;
mod authentication;
mod change_detection;
mod check;
mod client_secrets;
mod configuration;
mod discovery;
mod docs_in_sync;
mod exposition;
mod faults;
mod fuzz_corpus;
mod http_client;
mod key_policy;
mod keys;
mod lifecycle;
mod memory;
mod once;
#[cfg(target_os = "linux")]
mod overload;
mod page;
mod property;
mod rate_limit;
mod reload;
mod request_count;
mod restart;
mod scheduling;
mod sd_notify;
mod secrets;
mod server;
mod walk;
mod web_config;
mod workflows;
