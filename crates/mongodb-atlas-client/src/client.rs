//! One credential's requests to Atlas: the right version, the right authentication, leave from the
//! request budget, and one more try where a second request is right and cheaper than giving up a
//! walk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Method, Request, StatusCode, Url};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::auth::{Auth, TokenStore};
use super::error::{Endpoint, Error, Problem};
use super::observer::{Observer, Retry};
use super::pagination::{NextPage, PageSummary, Pagination};
use super::proxy::Route;
use super::rate_limit::{Budgets, EndpointSet, LaneId, Ticket};
use super::transport::{Answer, Line, Transport};
use super::wire::{self, ApiKey, Field, KeyPage, ListedOrg, Members, ModelLimit, Page, Project};
use crate::clock::Clock;
use crate::credential::Credential;
use crate::ids::{KeyId, OrgId};

/// The version of the API to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// `application/vnd.atlas.preview+json`.
    Preview,
    /// `application/vnd.atlas.DATE+json`.
    Date(String),
}

impl Version {
    fn media_type(&self) -> String {
        match self {
            Self::Preview => "application/vnd.atlas.preview+json".to_owned(),
            Self::Date(date) => format!("application/vnd.atlas.{date}+json"),
        }
    }
}

/// What a [`Client`] is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// What the credential is called in metrics and logs.
    pub name: Arc<str>,
    /// The credential.
    pub credential: Credential,
    /// Atlas' address, ending in a slash.
    pub base_url: Url,
    /// How requests reach it.
    pub route: Route,
    /// The version of the API to ask for.
    pub version: Version,
    /// What one request may take, connect to last byte.
    pub timeout: Duration,
    /// How long a request that was refused for want of budget may wait for another try, before
    /// it counts as failed.
    pub patience: Duration,
}

/// What a [`Client`] works with.
#[derive(Clone)]
pub struct Context {
    /// The way to Atlas.
    pub transport: Arc<dyn Transport>,
    /// The request budgets of the process.
    pub budgets: Arc<Budgets>,
    /// Where the live access token is kept, if anywhere.
    pub tokens: Option<Arc<dyn TokenStore>>,
    /// Who is told of every request.
    pub observer: Arc<dyn Observer>,
    /// The time of day.
    pub clock: Clock,
}

/// How long the second try of a request waits, at most; less by chance.
const SECOND_TRY_AFTER: Duration = Duration::from_millis(500);
/// How long a request waits for Atlas to be in order again (503), before it counts as failed:
/// long enough for a restart over there, too short to hide an outage.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(30);
/// Requests of one credential that are under way at once.
const REQUESTS_AT_ONCE: usize = 16;
/// Results that are asked for on a page of a list.
const LIST_PAGE: u32 = 500;
/// Pages past which a list is given up.
const MAX_LIST_PAGES: u32 = 200;
/// The version of the neighbouring endpoints, which have no other.
const OLD_VERSION: HeaderValue = HeaderValue::from_static("application/vnd.atlas.2023-01-01+json");
/// The version of the list of rate limits.
const RATE_LIMITS_VERSION: HeaderValue =
    HeaderValue::from_static("application/vnd.atlas.2025-03-12+json");

/// A whole list, as far as its pages tell.
struct List<T> {
    items: Vec<T>,
    /// Whether there are fewer than `totalCount` says.
    is_short: bool,
}

/// The organizations that a credential can see.
#[derive(Debug)]
pub struct OrgList {
    /// Those that were listed.
    pub orgs: Vec<ListedOrg>,
    /// Whether there are fewer than `totalCount` says: one that is missing need not be gone.
    pub is_short: bool,
}

/// Asks Atlas on behalf of one credential. Shared by all walks of its organizations: they share
/// its connections, its token and its nonce.
pub struct Client {
    config: ClientConfig,
    accept: HeaderValue,
    accept_preview: HeaderValue,
    fallen_back: AtomicBool,
    auth: Auth,
    line: Line,
    budgets: Arc<Budgets>,
    slots: Semaphore,
    observer: Arc<dyn Observer>,
}

impl Client {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// A sentence when the base URL cannot be built upon.
    pub fn new(config: ClientConfig, context: Context) -> Result<Self, String> {
        let Context {
            transport,
            budgets,
            tokens,
            observer,
            clock,
        } = context;
        let accept = HeaderValue::from_str(&config.version.media_type())
            .map_err(|error| error.to_string())?;
        Ok(Self {
            auth: Auth::new(
                &config.name,
                config.credential.clone(),
                &config.base_url,
                tokens,
                Arc::clone(&observer),
                clock.clone(),
            )?,
            line: Line::new(transport, config.timeout, Arc::clone(&observer), clock),
            fallen_back: AtomicBool::new(config.version == Version::Preview),
            accept,
            accept_preview: HeaderValue::from_static("application/vnd.atlas.preview+json"),
            budgets,
            slots: Semaphore::new(REQUESTS_AT_ONCE),
            observer,
            config,
        })
    }

