//! What Atlas says: whether it makes tokens, what each organization answers, what time it is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use super::advice;
use super::findings::{Area, Finding};
use super::rate_limit::Costs;
use crate::config::{Account, Config};
use crate::credentials::Credential;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{
    Budgets, Client, ClientConfig, Connect, Context, Endpoint, Error, LaneId, Members, Observer,
    Outcome, Problem, Retry, TokenOutcome,
};

/// How long a request that Atlas refuses for want of budget may wait: a person is waiting.
const PATIENCE: Duration = Duration::from_secs(5);
/// A clock that is off by more makes ages wrong that people look at.
const SKEW: u64 = 30;

/// Asks with every credential about every organization, at the same time.
pub(super) async fn all(config: &Config, connect: &Connect, clock: &Clock) -> Vec<Finding> {
    let witness = Arc::new(Witness {
        clock: clock.clone(),
        seen: Mutex::default(),
    });
    let asking = Asking {
        config,
        connect,
        budgets: Arc::default(),
        witness: Arc::clone(&witness),
    };
    let answers = join_all(
        config
            .accounts
            .iter()
            .map(|account| asking.account(account)),
    )
    .await;
    let mut findings = Vec::new();
    let mut costs = Costs::default();
    for (found, orgs) in answers {
        findings.extend(found);
        for (org, pages, supply) in orgs {
            costs.add(&org, pages, supply);
        }
    }
    findings.extend(witness.time());
    findings.extend(costs.findings(config.poll_interval));
    findings
}

/// An organization that answers, the pages of a walk, and what its bucket gives.
type Answered = (OrgId, u64, (LaneId, Option<f64>));

struct Asking<'a> {
    config: &'a Config,
    connect: &'a Connect,
    budgets: Arc<Budgets>,
    witness: Arc<Witness>,
}

