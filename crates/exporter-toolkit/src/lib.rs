//! A web server library for Prometheus exporters, as Prometheus' exporter-toolkit is for exporters in Go: TLS, client
//! certificates, basic authentication, headers and a rate limit, configured by one file in the same format
//! (`--web.config.file`), and a connection limit that clients cannot exhaust.
//!
//! ```
//! use std::sync::Arc;
//!
//! use axum::{Router, middleware, routing::get};
//! use exporter_toolkit::address::ListenAddress;
//! use exporter_toolkit::server::{Server, ServerLimits, bind, serve};
//! use exporter_toolkit::web_config::{SharedWebConfig, WebConfig, authenticate};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("web.yml");
//! # std::fs::write(&path, "{}")?;
//! let web_config = WebConfig::load_stable(&path).await.config?;
//! let web_config = Arc::new(SharedWebConfig::new(web_config).with_realm("my-exporter"));
//! let router = Router::new()
//!     .route("/metrics", get("up 1\n"))
//!     .layer(middleware::from_fn_with_state(Arc::clone(&web_config), authenticate));
//! let address = ListenAddress { host: "localhost".to_owned(), port: 0 };
//! let server = Server {
//!     listeners: vec![bind(&address, "--web.listen-address").await?],
//!     router,
//!     limits: ServerLimits::from_rlimit(),
//!     web_config: Some(web_config),
//!     name: "web",
//! };
//! let shutdown = CancellationToken::new();
//! # shutdown.cancel();
//! serve(vec![server], Arc::default(), shutdown).await;
//! # Ok(())
//! # }
//! ```
//!
//! | module | purpose |
//! | --- | --- |
//! | [`web_config`] | the web configuration file: TLS, client certificates, basic authentication, headers, rate limit |
//! | [`server`] | listeners, connections and their limits |
//! | [`request_limiter`] | limits concurrent requests, fairly among clients |
//! | [`host`] | validates the `Host` header, and checks whether the host is allowed |
//! | [`address`] | listen addresses |
//! | [`liveness`] | reports stalled loops to a watchdog |
//! | [`diagnostic`] | errors and warnings of a configuration |
//! | [`yaml`], [`bounded_file`] | parses YAML files; reads files with limits of size and time |

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod address;
pub mod bounded_file;
mod client_network;
pub mod diagnostic;
pub mod host;
pub mod liveness;
pub mod request_limiter;
pub mod server;
mod sync;
pub mod web_config;
pub mod yaml;
