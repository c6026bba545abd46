//! What Atlas says: whether it makes tokens, what each organization answers, what time it is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use super::advice;
use super::findings::{Component, Finding};
use super::rate_limit::BudgetCheck;
use crate::config::{Config, CredentialConfig};
use crate::credentials::Credential;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{
    BucketRate, Client, ClientConfig, ClientDeps, ClientObserver, Endpoint, Error, ErrorKind,
    OptionalFields, RateLimiter, TransportFactory,
};

/// How long a request that Atlas refuses for want of budget may wait: a person is waiting.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
/// A clock that is off by more makes ages wrong that people look at.
const MAX_CLOCK_SKEW_SECS: u64 = 30;

/// Asks with every credential about every organization, at the same time.
pub(super) async fn check_all(
    config: &Config,
    connect: &TransportFactory,
    clock: &Clock,
) -> Vec<Finding> {
    let witness = Arc::new(CheckObserver {
        clock: clock.clone(),
        observations: Mutex::default(),
    });
    let asking = AtlasChecker {
        config,
        transport_factory: connect,
        rate_limiter: Arc::default(),
        observer: Arc::clone(&witness),
    };
    let answers = join_all(
        config
            .credentials
            .iter()
            .map(|account| asking.check_credential(account)),
    )
    .await;
    let mut findings = Vec::new();
    let mut costs = BudgetCheck::default();
    for (found, orgs) in answers {
        findings.extend(found);
        for (org, pages, supply) in orgs {
            costs.add(&org, pages, supply);
        }
    }
    findings.extend(witness.clock_finding());
    findings.extend(costs.findings(config.poll_interval));
    findings
}

/// An organization that answers, the pages of a walk, and what its bucket gives.
type OrgResult = (OrgId, u64, BucketRate);

struct AtlasChecker<'a> {
    config: &'a Config,
    transport_factory: &'a TransportFactory,
    rate_limiter: Arc<RateLimiter>,
    observer: Arc<CheckObserver>,
}

