//! Everything that can be wrong, found at once and before the first alert is missed: each finding
//! says what it is about, what is the matter, and what to do.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `findings` | one finding, and how bad it is |
//! | `local` | what can be found without a request: configuration, files, addresses |
//! | `remote` | what Atlas says: tokens, each organization's access, the clock |
//! | `rate_limit` | what a round costs, against what Atlas allows |
//! | `health` | the exporter that runs |

mod findings;
mod health;
mod local;
mod rate_limit;
mod remote;

pub use findings::{Component, Finding, Severity};
pub use health::probe_running_exporter;

use crate::cli::Args;
use crate::config;
use crate::credentials::Environment;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::TransportFactory;

/// What a check needs beside the configuration.
pub struct CheckContext {
    /// The time of day.
    pub clock: Clock,
    /// The way to Atlas; none to leave the network alone.
    pub transport_factory: Option<TransportFactory>,
}

/// Checks all that these arguments and this environment lead to. What is wrong in one place keeps
/// nothing else from being checked, as far as it can be.
pub async fn run(args: &Args, environment: &Environment, means: &CheckContext) -> Vec<Finding> {
    let (config, mistakes) = config::load_lenient(args, environment);
    let mut findings = local::check_configuration(config.as_ref(), &mistakes);
    let Some(config) = config else {
        return findings;
    };
    findings.extend(local::check_proxy(&config));
    findings.extend(local::check_web_config(config.web_config_file.clone()).await);
    findings.extend(local::check_credentials(&config));
    findings.extend(local::check_storage(config.storage_path.as_deref()).await);
    findings.extend(local::check_listeners(&config).await);
    match &means.transport_factory {
        // a default in its place would be sent the credential
        Some(_)
            if mistakes
                .iter()
                .any(|mistake| concerns_atlas_address(mistake)) =>
        {
            findings.push(Finding::skipped(
                Component::Organization,
                "all",
                "skipped: the base URL or the proxy is invalid",
            ));
        }
        Some(connect) => findings.extend(remote::check_all(&config, connect, &means.clock).await),
        None => findings.push(Finding::skipped(
            Component::Organization,
            "all",
            "nothing was asked of Atlas, as --offline says",
        )),
    }
    findings
}

/// Whether an error is about where requests to Atlas go.
fn concerns_atlas_address(mistake: &str) -> bool {
    let mistake = mistake.to_ascii_lowercase();
    ["base-url", "base_url", "proxy"]
        .iter()
        .any(|name| mistake.contains(name))
}