    /// What it was made from.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// What the credential is called in metrics and logs.
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Page `page` (from 1) of the keys of `org`, `size` a page (1 to 500).
    ///
    /// # Errors
    /// Whatever went wrong, after one more try where that is right.
    pub async fn keys(
        &self,
        org: &OrgId,
        page: u32,
        size: u32,
        members: Members,
    ) -> Result<KeyPage, Error> {
        let endpoint = Endpoint::AiModelApiKeys;
        let path = ["orgs", org.as_str(), "aiModelApiKeys"];
        let url = self.url(endpoint, &path, Some((size, page)))?;
        let mut throttled = Duration::ZERO;
        let answer = self
            .get_throttled(endpoint, Some(org), &url, &mut throttled)
            .await?;
        let page = answer
            .parse(move |body| wire::page(body, size as usize, members))
            .await
            .map_err(|problem| problem.at(endpoint))?;
        Ok(KeyPage { throttled, ..page })
    }

    /// One key of `org`; none when Atlas does not know it (any more).
    ///
    /// # Errors
    /// Whatever went wrong.
    pub async fn key(
        &self,
        org: &OrgId,
        id: &KeyId,
        members: Members,
    ) -> Result<Option<ApiKey>, Error> {
        let endpoint = Endpoint::AiModelApiKey;
        let path = ["orgs", org.as_str(), "aiModelApiKeys", id.as_str()];
        let url = self.url(endpoint, &path, None)?;
        let answer = self.get(endpoint, Some(org), &url).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer
            .parse(move |body| wire::key(body, members))
            .await
            .map(Some)
            .map_err(|problem| problem.at(endpoint))
    }

    /// The organizations that the credential can see.
    ///
    /// # Errors
    /// Whatever went wrong; there is no partial list.
    pub async fn orgs(&self) -> Result<OrgList, Error> {
        let list = self.list(Endpoint::Orgs, None, &["orgs"], None, wire::org);
        list.await.map(|list| OrgList {
            orgs: list.items,
            is_short: list.is_short,
        })
    }

    /// The name of `org`; none when Atlas does not give one.
    ///
    /// # Errors
    /// Whatever went wrong.
    pub async fn org_name(&self, org: &OrgId) -> Result<Option<String>, Error> {
        let endpoint = Endpoint::Org;
        let url = self.url(endpoint, &["orgs", org.as_str()], None)?;
        let answer = self.get(endpoint, Some(org), &url).await?;
        answer
            .parse(wire::org_name)
            .await
            .map_err(|problem| problem.at(endpoint))
    }

    /// The projects of `org`.
    ///
    /// # Errors
    /// Whatever went wrong; there is no partial list.
    pub async fn projects(&self, org: &OrgId) -> Result<Vec<Project>, Error> {
        let path = ["orgs", org.as_str(), "groups"];
        self.list(Endpoint::Groups, Some(org), &path, None, wire::project)
            .await
            .map(|list| list.items)
    }

    /// The limits of `org` for the models.
    ///
    /// # Errors
    /// Whatever went wrong; there is no partial list.
    pub async fn model_limits(&self, org: &OrgId) -> Result<Vec<ModelLimit>, Error> {
        let path = ["orgs", org.as_str(), "aiModelApiRateLimits"];
        self.list(
            Endpoint::AiModelApiRateLimits,
            Some(org),
            &path,
            None,
            wire::model_limit,
        )
        .await
        .map(|list| list.items)
    }

    /// Asks Atlas for its token buckets. `org` is one of the credential's organizations.
    ///
    /// # Errors
    /// Whatever went wrong.
    pub async fn rate_limits(&self, org: &OrgId) -> Result<Vec<EndpointSet>, Error> {
        self.list(
            Endpoint::RateLimits,
            None,
            &["rateLimits"],
            Some(org),
            wire::endpoint_set,
        )
        .await
        .map(|list| list.items)
    }

    /// Lets the budget know which buckets there are.
    pub fn learn(&self, sets: Vec<EndpointSet>) {
        debug!(credential = &**self.name(), ?sets, "rate limits learnt");
        self.budgets.learn_sets(self.name(), sets);
    }