impl Asking<'_> {
    async fn account(&self, account: &Account) -> (Vec<Finding>, Vec<Answered>) {
        let name = &*account.name;
        if !account.credential.mistakes().is_empty() {
            let why = "not asked: the credential cannot be read";
            return (vec![Finding::skipped(Area::Token, name, why)], Vec::new());
        }
        let client = match self.client(account) {
            Ok(client) => client,
            Err(why) => {
                let action = "check the system's certificates (ca-certificates)";
                let finding = Finding::error(Area::Token, name, why, action);
                return (vec![finding], Vec::new());
            }
        };
        let (mut findings, mut orgs, mut no_token) = match self.listed(&client, account).await {
            Ok((findings, orgs)) => (findings, orgs, None),
            Err(error) => (Vec::new(), Vec::new(), Some(error)),
        };
        let named = account.orgs.iter().cloned();
        orgs.extend(named.filter(|org| self.config.shard.contains(org)));
        orgs.sort();
        orgs.dedup();
        let mut answered = Vec::new();
        let asked = join_all(orgs.iter().map(|org| self.org(&client, account, org))).await;
        let good = orgs.iter().zip(&asked).find(|(_, asked)| asked.is_ok());
        if let Some((org, _)) = good {
            match client.rate_limits(org).await {
                Ok(sets) => client.learn(sets),
                Err(error) => findings.push(rate_limits_unknown(org, &error, account)),
            }
        }
        for (org, asked) in orgs.iter().zip(asked) {
            match asked {
                Ok((found, pages)) => {
                    findings.extend(found);
                    answered.push((org.clone(), pages, client.supply(org)));
                }
                Err(error) if error.endpoint == Endpoint::Token => {
                    let why = "not asked: there is no access token to ask with";
                    findings.push(Finding::skipped(Area::Organization, org.as_str(), why));
                    no_token = Some(error);
                }
                Err(error) => {
                    let (what, action) = advice::on(&error, &account.credential);
                    findings.push(Finding::error(
                        Area::Organization,
                        org.as_str(),
                        what,
                        action,
                    ));
                }
            }
        }
        findings.splice(0..0, self.token(account, no_token));
        client.close().await;
        (findings, answered)
    }

    fn client(&self, account: &Account) -> Result<Client, String> {
        let config = ClientConfig {
            name: Arc::clone(&account.name),
            credential: account.credential.to_client(),
            base_url: self.config.base_url.clone(),
            route: self.config.route.clone(),
            version: self.config.version.clone(),
            timeout: self.config.timeout,
            patience: PATIENCE,
        };
        let context = Context {
            transport: (self.connect)(&config)?,
            budgets: Arc::clone(&self.budgets),
            // the one of a running exporter is its own
            tokens: None,
            observer: Arc::clone(&self.witness) as Arc<dyn Observer>,
            clock: self.witness.clock.clone(),
        };
        Client::new(config, context)
    }

    /// The organizations that a credential can see, if it is to watch them all. An error is that there
    /// is no token to ask with.
    async fn listed(
        &self,
        client: &Client,
        account: &Account,
    ) -> Result<(Vec<Finding>, Vec<OrgId>), Error> {
        if !account.discover {
            return Ok((Vec::new(), Vec::new()));
        }
        let subject = format!("all of credential {}", account.name);
        match client.orgs().await {
            Ok(list) => {
                let mut orgs: Vec<OrgId> = list
                    .orgs
                    .into_iter()
                    .filter(|org| !org.deleted && self.config.shard.contains(&org.id))
                    .map(|org| org.id)
                    .collect();
                let what = format!("organizations that it can see: {}", orgs.len());
                let finding = if orgs.len() > self.config.max_orgs {
                    orgs.sort();
                    orgs.truncate(self.config.max_orgs);
                    let what = format!("{what}, above the limit of {}", orgs.len());
                    let action =
                        "raise --atlas.max-orgs, or split the organizations with --atlas.shard";
                    Finding::warning(Area::Organization, subject, what, action)
                } else if orgs.is_empty() && account.orgs.is_empty() {
                    let action = "invite the credential into an organization, or name one with --atlas.org-id";
                    Finding::warning(Area::Organization, subject, what, action)
                } else {
                    Finding::ok(Area::Organization, subject, what)
                };
                Ok((vec![finding], orgs))
            }
            Err(error) if error.endpoint == Endpoint::Token => Err(error),
            Err(error) => {
                let (what, action) = advice::on(&error, &account.credential);
                let what = format!("cannot be listed: {what}");
                let finding = Finding::error(Area::Organization, subject, what, action);
                Ok((vec![finding], Vec::new()))
            }
        }
    }

    /// Whether the keys of an organization, its names and its limits can be read, and how many pages
    /// a walk takes.
    async fn org(
        &self,
        client: &Client,
        account: &Account,
        org: &OrgId,
    ) -> Result<(Vec<Finding>, u64), Error> {
        let size = self.config.page_size;
        let page = client.keys(org, 1, size, Members::default()).await?;
        let keys = page.total.unwrap_or(0).max(page.results as u64);
        let mut findings = Vec::new();
        let name = match client.org_name(org).await {
            Ok(name) => name.map(|name| format!("{name:?}: ")).unwrap_or_default(),
            Err(error) => {
                findings.push(warned(org, "name", &error, account));
                String::new()
            }
        };
        if let Err(error) = client.projects(org).await {
            findings.push(warned(org, "projects' names", &error, account));
        }
        if let Err(error) = client.model_limits(org).await {
            findings.push(warned(org, "limits for the models", &error, account));
        }
        let what = format!("{name}its keys can be read; there are some {keys}");
        findings.insert(0, Finding::ok(Area::Organization, org.as_str(), what));
        // a last page that is full is followed by one that is not
        Ok((findings, keys / u64::from(size.max(1)) + 1))
    }

    /// What the token endpoint has said.
    fn token(&self, account: &Account, refused: Option<Error>) -> Option<Finding> {
        let Credential::ServiceAccount { .. } = account.credential else {
            return None;
        };
        let name = &*account.name;
        if let Some(error) = refused {
            let (what, action) = advice::on(&error, &account.credential);
            return Some(Finding::error(Area::Token, name, what, action));
        }
        let until = self.witness.seen().tokens.get(name).copied()?;
        let what =
            format!("it makes access tokens; this one, good until {until:.0}, is given back");
        Some(Finding::ok(Area::Token, name, what))
    }
}

