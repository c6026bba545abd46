//! Checks that contact Atlas: tokens, access to each organization, the clock.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use mongodb_atlas_client::{
    Client, ClientConfig, ClientDeps, ClientObserver, Clock, Endpoint, Error, ErrorKind,
    OptionalFields, OrgId, RateLimiter, TransportFactory,
};

use super::client_secret::expiry_finding;
use super::exemptions::ExemptionMatches;
use super::findings::{Component, Finding, Topic};
use super::rate_limit::{OrgLoad, check_loads};
use crate::config::{Config, CredentialConfig};
use crate::credentials::CredentialKind;
use crate::failure::{self, Diagnosis};
use crate::humanize::exact;
use crate::poll::MAX_ACCOUNT_ORGS;

/// Maximum wait before a rate limited request is retried; short, because the command is interactive.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
/// Message of a check that needs an access token.
const NO_TOKEN: &str = "skipped: no access token";
/// Maximum clock difference with a negligible effect on ages.
const MAX_CLOCK_SKEW_SECS: u64 = 30;

/// Checks all credentials and their organizations concurrently.
pub(super) async fn check_all(
    config: &Config,
    transport_factory: &TransportFactory,
    clock: &Clock,
) -> Vec<Finding> {
    let observer = Arc::new(CheckObserver {
        clock: clock.clone(),
        observations: Mutex::default(),
    });
    let rate_limiter = Arc::default();
    let exemptions = ExemptionMatches::new(config);
    let checks = config.credentials.iter().map(async |credential| {
        let topic = Topic::new(Component::Token, &credential.name);
        if !credential.credential.validate().is_empty() {
            exemptions.set_incomplete();
            // The check of the credential reports the cause.
            let message = "skipped: the credential has errors";
            return (vec![topic.skipped(message)], Vec::new());
        }
        match create_client(
            config,
            credential,
            transport_factory,
            &rate_limiter,
            &observer,
        ) {
            Ok(client) => {
                let checker = CredentialChecker {
                    config,
                    credential,
                    client,
                    observer: &observer,
                    exemptions: &exemptions,
                };
                checker.check().await
            }
            Err(error) => {
                exemptions.set_incomplete();
                let hint = "check the CA certificates of the system (package ca-certificates)";
                (vec![topic.error(error, hint)], Vec::new())
            }
        }
    });
    let mut findings = Vec::new();
    let mut loads = Vec::new();
    for (of_credential, loads_of_orgs) in join_all(checks).await {
        findings.extend(of_credential);
        loads.extend(loads_of_orgs);
    }
    findings.extend(exemptions.findings(config));
    findings.extend(observer.clock_finding());
    findings.extend(check_loads(loads, config.poll_interval));
    findings
}

fn create_client(
    config: &Config,
    credential: &CredentialConfig,
    transport_factory: &TransportFactory,
    rate_limiter: &Arc<RateLimiter>,
    observer: &Arc<CheckObserver>,
) -> Result<Client, String> {
    let client_config = ClientConfig {
        max_retry_wait: RETRY_TIMEOUT,
        ..config.client_config(credential)
    };
    let deps = ClientDeps {
        transport: transport_factory(&client_config)?,
        rate_limiter: Arc::clone(rate_limiter),
        // The stored token belongs to the running exporter.
        token_store: None,
        observer: Arc::clone(observer) as Arc<dyn ClientObserver>,
        clock: observer.clock.clone(),
    };
    Client::new(client_config, deps)
}

/// Checks a credential and its organizations.
struct CredentialChecker<'a> {
    config: &'a Config,
    credential: &'a CredentialConfig,
    client: Client,
    observer: &'a CheckObserver,
    exemptions: &'a ExemptionMatches,
}