impl AtlasChecker<'_> {
    async fn check_credential(&self, account: &CredentialConfig) -> (Vec<Finding>, Vec<OrgResult>) {
        let name = &*account.name;
        if !account.credential.validate().is_empty() {
            let why = "not asked: the credential cannot be read";
            return (
                vec![Finding::skipped(Component::Token, name, why)],
                Vec::new(),
            );
        }
        let client = match self.create_client(account) {
            Ok(client) => client,
            Err(why) => {
                let action = "check the system's certificates (ca-certificates)";
                let finding = Finding::error(Component::Token, name, why, action);
                return (vec![finding], Vec::new());
            }
        };
        let (mut findings, mut orgs, mut no_token) =
            match self.discover_orgs(&client, account).await {
                Ok((findings, orgs)) => (findings, orgs, None),
                Err(error) => (Vec::new(), Vec::new(), Some(error)),
            };
        let named = account.org_ids.iter().cloned();
        orgs.extend(named.filter(|org| self.config.shard.contains(org)));
        orgs.sort();
        orgs.dedup();
        let mut answered = Vec::new();
        let asked = join_all(orgs.iter().map(|org| self.check_org(&client, account, org))).await;
        let good = orgs.iter().zip(&asked).find(|(_, asked)| asked.is_ok());
        if let Some((org, _)) = good {
            match client.list_rate_limits(org).await {
                Ok(sets) => client.set_rate_limits(sets),
                Err(error) => findings.push(rate_limits_unreadable(org, &error, account)),
            }
        }
        for (org, asked) in orgs.iter().zip(asked) {
            match asked {
                Ok((found, pages)) => {
                    findings.extend(found);
                    answered.push((org.clone(), pages, client.sustained_rate(org)));
                }
                Err(error) if error.endpoint == Endpoint::Token => {
                    let why = "not asked: there is no access token to ask with";
                    findings.push(Finding::skipped(Component::Organization, org.as_str(), why));
                    no_token = Some(error);
                }
                Err(error) => {
                    let (what, action) = advice::remediation_for(&error, &account.credential);
                    findings.push(Finding::error(
                        Component::Organization,
                        org.as_str(),
                        what,
                        action,
                    ));
                }
            }
        }
        findings.splice(0..0, self.token_finding(account, no_token));
        client.revoke_token().await;
        (findings, answered)
    }

    fn create_client(&self, account: &CredentialConfig) -> Result<Client, String> {
        let config = ClientConfig {
            credential_name: Arc::clone(&account.name),
            user_agent: crate::USER_AGENT.to_owned(),
            credential: account.credential.to_client(),
            base_url: self.config.base_url.clone(),
            route: self.config.route.clone(),
            api_version: self.config.api_version.clone(),
            request_timeout: self.config.request_timeout,
            max_retry_wait: RETRY_TIMEOUT,
        };
        let context = ClientDeps {
            transport: (self.transport_factory)(&config)?,
            rate_limiter: Arc::clone(&self.rate_limiter),
            // the one of a running exporter is its own
            token_store: None,
            observer: Arc::clone(&self.observer) as Arc<dyn ClientObserver>,
            clock: self.observer.clock.clone(),
        };
        Client::new(config, context)
    }

    /// The organizations that a credential can see, if it is to watch them all. An error is that there
    /// is no token to ask with.
    async fn discover_orgs(
        &self,
        client: &Client,
        account: &CredentialConfig,
    ) -> Result<(Vec<Finding>, Vec<OrgId>), Error> {
        if !account.discover_orgs {
            return Ok((Vec::new(), Vec::new()));
        }
        let subject = format!("all of credential {}", account.name);
        match client.list_orgs().await {
            Ok(list) => {
                let mut orgs: Vec<OrgId> = list
                    .items
                    .into_iter()
                    .filter(|org| !org.is_deleted && self.config.shard.contains(&org.id))
                    .map(|org| org.id)
                    .collect();
                let what = format!("organizations that it can see: {}", orgs.len());
                let finding = if orgs.len() > self.config.max_orgs {
                    orgs.sort();
                    orgs.truncate(self.config.max_orgs);
                    let what = format!("{what}, above the limit of {}", orgs.len());
                    let action =
                        "raise --atlas.max-orgs, or split the organizations with --atlas.shard";
                    Finding::warning(Component::Organization, subject, what, action)
                } else if orgs.is_empty() && account.org_ids.is_empty() {
                    let action = "invite the credential into an organization, or name one with --atlas.org-id";
                    Finding::warning(Component::Organization, subject, what, action)
                } else {
                    Finding::ok(Component::Organization, subject, what)
                };
                Ok((vec![finding], orgs))
            }
            Err(error) if error.endpoint == Endpoint::Token => Err(error),
            Err(error) => {
                let (what, action) = advice::remediation_for(&error, &account.credential);
                let what = format!("cannot be listed: {what}");
                let finding = Finding::error(Component::Organization, subject, what, action);
                Ok((vec![finding], Vec::new()))
            }
        }
    }

    /// Whether the keys of an organization, its names and its limits can be read, and how many pages
    /// a walk takes.
    async fn check_org(
        &self,
        client: &Client,
        account: &CredentialConfig,
        org: &OrgId,
    ) -> Result<(Vec<Finding>, u64), Error> {
        let size = self.config.page_size;
        let page = client
            .list_keys_page(org, 1, size, OptionalFields::default())
            .await?;
        let keys = page.total_count.unwrap_or(0).max(page.results as u64);
        let mut findings = Vec::new();
        let name = match client.get_org_name(org).await {
            Ok(name) => name.map(|name| format!("{name:?}: ")).unwrap_or_default(),
            Err(error) => {
                findings.push(warning_for(org, "name", &error, account));
                String::new()
            }
        };
        if let Err(error) = client.list_projects(org).await {
            findings.push(warning_for(org, "projects' names", &error, account));
        }
        if let Err(error) = client.list_model_limits(org).await {
            findings.push(warning_for(org, "limits for the models", &error, account));
        }
        let what = format!("{name}its keys can be read; there are some {keys}");
        findings.insert(0, Finding::ok(Component::Organization, org.as_str(), what));
        // a last page that is full is followed by one that is not
        Ok((findings, keys / u64::from(size.max(1)) + 1))
    }

    /// What the token endpoint has said.
    fn token_finding(&self, account: &CredentialConfig, refused: Option<Error>) -> Option<Finding> {
        let Credential::ServiceAccount { .. } = account.credential else {
            return None;
        };
        let name = &*account.name;
        if let Some(error) = refused {
            let (what, action) = advice::remediation_for(&error, &account.credential);
            return Some(Finding::error(Component::Token, name, what, action));
        }
        let until = self.observer.lock().token_expiries.get(name).copied()?;
        let what =
            format!("it makes access tokens; this one, good until {until:.0}, is given back");
        Some(Finding::ok(Component::Token, name, what))
    }
}

