//! Everything that can be wrong, found at once and before the first alert is missed: each finding
//! says what it is about, what is the matter, and what to do.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `finding` | one finding, and how bad it is |
//! | `here` | what can be found without a request: configuration, files, addresses |
//! | `atlas` | what Atlas says: tokens, each organization's access, the clock |
//! | `budget` | what a round costs, against what Atlas allows |
//! | `running` | the exporter that runs |
//! | `advice` | what an error of Atlas means to a person, and what to do |

mod advice;
mod atlas;
mod budget;
mod finding;
mod here;
mod running;

pub use finding::{Area, Finding, Grade};
pub use running::running;

use crate::atlas::Connect;
use crate::cli::Args;
use crate::clock::Clock;
use crate::config;
use crate::credentials::Environment;

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
    let mut findings = here::configuration(config.as_ref(), &mistakes);
    let Some(config) = config else {
        return findings;
    };
    findings.extend(here::proxy(&config));
    findings.extend(here::web(config.web_file.clone()).await);
    findings.extend(here::credentials(&config));
    findings.extend(here::storage(config.storage.as_deref()).await);
    findings.extend(here::listeners(&config).await);
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
        Some(connect) => findings.extend(atlas::all(&config, connect, &means.clock).await),
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