impl CredentialChecker<'_> {
    /// Returns the findings, and the load of each organization.
    async fn check(self) -> (Vec<Finding>, Vec<OrgLoad>) {
        let mut findings = Vec::new();
        let mut token_error = None;
        let mut orgs = match self.discover_orgs(&mut findings).await {
            Ok(orgs) => orgs,
            Err(error) => {
                token_error = Some(error);
                Vec::new()
            }
        };
        let listed = self.credential.org_ids.iter();
        orgs.extend(
            listed
                .filter(|org| self.config.shard.contains(org))
                .cloned(),
        );
        orgs.sort();
        orgs.dedup();
        let reports = join_all(orgs.iter().map(|org| self.check_org(org))).await;
        if token_error.is_some() || reports.iter().any(Result::is_err) {
            self.exemptions.set_incomplete();
        }
        let readable = orgs.iter().zip(&reports).find(|(_, report)| report.is_ok());
        if let Some((org, _)) = readable {
            match self.client.list_rate_limits(org).await {
                Ok(limits) => self.client.set_rate_limits(limits),
                Err(error) => findings.push(self.rate_limits_unreadable(org, &error)),
            }
        }
        let secret_finding = self.client_secret_finding(&orgs).await;
        let mut loads = Vec::new();
        for (org, report) in orgs.into_iter().zip(reports) {
            match report {
                Ok((of_org, pages)) => {
                    findings.extend(of_org);
                    loads.push(OrgLoad {
                        rate: self.client.sustained_rate(&org),
                        org,
                        pages,
                    });
                }
                Err(error) if error.endpoint == Endpoint::Token => {
                    findings.push(org_topic(&org).skipped(NO_TOKEN));
                    token_error = Some(error);
                }
                Err(error) => {
                    let cause = self.diagnose(&error);
                    findings.push(org_topic(&org).error(cause.summary, cause.remedy));
                }
            }
        }
        let token_finding = self.token_finding(token_error);
        findings.splice(0..0, token_finding.into_iter().chain(secret_finding));
        self.client.revoke_token().await;
        (findings, loads)
    }

    fn diagnose(&self, error: &Error) -> Diagnosis {
        failure::diagnose(error, &self.credential.credential)
    }

    /// Returns the organizations visible to the credential, if discovery is enabled. Fails if there is no access token.
    async fn discover_orgs(&self, findings: &mut Vec<Finding>) -> Result<Vec<OrgId>, Error> {
        if !self.credential.discover_orgs {
            return Ok(Vec::new());
        }
        let subject = format!("all of credential {}", self.credential.name);
        let topic = Topic::new(Component::Organization, subject);
        let list = match self.client.list_orgs().await {
            Ok(list) => list,
            Err(error) if error.endpoint == Endpoint::Token => return Err(error),
            Err(error) => {
                let cause = self.diagnose(&error);
                let message = format!("organization discovery failed: {}", cause.summary);
                self.exemptions.set_incomplete();
                findings.push(topic.error(message, cause.remedy));
                return Ok(Vec::new());
            }
        };
        let visible = list.items.into_iter().filter(|org| !org.is_deleted);
        let mut orgs: Vec<OrgId> = visible
            .map(|org| org.id)
            .filter(|org| self.config.shard.contains(org))
            .collect();
        let message = format!("visible organizations: {}", orgs.len());
        findings.push(if orgs.len() > self.config.max_orgs {
            orgs.sort();
            orgs.truncate(self.config.max_orgs);
            self.exemptions.set_incomplete();
            topic.warning(
                format!("{message}, above the limit of {}", orgs.len()),
                "increase --atlas.max-orgs, or split the organizations with --atlas.shard",
            )
        } else if orgs.is_empty() && self.credential.org_ids.is_empty() {
            let hint = "add the credential to an organization, or set --atlas.org-id";
            topic.warning(message, hint)
        } else {
            topic.ok(message)
        });
        Ok(orgs)
    }

    /// Checks that keys, names and limits of an organization are readable. Returns the findings, and the number of requests of
    /// a poll.
    async fn check_org(&self, org: &OrgId) -> Result<(Vec<Finding>, u64), Error> {
        let size = self.config.page_size;
        let page = self
            .client
            .list_keys_page(org, 1, size, OptionalFields::default())
            .await?;
        let keys = page.total_count.unwrap_or(0).max(page.results as u64);
        let mut findings = Vec::new();
        let name = match self.client.get_org_name(org).await {
            Ok(name) => name.map(|name| format!("{name:?}: ")).unwrap_or_default(),
            Err(error) => {
                findings.push(self.details_unreadable(org, "organization name", &error));
                String::new()
            }
        };
        let projects = self.client.list_projects(org, None).await;
        if let Err(error) = &projects {
            findings.push(self.details_unreadable(org, "project names", error));
        }
        let clock = &self.observer.clock;
        let exemptions = self.exemptions;
        exemptions
            .add_org(self.config, &self.client, clock, org, projects.ok())
            .await;
        if let Err(error) = self.client.list_model_limits(org).await {
            findings.push(self.details_unreadable(org, "model rate limits", &error));
        }
        let message = format!("{name}keys are readable (approximately {keys})");
        findings.insert(0, org_topic(org).ok(message));
        // If the last page is full, an empty page follows.
        Ok((findings, keys / u64::from(size.max(1)) + 1))
    }

    /// Reports whether the credential gets access tokens.
    fn token_finding(&self, error: Option<Error>) -> Option<Finding> {
        if self.credential.credential.kind() != CredentialKind::ServiceAccount {
            return None;
        }
        let topic = Topic::new(Component::Token, &self.credential.name);
        if let Some(error) = error {
            let cause = self.diagnose(&error);
            return Some(topic.error(cause.summary, cause.remedy));
        }
        let observations = self.observer.lock();
        let has_token = observations.has_token.contains(&*self.credential.name);
        has_token.then(|| topic.ok("issues access tokens (test token revoked)"))
    }

    /// Reports the expiry of the client secret. Only the organization of a service account knows the account, so several
    /// organizations are queried.
    async fn client_secret_finding(&self, orgs: &[OrgId]) -> Option<Finding> {
        if self.credential.credential.kind() != CredentialKind::ServiceAccount {
            return None;
        }
        let topic = Topic::new(Component::ClientSecret, &self.credential.name);
        let mut visible = None;
        for org in orgs.iter().take(MAX_ACCOUNT_ORGS) {
            match self.client.list_client_secrets(org).await {
                Ok(Some(secrets)) => {
                    visible = Some(secrets);
                    break;
                }
                Ok(None) => {}
                Err(error) if error.endpoint == Endpoint::Token => {
                    return Some(topic.skipped(NO_TOKEN));
                }
                Err(error) => {
                    let cause = self.diagnose(&error);
                    let message = format!("expiry cannot be read: {}", cause.summary);
                    return Some(topic.warning(message, cause.remedy));
                }
            }
        }
        let now = self.observer.clock.now();
        Some(expiry_finding(&topic, visible.as_deref(), now))
    }

    /// Reports unreadable rate limits. Many credentials cannot read them, and polls do not need them, so HTTP 401, 403 and 404
    /// are not a warning.
    fn rate_limits_unreadable(&self, org: &OrgId, error: &Error) -> Finding {
        let topic = org_topic(org);
        let learned = "learned from responses instead";
        let status = match error.kind {
            ErrorKind::NotFound(_) => "HTTP 404",
            ErrorKind::Forbidden(_) => "HTTP 403",
            ErrorKind::Unauthorized(_) => "HTTP 401",
            _ => {
                let cause = self.diagnose(error);
                let summary = cause.summary;
                let message = format!("rate limits cannot be read ({learned}): {summary}");
                return topic.warning(message, cause.remedy);
            }
        };
        topic.ok(format!("rate limits cannot be read ({status}); {learned}"))
    }

    /// Reports unreadable details of an organization. The per-key series do not depend on these details.
    fn details_unreadable(&self, org: &OrgId, details: &str, error: &Error) -> Finding {
        let no_role = |status: String| Diagnosis {
            summary: format!("the credential lacks the role ({status})"),
            remedy: "assign the role Organization Read Only in this organization to the credential",
        };
        // The keys were readable, so the organization exists and the credential is valid.
        let cause = match &error.kind {
            ErrorKind::NotFound(_) => Diagnosis {
                summary: "endpoint not found (HTTP 404)".to_owned(),
                remedy: "no action needed; only the related labels and series are missing",
            },
            ErrorKind::Forbidden(code) => no_role(format!("HTTP 403{code}")),
            ErrorKind::Unauthorized(_) => no_role("HTTP 401".to_owned()),
            _ => self.diagnose(error),
        };
        let message = format!("{details} cannot be read: {}", cause.summary);
        org_topic(org).warning(message, cause.remedy)
    }
}