/// The rate limits cannot be read. Many credentials may not read them, and nothing depends on it: their absence alone is
/// no reason for a warning.
fn rate_limits_unreadable(org: &OrgId, error: &Error, account: &CredentialConfig) -> Finding {
    let learnt = "they are learnt from responses";
    let status = match error.kind {
        ErrorKind::NotFound(_) => "HTTP 404",
        ErrorKind::Forbidden(_) => "HTTP 403",
        ErrorKind::Unauthorized(_) => "HTTP 401",
        _ => {
            let (why, action) = advice::remediation_for(error, &account.credential);
            let what = format!("rate limits cannot be read, {learnt}: {why}");
            return Finding::warning(Component::Organization, org.as_str(), what, action);
        }
    };
    let what = format!("rate limits cannot be read ({status}); {learnt}");
    Finding::ok(Component::Organization, org.as_str(), what)
}

/// Something beside the keys that cannot be read: the series of the keys do not need it.
fn warning_for(org: &OrgId, what: &str, error: &Error, account: &CredentialConfig) -> Finding {
    // The organization is there, and the credential is good: the keys were read.
    let (why, action) = match &error.kind {
        ErrorKind::NotFound(_) => (
            "Atlas has no such endpoint for this organization (HTTP 404)".to_owned(),
            "nothing to do for the keys; their series have no such labels".to_owned(),
        ),
        ErrorKind::Forbidden(_) | ErrorKind::Unauthorized(_) => {
            let status = match &error.kind {
                ErrorKind::Forbidden(code) => format!("HTTP 403{code}"),
                _ => "HTTP 401".to_owned(),
            };
            (
                format!("the credential lacks the role ({status})"),
                "give it the role Organization Read Only at this organization".to_owned(),
            )
        }
        _ => advice::remediation_for(error, &account.credential),
    };
    let what = format!("its {what} cannot be read: {why}");
    Finding::warning(Component::Organization, org.as_str(), what, action)
}

/// What is seen of Atlas beside its answers.
struct CheckObserver {
    clock: Clock,
    observations: Mutex<Observations>,
}

#[derive(Default)]
struct Observations {
    /// When the token of a credential ends.
    token_expiries: BTreeMap<String, Timestamp>,
    /// Seconds that this machine's clock is ahead of Atlas'.
    clock_skew_secs: Option<i64>,
}

impl CheckObserver {
    fn lock(&self) -> MutexGuard<'_, Observations> {
        self.observations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn clock_finding(&self) -> Vec<Finding> {
        let Some(ahead) = self.lock().clock_skew_secs else {
            return Vec::new();
        };
        let (off, way) = (
            ahead.unsigned_abs(),
            if ahead > 0 { "ahead of" } else { "behind" },
        );
        let subject = "this machine's";
        let finding = if off > MAX_CLOCK_SKEW_SECS {
            let off = humantime::format_duration(Duration::from_secs(off));
            Finding::warning(
                Component::Clock,
                subject,
                format!("it is {off} {way} Atlas': every age is wrong by as much"),
                "let the machine keep its time: chrony or systemd-timesyncd",
            )
        } else {
            let what = format!("it agrees with Atlas' within {} s", off.max(1));
            Finding::ok(Component::Clock, subject, what)
        };
        vec![finding]
    }
}

impl ClientObserver for CheckObserver {
    fn server_date_received(&self, date: &str) {
        // RFC 9110 writes dates as RFC 2822 does
        if let Ok(theirs) = DateTimeParser::new().parse_timestamp(date) {
            self.lock().clock_skew_secs = Some(self.clock.now().as_second() - theirs.as_second());
        }
    }

    fn token_expiry_changed(&self, credential: &str, at: Timestamp) {
        self.lock().token_expiries.insert(credential.to_owned(), at);
    }
}
