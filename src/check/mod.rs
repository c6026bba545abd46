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
//! | `advice` | what an error of Atlas means to a person, and what to do |

mod advice;
mod findings;
mod health;
mod local;
mod rate_limit;
mod remote;

pub use findings::{Area, Finding, Grade};
pub use health::running;

use crate::cli::Args;
use crate::config;
use crate::credentials::Environment;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::Connect;

/// What a check needs beside the configuration.
pub struct Means {
    /// The time of day.
    pub clock: Clock,
    /// The way to Atlas; none to leave the network alone.
    pub connect: Option<Connect>,
}

/// Checks all that these arguments and this environment lead to. What is wrong in one place keeps
/// nothing else from being checked, as far as it can be.
pub async fn all(args: &Args, environment: &Environment, means: &Means) -> Vec<Finding> {
    let (config, mistakes) = config::examine(args, environment);
    let mut findings = local::configuration(config.as_ref(), &mistakes);
    let Some(config) = config else {
        return findings;
    };
    findings.extend(local::proxy(&config));
    findings.extend(local::web(config.web_file.clone()).await);
    findings.extend(local::credentials(&config));
    findings.extend(local::storage(config.storage.as_deref()).await);
    findings.extend(local::listeners(&config).await);
    match &means.connect {
        // a default in its place would be sent the credential
        Some(_)
            if mistakes
                .iter()
                .any(|mistake| names_the_way_to_atlas(mistake)) =>
        {
            findings.push(Finding::skipped(
                Area::Organization,
                "all",
                "skipped: the base URL or the proxy is invalid",
            ));
        }
        Some(connect) => findings.extend(remote::all(&config, connect, &means.clock).await),
        None => findings.push(Finding::skipped(
            Area::Organization,
            "all",
            "nothing was asked of Atlas, as --offline says",
        )),
    }
    findings
}

/// Whether an error is about where requests to Atlas go.
fn names_the_way_to_atlas(mistake: &str) -> bool {
    let mistake = mistake.to_ascii_lowercase();
    ["base-url", "base_url", "proxy"]
        .iter()
        .any(|name| mistake.contains(name))
}
