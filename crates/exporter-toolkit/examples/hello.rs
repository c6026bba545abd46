//! A complete exporter with TLS and basic authentication: `cargo run --example hello -- web.yml`.
//!
//! ```yaml
//! tls_server_config:
//!   cert_file: server.pem
//!   key_file: server.key
//! basic_auth_users:
//!   prometheus: $2y$10$…  # htpasswd -nBC 10 "" | tr -d ':\n'
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use exporter_toolkit::address::ListenAddress;
use exporter_toolkit::server::{Server, ServerLimits, bind, serve};
use exporter_toolkit::web_config::{SharedWebConfig, WebConfig, authenticate};
use tokio_util::sync::CancellationToken;

static SCRAPES: AtomicU64 = AtomicU64::new(0);

async fn metrics() -> String {
    let scrapes = SCRAPES.fetch_add(1, Ordering::Relaxed) + 1;
    format!("# TYPE hello_scrapes_total counter\nhello_scrapes_total {scrapes}\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let web_config = match std::env::args_os().nth(1) {
        Some(file) => WebConfig::load_stable(Path::new(&file)).await.config?,
        None => WebConfig::default(),
    };
    let web_config = Arc::new(SharedWebConfig::new(web_config).with_realm("hello"));
    let authentication = from_fn_with_state(Arc::clone(&web_config), authenticate);
    let (host, port) = (String::new(), 9999);
    let listener = bind(&ListenAddress { host, port }, "--web.listen-address").await?;
    let server = Server {
        listeners: vec![listener],
        router: Router::new()
            .route("/metrics", get(metrics))
            .layer(authentication),
        limits: ServerLimits::from_rlimit(),
        web_config: Some(web_config),
        name: "web",
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    serve(vec![server], Arc::default(), shutdown).await;
    Ok(())
}
