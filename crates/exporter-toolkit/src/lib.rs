//! What Prometheus' exporter-toolkit is for exporters in Go: a web server with TLS, client certificates, basic
//! authentication, headers and a rate limit, configured by one file in the same format (`--web.config.file`), and limits
//! on connections that a hostile network cannot exhaust.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`web_config`] | the web configuration file: TLS, client certificates, basic authentication, headers, rate limit |
//! | [`server`] | listeners, connections and their limits |
//! | [`request_limiter`] | limits concurrent requests, fairly among clients |
//! | [`host`] | the `Host` header: validation, and the hosts that are allowed |
//! | [`address`] | listen addresses |
//! | [`liveness`] | reports stalled loops to a watchdog |
//! | [`yaml`], [`bounded_file`] | YAML files, and files read within bounds of size and time |

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod address;
pub mod bounded_file;
pub mod host;
pub mod liveness;
pub mod request_limiter;
pub mod server;
pub mod web_config;
pub mod yaml;