fn org_topic(org: &OrgId) -> Topic {
    Topic::new(Component::Organization, org)
}

/// Records tokens and dates from the responses.
struct CheckObserver {
    clock: Clock,
    observations: Mutex<Observations>,
}

#[derive(Default)]
struct Observations {
    /// Names of the credentials that got an access token.
    has_token: BTreeSet<String>,
    /// Seconds by which the local clock is ahead of the clock of Atlas.
    clock_skew_secs: Option<i64>,
}

impl CheckObserver {
    fn lock(&self) -> MutexGuard<'_, Observations> {
        self.observations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn clock_finding(&self) -> Option<Finding> {
        let skew = self.lock().clock_skew_secs?;
        let topic = Topic::new(Component::Clock, "local clock");
        let seconds = skew.unsigned_abs();
        if seconds <= MAX_CLOCK_SKEW_SECS {
            let message = format!("clock is in sync with Atlas (within {}s)", seconds.max(1));
            return Some(topic.ok(message));
        }
        let direction = if skew > 0 { "ahead of" } else { "behind" };
        let skew = exact(Duration::from_secs(seconds));
        Some(topic.warning(
            format!("clock is {skew} {direction} Atlas; all ages are off by that amount"),
            "synchronize the clock, for example with chrony or systemd-timesyncd",
        ))
    }
}

impl ClientObserver for CheckObserver {
    fn server_date_received(&self, date: &str) {
        // The dates of RFC 9110 are a subset of RFC 2822.
        if let Ok(server_time) = DateTimeParser::new().parse_timestamp(date) {
            let skew = self.clock.now().as_second() - server_time.as_second();
            self.lock().clock_skew_secs = Some(skew);
        }
    }

    fn token_expiry_changed(&self, credential: &str, _: Timestamp) {
        self.lock().has_token.insert(credential.to_owned());
    }
}
