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

use super::auth::{Authenticator, TokenStore};
use super::error::{Endpoint, Error, ErrorKind};
use super::observer::{ClientObserver, RetryReason};
use super::pagination::{NextPage, PageSummary, Pagination};
use super::proxy::ProxyRoute;
use super::rate_limit::{BucketKey, EndpointSet, RateLimiter, RequestPermit};
use super::transport::{ObservedTransport, Response, Transport};
use super::wire::{
    self, ApiKey, JsonField, KeyPage, ListPage, ModelLimit, OptionalFields, OrgSummary, Project,
};
use crate::clock::Clock;
use crate::credential::Credential;
use crate::ids::{KeyId, OrgId};

/// The version of the API to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiVersion {
    /// `application/vnd.atlas.preview+json`.
    Preview,
    /// `application/vnd.atlas.DATE+json`.
    Date(String),
}

impl ApiVersion {
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
    pub credential_name: Arc<str>,
    /// The credential.
    pub credential: Credential,
    /// Atlas' address, ending in a slash.
    pub base_url: Url,
    /// How requests reach it.
    pub route: ProxyRoute,
    /// The version of the API to ask for.
    pub api_version: ApiVersion,
    /// What one request may take, connect to last byte.
    pub request_timeout: Duration,
    /// How long a request that was refused for want of budget may wait for another try, before
    /// it counts as failed.
    pub max_retry_wait: Duration,
}

/// What a [`Client`] works with.
#[derive(Clone)]
pub struct ClientDeps {
    /// The way to Atlas.
    pub transport: Arc<dyn Transport>,
    /// The request budgets of the process.
    pub rate_limiter: Arc<RateLimiter>,
    /// Where the live access token is kept, if anywhere.
    pub token_store: Option<Arc<dyn TokenStore>>,
    /// Who is told of every request.
    pub observer: Arc<dyn ClientObserver>,
    /// The time of day.
    pub clock: Clock,
}

/// How long the second try of a request waits, at most; less by chance.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long a request waits for Atlas to be in order again (503), before it counts as failed:
/// long enough for a restart over there, too short to hide an outage.
const MAX_503_WAIT: Duration = Duration::from_secs(30);
/// Requests of one credential that are under way at once.
const MAX_CONCURRENT_REQUESTS: usize = 16;
/// Results that are asked for on a page of a list.
const LIST_PAGE_SIZE: u32 = 500;
/// Pages past which a list is given up.
const MAX_LIST_PAGES: u32 = 200;
/// The version of the neighbouring endpoints, which have no other.
const LEGACY_API_VERSION: HeaderValue =
    HeaderValue::from_static("application/vnd.atlas.2023-01-01+json");
/// The version of the list of rate limits.
const RATE_LIMITS_API_VERSION: HeaderValue =
    HeaderValue::from_static("application/vnd.atlas.2025-03-12+json");

/// A whole list, as far as its pages tell.
struct ListResult<T> {
    items: Vec<T>,
    /// Whether there are fewer than `totalCount` says.
    is_incomplete: bool,
}

/// The organizations that a credential can see.
#[derive(Debug)]
pub struct OrgList {
    /// Those that were listed.
    pub orgs: Vec<OrgSummary>,
    /// Whether there are fewer than `totalCount` says: one that is missing need not be gone.
    pub is_incomplete: bool,
}

/// Asks Atlas on behalf of one credential. Shared by all walks of its organizations: they share
/// its connections, its token and its nonce.
pub struct Client {
    config: ClientConfig,
    accept: HeaderValue,
    accept_preview: HeaderValue,
    using_preview: AtomicBool,
    auth: Authenticator,
    transport: ObservedTransport,
    rate_limiter: Arc<RateLimiter>,
    concurrency: Semaphore,
    observer: Arc<dyn ClientObserver>,
}

impl Client {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// A sentence when the base URL cannot be built upon.
    pub fn new(config: ClientConfig, context: ClientDeps) -> Result<Self, String> {
        let ClientDeps {
            transport,
            rate_limiter: budgets,
            token_store: tokens,
            observer,
            clock,
        } = context;
        let accept = HeaderValue::from_str(&config.api_version.media_type())
            .map_err(|error| error.to_string())?;
        Ok(Self {
            auth: Authenticator::new(
                &config.credential_name,
                config.credential.clone(),
                &config.base_url,
                tokens,
                Arc::clone(&observer),
                clock.clone(),
            )?,
            transport: ObservedTransport::new(
                transport,
                config.request_timeout,
                Arc::clone(&observer),
                clock,
            ),
            using_preview: AtomicBool::new(config.api_version == ApiVersion::Preview),
            accept,
            accept_preview: HeaderValue::from_static("application/vnd.atlas.preview+json"),
            rate_limiter: budgets,
            concurrency: Semaphore::new(MAX_CONCURRENT_REQUESTS),
            observer,
            config,
        })
    }

