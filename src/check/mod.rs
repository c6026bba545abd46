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
use crate::config::Config;
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
    let loaded = Config::load_lenient(args, environment);
    let mut findings = local::check_configuration(&loaded);
    let Some(config) = &loaded.config else {
        return findings;
    };
    findings.extend(local::check_proxy(&loaded));
    findings.extend(local::check_web_config(&loaded).await);
    findings.extend(local::check_credentials(config));
    findings.extend(exemptions::check_ends(config, context.clock.now()));
    findings.push(local::check_storage(&loaded).await);
    findings.extend(local::check_listeners(&loaded).await);
    let topic = Topic::new(Component::Organization, "all");
    match &context.transport_factory {
        None => findings.push(topic.skipped("skipped: --offline is set")),
        // The default base URL would receive a credential that is for another base URL.
        Some(_) if loaded.is_file_unusable => findings.push(topic.skipped(local::FILE_UNUSABLE)),
        Some(_) if loaded.is_atlas_address_unknown => {
            findings
                .push(topic.skipped("skipped: the base URL or the proxy is invalid or unknown"));
        }
        Some(factory) => {
            findings.extend(remote::check_all(config, factory, &context.clock).await);
        }
    }
    findings
}
