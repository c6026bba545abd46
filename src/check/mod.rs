//! Validates configuration, credentials, API access and rate limits, and reports all findings at once.
//!
//! | module | purpose |
//! | --- | --- |
//! | `findings` | findings and their severity |
//! | `local` | checks that send no request: configuration, files, addresses |
//! | `exemptions` | exemptions that ended, end soon, or match no key |
//! | `remote` | checks that contact Atlas: tokens, access to each organization, the clock |
//! | `client_secret` | expiry of the client secret of a service account |
//! | `rate_limit` | requests of a poll, compared with the rate limit |
//! | `health` | health of the running exporter |

mod client_secret;
mod exemptions;
mod findings;
mod health;
mod local;
mod rate_limit;
mod remote;

use mongodb_atlas_client::{Clock, TransportFactory};

pub use findings::{Component, Finding, Severity};
pub use health::probe_running_exporter;

use crate::cli::Args;
use crate::config::{self, Config, Diagnostic};
use crate::credentials::Environment;
use findings::Topic;

/// Dependencies of the checks.
pub struct CheckContext {
    /// The clock.
    pub clock: Clock,
    /// Creates connections to Atlas; `None` skips all checks that contact Atlas.
    pub transport_factory: Option<TransportFactory>,
}

/// Checks the configuration from these arguments and this environment. Continues after an error, and returns all findings.
pub async fn run(args: &Args, environment: &Environment, context: &CheckContext) -> Vec<Finding> {
    let (config, errors) = Config::load_lenient(args, environment);
    let mut findings = local::check_configuration(config.as_ref(), &errors);
    let Some(config) = config else {
        return findings;
    };
    findings.extend(local::check_proxy(&config));
    findings.extend(local::check_web_config(config.web_config_file.as_deref()).await);
    findings.extend(local::check_credentials(&config));
    findings.extend(exemptions::check_ends(&config, context.clock.now()));
    findings.push(local::check_storage(config.storage_path.as_deref()).await);
    findings.extend(local::check_listeners(&config).await);
    let topic = Topic::new(Component::Organization, "all");
    match &context.transport_factory {
        None => findings.push(topic.skipped("skipped: --offline is set")),
        // With an invalid base URL, the default base URL would receive the credential.
        Some(_) if errors.iter().any(concerns_atlas_address) => {
            findings.push(topic.skipped("skipped: the base URL or the proxy is invalid"));
        }
        Some(factory) => {
            findings.extend(remote::check_all(&config, factory, &context.clock).await);
        }
    }
    findings
}

/// Returns whether an error concerns the base URL of Atlas or the proxy.
fn concerns_atlas_address(error: &Diagnostic) -> bool {
    let error = config::describe(error).to_ascii_lowercase();
    ["base-url", "base_url", "proxy"]
        .iter()
        .any(|name| error.contains(name))
}