    /// What it was made from.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// What the credential is called in metrics and logs.
    pub fn credential_name(&self) -> &Arc<str> {
        &self.config.credential_name
    }

    /// Page `page` (from 1) of the keys of `org`, `size` a page (1 to 500).
    ///
    /// # Errors
    /// Whatever went wrong, after one more try where that is right.
    pub async fn list_keys_page(
        &self,
        org: &OrgId,
        page: u32,
        size: u32,
        members: OptionalFields,
    ) -> Result<KeyPage, Error> {
        let endpoint = Endpoint::AiModelApiKeys;
        let path = ["orgs", org.as_str(), "aiModelApiKeys"];
        let url = self.url(endpoint, &path, Some((size, page)))?;
        let mut throttled = Duration::ZERO;
        let answer = self
            .get_throttled(endpoint, Some(org), &url, &mut throttled)
            .await?;
        let page = answer
            .parse(move |body| wire::parse_key_page(body, size as usize, members))
            .await
            .map_err(|problem| problem.with_endpoint(endpoint))?;
        Ok(KeyPage {
            rate_limit_wait: throttled,
            ..page
        })
    }

    /// One key of `org`; none when Atlas does not know it (any more).
    ///
    /// # Errors
    /// Whatever went wrong.
    pub async fn get_key(
        &self,
        org: &OrgId,
        id: &KeyId,
        members: OptionalFields,
    ) -> Result<Option<ApiKey>, Error> {
        let endpoint = Endpoint::AiModelApiKey;
        let path = ["orgs", org.as_str(), "aiModelApiKeys", id.as_str()];
        let url = self.url(endpoint, &path, None)?;
        let answer = self.get(endpoint, Some(org), &url).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer
            .parse(move |body| wire::parse_key(body, members))
            .await
            .map(Some)
            .map_err(|problem| problem.with_endpoint(endpoint))
    }

    /// The organizations that the credential can see.
    ///
    /// # Errors
    /// Whatever went wrong; there is no partial list.
    pub async fn list_orgs(&self) -> Result<OrgList, Error> {
        let list = self.list_all(Endpoint::Orgs, None, &["orgs"], None, wire::parse_org);
        list.await.map(|list| OrgList {
            orgs: list.items,
            is_incomplete: list.is_incomplete,
        })
    }

    /// The name of `org`; none when Atlas does not give one.
    ///
    /// # Errors
    /// Whatever went wrong.
    pub async fn get_org_name(&self, org: &OrgId) -> Result<Option<String>, Error> {
        let endpoint = Endpoint::Org;
        let url = self.url(endpoint, &["orgs", org.as_str()], None)?;
        let answer = self.get(endpoint, Some(org), &url).await?;
        answer
            .parse(wire::parse_org_name)
            .await
            .map_err(|problem| problem.with_endpoint(endpoint))
    }

    /// The projects of `org`.
    ///
    /// # Errors
    /// Whatever went wrong; there is no partial list.
    pub async fn list_projects(&self, org: &OrgId) -> Result<Vec<Project>, Error> {
        let path = ["orgs", org.as_str(), "groups"];
        self.list_all(
            Endpoint::Groups,
            Some(org),
            &path,
            None,
            wire::parse_project,
        )
        .await
        .map(|list| list.items)
    }

    /// The limits of `org` for the models.
    ///
    /// # Errors
    /// Whatever went wrong; there is no partial list.
    pub async fn list_model_limits(&self, org: &OrgId) -> Result<Vec<ModelLimit>, Error> {
        let path = ["orgs", org.as_str(), "aiModelApiRateLimits"];
        self.list_all(
            Endpoint::AiModelApiRateLimits,
            Some(org),
            &path,
            None,
            wire::parse_model_limit,
        )
        .await
        .map(|list| list.items)
    }

    /// Asks Atlas for its token buckets. `org` is one of the credential's organizations.
    ///
    /// # Errors
    /// Whatever went wrong.
    pub async fn list_rate_limits(&self, org: &OrgId) -> Result<Vec<EndpointSet>, Error> {
        self.list_all(
            Endpoint::RateLimits,
            None,
            &["rateLimits"],
            Some(org),
            wire::parse_endpoint_set,
        )
        .await
        .map(|list| list.items)
    }

    /// Lets the budget know which buckets there are.
    pub fn set_rate_limits(&self, sets: Vec<EndpointSet>) {
        debug!(
            credential = &**self.credential_name(),
            ?sets,
            "rate limits learnt"
        );
        self.rate_limiter
            .set_endpoint_sets(self.credential_name(), sets);
    }