/// The rate limits cannot be read. Many credentials may not read them, and nothing depends on it: their absence alone is
/// no reason for a warning.
fn rate_limits_unknown(org: &OrgId, error: &Error, account: &Account) -> Finding {
    let learnt = "they are learnt from responses";
    let status = match error.problem {
        Problem::NotFound(_) => "HTTP 404",
        Problem::Forbidden(_) => "HTTP 403",
        Problem::Unauthorized(_) => "HTTP 401",
        _ => {
            let (why, action) = advice::on(error, &account.credential);
            let what = format!("rate limits cannot be read, {learnt}: {why}");
            return Finding::warning(Area::Organization, org.as_str(), what, action);
        }
    };
    let what = format!("rate limits cannot be read ({status}); {learnt}");
    Finding::ok(Area::Organization, org.as_str(), what)
}

/// Something beside the keys that cannot be read: the series of the keys do not need it.
fn warned(org: &OrgId, what: &str, error: &Error, account: &Account) -> Finding {
    // The organization is there, and the credential is good: the keys were read.
    let (why, action) = match &error.problem {
        Problem::NotFound(_) => (
            "Atlas has no such endpoint for this organization (HTTP 404)".to_owned(),
            "nothing to do for the keys; their series have no such labels".to_owned(),
        ),
        Problem::Forbidden(_) | Problem::Unauthorized(_) => {
            let status = match &error.problem {
                Problem::Forbidden(code) => format!("HTTP 403{code}"),
                _ => "HTTP 401".to_owned(),
            };
            (
                format!("the credential lacks the role ({status})"),
                "give it the role Organization Read Only at this organization".to_owned(),
            )
        }
        _ => advice::on(error, &account.credential),
    };
    let what = format!("its {what} cannot be read: {why}");
    Finding::warning(Area::Organization, org.as_str(), what, action)
}

/// What is seen of Atlas beside its answers.
struct Witness {
    clock: Clock,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// When the token of a credential ends.
    tokens: BTreeMap<String, Timestamp>,
    /// Seconds that this machine's clock is ahead of Atlas'.
    ahead: Option<i64>,
}

impl Witness {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self) -> Vec<Finding> {
        let Some(ahead) = self.seen().ahead else {
            return Vec::new();
        };
        let (off, way) = (
            ahead.unsigned_abs(),
            if ahead > 0 { "ahead of" } else { "behind" },
        );
        let subject = "this machine's";
        let finding = if off > SKEW {
            let off = humantime::format_duration(Duration::from_secs(off));
            Finding::warning(
                Area::Clock,
                subject,
                format!("it is {off} {way} Atlas': every age is wrong by as much"),
                "let the machine keep its time: chrony or systemd-timesyncd",
            )
        } else {
            let what = format!("it agrees with Atlas' within {} s", off.max(1));
            Finding::ok(Area::Clock, subject, what)
        };
        vec![finding]
    }
}

impl Observer for Witness {
    fn request(&self, _: Endpoint, _: Outcome, _: Duration) {}

    fn dated(&self, date: &str) {
        // RFC 9110 writes dates as RFC 2822 does
        if let Ok(theirs) = DateTimeParser::new().parse_timestamp(date) {
            self.seen().ahead = Some(self.clock.now().as_second() - theirs.as_second());
        }
    }

    fn retry(&self, _: Endpoint, _: Retry) {}

    fn rate_limit(&self, _: Endpoint, _: Option<&OrgId>, _: Option<u64>, _: Option<u64>) {}

    fn throttled(&self, _: Endpoint, _: Option<&OrgId>, _: Duration) {}

    fn token(&self, _: &str, _: TokenOutcome) {}

    fn token_ends(&self, credential: &str, at: Timestamp) {
        self.seen().tokens.insert(credential.to_owned(), at);
    }

    fn token_refused(&self, _: &str) {}
}