    /// How long a walk of `org` that began now would have to wait for its first page.
    pub fn delay(&self, org: &OrgId) -> Duration {
        self.budgets
            .delay(self.name(), Endpoint::AiModelApiKeys, Some(org))
    }

    /// Which bucket the pages of `org` draw on, and how many of them a second it can give for ever;
    /// none while that is not known.
    pub fn supply(&self, org: &OrgId) -> (LaneId, Option<f64>) {
        self.budgets
            .supply(self.name(), Endpoint::AiModelApiKeys, Some(org))
    }

    /// Told that a file of the credential has changed: what was remembered of the old one's
    /// failures is forgotten, and a token is made anew at the next request.
    pub async fn credential_changed(&self) {
        self.auth.changed().await;
    }

    /// Ends the access token, if there is one.
    pub async fn close(&self) {
        self.auth.close(&self.line).await;
    }

    fn url(
        &self,
        endpoint: Endpoint,
        path: &[&str],
        page: Option<(u32, u32)>,
    ) -> Result<Url, Error> {
        let mut url = self.config.base_url.clone();
        url.path_segments_mut()
            .map_err(|()| Problem::Invalid("the base URL has no path".to_owned()).at(endpoint))?
            .pop_if_empty()
            .extend(["api", "atlas", "v2"])
            .extend(path);
        if let Some((size, page)) = page {
            url.set_query(Some(&format!("itemsPerPage={size}&pageNum={page}")));
        }
        Ok(url)
    }

    /// Reads every page of a list with `read`. `about` goes into the query.
    async fn list<T: PartialEq + Send + 'static>(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        path: &[&str],
        about: Option<&OrgId>,
        read: fn(Field<'_>) -> Option<T>,
    ) -> Result<List<T>, Error> {
        let mut pagination = Pagination::new(LIST_PAGE);
        let (mut all, mut previous) = (Vec::new(), 0);
        for page in 1..=MAX_LIST_PAGES {
            let mut url = self.url(endpoint, path, Some((LIST_PAGE, page)))?;
            if let Some(about) = about {
                url.query_pairs_mut().append_pair("orgId", about.as_str());
            }
            let answer = self.get(endpoint, org, &url).await?;
            let found: Page<T> = answer
                .parse(move |body| wire::list(body, LIST_PAGE as usize, read))
                .await
                .map_err(|problem| problem.at(endpoint))?;
            let repeats =
                !found.items.is_empty() && all.get(previous..) == Some(found.items.as_slice());
            let follows = pagination.add(PageSummary {
                results: found.results,
                repeated: if repeats { found.results } else { 0 },
                next: found.next,
                total: found.total,
            });
            if pagination.is_endless() {
                return Err(Problem::Incomplete(format!(
                    "page {page} is empty, as those before it, and still names a next one"
                ))
                .at(endpoint));
            }
            if repeats && (follows == NextPage::Linked || found.results >= LIST_PAGE as usize) {
                return Err(
                    Problem::Incomplete(format!("page {page} repeats the page before it"))
                        .at(endpoint),
                );
            }
            if !repeats {
                previous = all.len();
                all.extend(found.items);
            }
            if repeats || follows == NextPage::None {
                if let Some(total) = pagination.unmet_total() {
                    debug!(%endpoint, results = all.len(), total, "list is shorter than its totalCount");
                }
                return Ok(List {
                    items: all,
                    is_short: pagination.expects_more(),
                });
            }
        }
        Err(Problem::Incomplete(format!(
            "{MAX_LIST_PAGES} pages were read and there is still a next one"
        ))
        .at(endpoint))
    }

    /// Gets `url` once the budget gives leave, whatever the answer's status; again where that can
    /// help.
    async fn get(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        url: &Url,
    ) -> Result<Answer, Error> {
        self.get_throttled(endpoint, org, url, &mut Duration::default())
            .await
    }