    /// How long a walk of `org` that began now would have to wait for its first page.
    pub fn next_delay(&self, org: &OrgId) -> Duration {
        self.rate_limiter
            .next_delay(self.credential_name(), Endpoint::AiModelApiKeys, Some(org))
    }

    /// Which bucket the pages of `org` draw on, and how many of them a second it can give for ever;
    /// none while that is not known.
    pub fn sustained_rate(&self, org: &OrgId) -> (BucketKey, Option<f64>) {
        self.rate_limiter.sustained_rate(
            self.credential_name(),
            Endpoint::AiModelApiKeys,
            Some(org),
        )
    }

    /// Told that a file of the credential has changed: what was remembered of the old one's
    /// failures is forgotten, and a token is made anew at the next request.
    pub async fn on_credential_changed(&self) {
        self.auth.on_credential_changed().await;
    }

    /// Ends the access token, if there is one.
    pub async fn revoke_token(&self) {
        self.auth.revoke_token(&self.transport).await;
    }

    fn url(
        &self,
        endpoint: Endpoint,
        path: &[&str],
        page: Option<(u32, u32)>,
    ) -> Result<Url, Error> {
        let mut url = self.config.base_url.clone();
        url.path_segments_mut()
            .map_err(|()| {
                ErrorKind::InvalidResponse("the base URL has no path".to_owned())
                    .with_endpoint(endpoint)
            })?
            .pop_if_empty()
            .extend(["api", "atlas", "v2"])
            .extend(path);
        if let Some((size, page)) = page {
            url.set_query(Some(&format!("itemsPerPage={size}&pageNum={page}")));
        }
        Ok(url)
    }

    /// Reads every page of a list with `read`. `about` goes into the query.
    async fn list_all<T: PartialEq + Send + 'static>(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        path: &[&str],
        about: Option<&OrgId>,
        read: fn(JsonField<'_>) -> Option<T>,
    ) -> Result<ListResult<T>, Error> {
        let mut pagination = Pagination::new(LIST_PAGE_SIZE);
        let (mut all, mut previous) = (Vec::new(), 0);
        for page in 1..=MAX_LIST_PAGES {
            let mut url = self.url(endpoint, path, Some((LIST_PAGE_SIZE, page)))?;
            if let Some(about) = about {
                url.query_pairs_mut().append_pair("orgId", about.as_str());
            }
            let answer = self.get(endpoint, org, &url).await?;
            let found: ListPage<T> = answer
                .parse(move |body| wire::parse_list(body, LIST_PAGE_SIZE as usize, read))
                .await
                .map_err(|problem| problem.with_endpoint(endpoint))?;
            let repeats =
                !found.items.is_empty() && all.get(previous..) == Some(found.items.as_slice());
            let follows = pagination.add(PageSummary {
                results: found.results,
                duplicates: if repeats { found.results } else { 0 },
                next_link: found.next_link,
                total_count: found.total_count,
            });
            if pagination.is_endless() {
                return Err(ErrorKind::PaginationIncomplete(format!(
                    "page {page} is empty, as those before it, and still names a next one"
                ))
                .with_endpoint(endpoint));
            }
            if repeats && (follows == NextPage::Linked || found.results >= LIST_PAGE_SIZE as usize)
            {
                return Err(ErrorKind::PaginationIncomplete(format!(
                    "page {page} repeats the page before it"
                ))
                .with_endpoint(endpoint));
            }
            if !repeats {
                previous = all.len();
                all.extend(found.items);
            }
            if repeats || follows == NextPage::None {
                if let Some(total) = pagination.unmet_total() {
                    debug!(%endpoint, results = all.len(), total, "list is shorter than its totalCount");
                }
                return Ok(ListResult {
                    items: all,
                    is_incomplete: pagination.expects_more(),
                });
            }
        }
        Err(ErrorKind::PaginationIncomplete(format!(
            "{MAX_LIST_PAGES} pages were read and there is still a next one"
        ))
        .with_endpoint(endpoint))
    }