    /// The same, and adds to `throttled` how long the rate limit made the request wait.
    async fn get_throttled(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        url: &Url,
        throttled: &mut Duration,
    ) -> Result<Answer, Error> {
        let mut second_try = true;
        let mut waited = Duration::ZERO;
        loop {
            let (ticket, wait) = self.leave(endpoint, org).await;
            *throttled += wait;
            // the semaphore is never closed
            let slot = self.slots.acquire().await.ok();
            let answer = self.get_authorized(endpoint, url).await;
            drop(slot);
            let retry = match &answer {
                // a kept connection may have been closed from the other side just now
                Err(error) if second_try && matches!(error.problem, Problem::Connection(_)) => {
                    Retry::Connection
                }
                Err(_) => return answer,
                Ok(good) => match good.status.as_u16() {
                    status @ (429 | 503) => {
                        let patience = if status == 429 {
                            self.config.patience
                        } else {
                            self.config.patience.min(OUTAGE_PATIENCE)
                        };
                        waited += self.refused(endpoint, org, ticket, good);
                        if waited > patience {
                            return answer;
                        }
                        let why = if status == 429 {
                            Retry::RateLimited
                        } else {
                            Retry::ServerError
                        };
                        debug!(%endpoint, status, "waiting for another try");
                        self.observer.retry(endpoint, why);
                        continue;
                    }
                    500 | 502 | 504 if second_try => {
                        self.answered(endpoint, org, ticket, good);
                        Retry::ServerError
                    }
                    _ => {
                        self.answered(endpoint, org, ticket, good);
                        return answer;
                    }
                },
            };
            second_try = false;
            debug!(%endpoint, reason = retry.as_str(), "one more try");
            tokio::time::sleep(SECOND_TRY_AFTER.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            self.observer.retry(endpoint, retry);
        }
    }

    /// Waits for the budget, and says how long that took.
    async fn leave(&self, endpoint: Endpoint, org: Option<&OrgId>) -> (Ticket, Duration) {
        let (ticket, waited) = self.budgets.take(self.name(), endpoint, org).await;
        // less is what handing over the turn takes
        if waited >= Duration::from_millis(10) {
            self.observer.throttled(endpoint, org, waited);
        }
        (ticket, waited)
    }

    async fn get_authorized(&self, endpoint: Endpoint, url: &Url) -> Result<Answer, Error> {
        // a challenge, a stale nonce, a renewed token, an older version: each at most once
        for _ in 0..4 {
            let permit = self
                .auth
                .permit(&self.line, endpoint, &Method::GET, url)
                .await?;
            let preview = self.fallen_back.load(Ordering::Relaxed);
            let mut request = Request::new(Method::GET, url.clone());
            let accept = self.accept(endpoint, preview);
            request.headers_mut().insert(ACCEPT, accept);
            if let Some(value) = permit.header().map_err(|problem| problem.at(endpoint))? {
                request.headers_mut().insert(AUTHORIZATION, value);
            }
            let answer = self.line.send(endpoint, request).await?;
            let retry = match answer.status {
                StatusCode::UNAUTHORIZED => self.auth.refused(permit, &answer.headers).await,
                StatusCode::NOT_ACCEPTABLE if endpoint == Endpoint::AiModelApiKeys && !preview => {
                    self.fall_back();
                    Some(Retry::NotAcceptable)
                }
                _ => None,
            };
            match retry {
                Some(why) => self.observer.retry(endpoint, why),
                None => return Ok(answer),
            }
        }
        Err(Problem::Unauthorized(super::ErrorCode::default()).at(endpoint))
    }

    fn accept(&self, endpoint: Endpoint, preview: bool) -> HeaderValue {
        match endpoint {
            Endpoint::RateLimits => RATE_LIMITS_VERSION,
            Endpoint::Orgs | Endpoint::Org | Endpoint::Groups => OLD_VERSION,
            _ if preview => self.accept_preview.clone(),
            _ => self.accept.clone(),
        }
    }

    fn fall_back(&self) {
        if !self.fallen_back.swap(true, Ordering::Relaxed) {
            warn!(
                credential = &**self.name(),
                refused = self.accept.to_str().unwrap_or_default(),
                "Atlas does not have this version of the API (HTTP 406); asking for the preview from now on, see --atlas.api-version"
            );
        }
    }

    fn answered(&self, endpoint: Endpoint, org: Option<&OrgId>, ticket: Ticket, answer: &Answer) {
        let (capacity, remaining) = (
            answer.number("ratelimit-limit"),
            answer.number("ratelimit-remaining"),
        );
        ticket.answered(capacity, remaining);
        // a limit of 0 on a good answer is no limit at all but a server that fills in nothing
        if capacity == Some(0) || (capacity.is_none() && remaining.is_none()) {
            return;
        }
        self.observer.rate_limit(endpoint, org, capacity, remaining);
    }

    /// A refusal (429, 503): how long nobody may send anything to this bucket.
    fn refused(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        ticket: Ticket,
        answer: &Answer,
    ) -> Duration {
        let empty = answer.status == StatusCode::TOO_MANY_REQUESTS;
        let size = answer.bucket_size().filter(|_| empty);
        if empty {
            let capacity = size.map(|size| size.capacity);
            self.observer.rate_limit(endpoint, org, capacity, Some(0));
        }
        self.budgets
            .refused(ticket, answer.retry_after(), empty, size)
    }
}