    /// Gets `url` once the budget gives leave, whatever the answer's status; again where that can
    /// help.
    async fn get(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        url: &Url,
    ) -> Result<Response, Error> {
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
    ) -> Result<Response, Error> {
        let mut second_try = true;
        let mut waited = Duration::ZERO;
        loop {
            let (ticket, wait) = self.acquire_permit(endpoint, org).await;
            *throttled += wait;
            // the semaphore is never closed
            let slot = self.concurrency.acquire().await.ok();
            let answer = self.send_authenticated(endpoint, url).await;
            drop(slot);
            let retry = match &answer {
                // a kept connection may have been closed from the other side just now
                Err(error) if second_try && matches!(error.kind, ErrorKind::Connection(_)) => {
                    RetryReason::Connection
                }
                Err(_) => return answer,
                Ok(good) => match good.status.as_u16() {
                    status @ (429 | 503) => {
                        let patience = if status == 429 {
                            self.config.max_retry_wait
                        } else {
                            self.config.max_retry_wait.min(MAX_503_WAIT)
                        };
                        waited += self.record_rejection(endpoint, org, ticket, good);
                        if waited > patience {
                            return answer;
                        }
                        let why = if status == 429 {
                            RetryReason::RateLimited
                        } else {
                            RetryReason::ServerError
                        };
                        debug!(%endpoint, status, "waiting for another try");
                        self.observer.request_retried(endpoint, why);
                        continue;
                    }
                    500 | 502 | 504 if second_try => {
                        self.record_response(endpoint, org, ticket, good);
                        RetryReason::ServerError
                    }
                    _ => {
                        self.record_response(endpoint, org, ticket, good);
                        return answer;
                    }
                },
            };
            second_try = false;
            debug!(%endpoint, reason = retry.as_str(), "one more try");
            tokio::time::sleep(RETRY_DELAY.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            self.observer.request_retried(endpoint, retry);
        }
    }

    /// Waits for the budget, and says how long that took.
    async fn acquire_permit(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
    ) -> (RequestPermit, Duration) {
        let (ticket, waited) = self
            .rate_limiter
            .acquire(self.credential_name(), endpoint, org)
            .await;
        // less is what handing over the turn takes
        if waited >= Duration::from_millis(10) {
            self.observer.request_throttled(endpoint, org, waited);
        }
        (ticket, waited)
    }

    async fn send_authenticated(&self, endpoint: Endpoint, url: &Url) -> Result<Response, Error> {
        // a challenge, a stale nonce, a renewed token, an older version: each at most once
        for _ in 0..4 {
            let permit = self
                .auth
                .authorize(&self.transport, endpoint, &Method::GET, url)
                .await?;
            let preview = self.using_preview.load(Ordering::Relaxed);
            let mut request = Request::new(Method::GET, url.clone());
            let accept = self.accept_header(endpoint, preview);
            request.headers_mut().insert(ACCEPT, accept);
            if let Some(value) = permit
                .header()
                .map_err(|problem| problem.with_endpoint(endpoint))?
            {
                request.headers_mut().insert(AUTHORIZATION, value);
            }
            let answer = self.transport.send(endpoint, request).await?;
            let retry = match answer.status {
                StatusCode::UNAUTHORIZED => {
                    self.auth.on_unauthorized(permit, &answer.headers).await
                }
                StatusCode::NOT_ACCEPTABLE if endpoint == Endpoint::AiModelApiKeys && !preview => {
                    self.fall_back_to_preview();
                    Some(RetryReason::NotAcceptable)
                }
                _ => None,
            };
            match retry {
                Some(why) => self.observer.request_retried(endpoint, why),
                None => return Ok(answer),
            }
        }
        Err(ErrorKind::Unauthorized(super::ErrorCode::default()).with_endpoint(endpoint))
    }

    fn accept_header(&self, endpoint: Endpoint, preview: bool) -> HeaderValue {
        match endpoint {
            Endpoint::RateLimits => RATE_LIMITS_API_VERSION,
            Endpoint::Orgs | Endpoint::Org | Endpoint::Groups => LEGACY_API_VERSION,
            _ if preview => self.accept_preview.clone(),
            _ => self.accept.clone(),
        }
    }

    fn fall_back_to_preview(&self) {
        if !self.using_preview.swap(true, Ordering::Relaxed) {
            warn!(
                credential = &**self.credential_name(),
                refused = self.accept.to_str().unwrap_or_default(),
                "Atlas does not have this version of the API (HTTP 406); asking for the preview from now on, see --atlas.api-version"
            );
        }
    }

    fn record_response(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        ticket: RequestPermit,
        answer: &Response,
    ) {
        let (capacity, remaining) = (
            answer.header_u64("ratelimit-limit"),
            answer.header_u64("ratelimit-remaining"),
        );
        ticket.on_response(capacity, remaining);
        // a limit of 0 on a good answer is no limit at all but a server that fills in nothing
        if capacity == Some(0) || (capacity.is_none() && remaining.is_none()) {
            return;
        }
        self.observer
            .rate_limit_updated(endpoint, org, capacity, remaining);
    }

    /// A refusal (429, 503): how long nobody may send anything to this bucket.
    fn record_rejection(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        ticket: RequestPermit,
        answer: &Response,
    ) -> Duration {
        let empty = answer.status == StatusCode::TOO_MANY_REQUESTS;
        let size = answer.bucket_params().filter(|_| empty);
        if empty {
            let capacity = size.map(|size| size.capacity);
            self.observer
                .rate_limit_updated(endpoint, org, capacity, Some(0));
        }
        self.rate_limiter
            .on_rejected(ticket, answer.retry_after(), empty, size)
    }
}
