//! The requests of one credential.

mod request;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use secrecy::ExposeSecret as _;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::auth::{Authenticator, TokenStore};
use crate::clock::Clock;
use crate::credential::Credential;
use crate::error::{Endpoint, Error, ErrorKind};
use crate::ids::{KeyId, OrgId};
use crate::observer::ClientObserver;
use crate::pagination::{NextPage, PageSummary, Pagination};
use crate::proxy::ProxyRoute;
use crate::rate_limit::{BucketRate, EndpointSet, RateLimiter, RequestTarget};
use crate::transport::{ObservedTransport, Transport};
use crate::wire::{
    self, ApiKey, ClientSecret, JsonField, KeyPage, ModelLimit, OptionalFields, OrgSummary, Project,
};

/// The version of the API that is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiVersion {
    /// `application/vnd.atlas.preview+json`.
    Preview,
    /// `application/vnd.atlas.DATE+json`.
    Date(String),
}

impl ApiVersion {
    fn media_type(&self) -> Result<HeaderValue, String> {
        match self {
            Self::Preview => Ok(PREVIEW_API_VERSION),
            Self::Date(date) => format!("application/vnd.atlas.{date}+json")
                .try_into()
                .map_err(|error: reqwest::header::InvalidHeaderValue| error.to_string()),
        }
    }
}

/// The configuration of a [`Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The name of the credential in metrics and logs.
    pub credential_name: Arc<str>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// The credential.
    pub credential: Credential,
    /// Atlas' address, ending in a slash.
    pub base_url: Url,
    /// The proxy, if any.
    pub route: ProxyRoute,
    /// The version of the API.
    pub api_version: ApiVersion,
    /// The timeout of one request, from the connection to the last byte.
    pub request_timeout: Duration,
    /// The maximum time for which a rate-limited request is retried before it fails.
    pub max_retry_wait: Duration,
}

/// The dependencies of a [`Client`].
#[derive(Clone)]
pub struct ClientDeps {
    /// Sends the requests.
    pub transport: Arc<dyn Transport>,
    /// The rate limiter of the process.
    pub rate_limiter: Arc<RateLimiter>,
    /// Stores the access token, if it should outlive the process.
    pub token_store: Option<Arc<dyn TokenStore>>,
    /// Receives the events of all requests.
    pub observer: Arc<dyn ClientObserver>,
    /// The time of day.
    pub clock: Clock,
}

/// Maximum number of concurrent requests of one credential.
const MAX_CONCURRENT_REQUESTS: usize = 16;
/// Number of results on a page of a list.
const LIST_PAGE_SIZE: u32 = 500;
/// Maximum number of pages of a list.
const MAX_LIST_PAGES: u32 = 200;
/// The preview of the API.
const PREVIEW_API_VERSION: HeaderValue =
    HeaderValue::from_static("application/vnd.atlas.preview+json");

/// A complete list.
#[derive(Debug)]
pub struct ListResult<T> {
    /// The items.
    pub items: Vec<T>,
    /// Whether there are fewer items than `totalCount`: a missing item may still exist.
    pub is_incomplete: bool,
}

/// The organizations that are visible to a credential.
pub type OrgList = ListResult<OrgSummary>;

/// A client with one credential. All polls of its organizations share it, with its connections, token and nonce.
pub struct Client {
    config: ClientConfig,
    deps: ClientDeps,
    media_type: HeaderValue,
    using_preview: AtomicBool,
    auth: Authenticator,
    transport: ObservedTransport,
    concurrency: Semaphore,
}

impl Client {
    /// Creates a client, without sending a request.
    ///
    /// # Errors
    /// Returns a message if the base URL or the version is invalid.
    pub fn new(config: ClientConfig, deps: ClientDeps) -> Result<Self, String> {
        if config.base_url.cannot_be_a_base() {
            return Err("invalid base URL: expected http or https".to_owned());
        }
        Ok(Self {
            media_type: config.api_version.media_type()?,
            using_preview: AtomicBool::new(config.api_version == ApiVersion::Preview),
            auth: Authenticator::new(&config, &deps),
            transport: ObservedTransport::new(config.request_timeout, deps.clone()),
            concurrency: Semaphore::new(MAX_CONCURRENT_REQUESTS),
            config,
            deps,
        })
    }

    /// Returns the configuration of the client.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Returns the name of the credential in metrics and logs.
    pub fn credential_name(&self) -> &Arc<str> {
        &self.config.credential_name
    }

    /// Lists the keys of `org` on page `page` (from 1), with `size` keys per page (1 to 500).
    ///
    /// # Errors
    /// Returns the [`Error`] of the last attempt.
    pub async fn list_keys_page(
        &self,
        org: &OrgId,
        page: u32,
        size: u32,
        optional: OptionalFields,
    ) -> Result<KeyPage, Error> {
        let parse = self.request_keys_page(org, page, size, optional).await?;
        parse.await
    }

    /// Requests the same page as [`Client::list_keys_page`], and returns a future that parses the response. While it runs,
    /// the caller can send the next request.
    ///
    /// # Errors
    /// Returns the [`Error`] of the last attempt. A status other than 2xx is an error of the returned future.
    pub async fn request_keys_page(
        &self,
        org: &OrgId,
        page: u32,
        size: u32,
        optional: OptionalFields,
    ) -> Result<impl Future<Output = Result<KeyPage, Error>> + Send + use<>, Error> {
        let target = self.target(Endpoint::AiModelApiKeys, Some(org));
        let url = page_url(&self.url(target, &[org.as_str()]), page, size);
        let response = self.get(target, &url).await?;
        Ok(async move {
            let parse = move |body: &str| wire::parse_key_page(body, size as usize, optional);
            let fetched = response.parse(Endpoint::AiModelApiKeys, parse).await?;
            Ok(KeyPage {
                rate_limit_wait: fetched.rate_limit_wait,
                ..fetched.value
            })
        })
    }

    /// Returns one key of `org`; `None` if it does not exist (any more).
    ///
    /// # Errors
    /// Returns the [`Error`] of the last attempt.
    pub async fn get_key(
        &self,
        org: &OrgId,
        id: &KeyId,
        optional: OptionalFields,
    ) -> Result<Option<ApiKey>, Error> {
        let target = self.target(Endpoint::AiModelApiKey, Some(org));
        let url = self.url(target, &[org.as_str(), id.as_str()]);
        let parse = move |body: &str| wire::parse_key(body, optional);
        match self.fetch(target, &url, parse).await {
            Ok(fetched) => Ok(Some(fetched.value)),
            Err(error) if matches!(error.kind, ErrorKind::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the organizations that are visible to the credential.
    ///
    /// # Errors
    /// Returns the [`Error`] of the last attempt. A partial list is never returned.
    pub async fn list_orgs(&self) -> Result<OrgList, Error> {
        self.list_all(Endpoint::Orgs, None, wire::parse_org).await
    }

    /// Returns the name of `org`; `None` if Atlas does not report one.
    ///
    /// # Errors
    /// Returns the [`Error`] of the last attempt.
    pub async fn get_org_name(&self, org: &OrgId) -> Result<Option<String>, Error> {
        let target = self.target(Endpoint::Org, Some(org));
        let url = self.url(target, &[org.as_str()]);
        let fetched = self.fetch(target, &url, wire::parse_org_name).await?;
        Ok(fetched.value)
    }

    /// Lists the projects of `org`, each with the value of the tag with the key `tag`.
    ///
    /// # Errors
    /// Returns the [`Error`] of the last attempt. A partial list is never returned.
    pub async fn list_projects(
        &self,
        org: &OrgId,
        tag: Option<&str>,
    ) -> Result<Vec<Project>, Error> {
        let tag: Option<Arc<str>> = tag.map(Arc::from);
        let parse = move |project: JsonField<'_>| wire::parse_project(project, tag.as_deref());
        let list = self.list_all(Endpoint::Groups, Some(org), parse);
        Ok(list.await?.items)
    }

    /// Lists the limits of `org` for groups of models.
    ///
    /// # Errors
    /// Returns the [`Error`] of the last attempt. A partial list is never returned.
    pub async fn list_model_limits(&self, org: &OrgId) -> Result<Vec<ModelLimit>, Error> {
        let endpoint = Endpoint::AiModelApiRateLimits;
        let list = self.list_all(endpoint, Some(org), wire::parse_model_limit);
        Ok(list.await?.items)
    }

    /// Lists the token buckets of Atlas. `org` is one of the credential's organizations.
    ///
    /// # Errors
    /// Returns the [`Error`] of the last attempt. A partial list is never returned.
    pub async fn list_rate_limits(&self, org: &OrgId) -> Result<Vec<EndpointSet>, Error> {
        let list = self.list_all(Endpoint::RateLimits, Some(org), wire::parse_endpoint_set);
        Ok(list.await?.items)
    }

    /// Lists the client secrets of the service account that the client uses. `None` if they are not visible: the account
    /// belongs to another organization or to a project, or the credential is no service account of Atlas.
    ///
    /// # Errors
    /// Returns the [`Error`] of the last attempt.
    pub async fn list_client_secrets(
        &self,
        org: &OrgId,
    ) -> Result<Option<Vec<ClientSecret>>, Error> {
        let target = self.target(Endpoint::ServiceAccount, Some(org));
        let id = self.auth.client_id().await;
        let id = id.map_err(|error| ErrorKind::from(error).with_endpoint(target.endpoint))?;
        let Some(id) = id.filter(|id| wire::is_client_id(id.expose_secret())) else {
            return Ok(None);
        };
        let url = self.url(target, &[org.as_str(), id.expose_secret()]);
        let is_hidden =
            |kind: &ErrorKind| matches!(kind, ErrorKind::Forbidden(_) | ErrorKind::NotFound(_));
        match self.fetch(target, &url, wire::parse_client_secrets).await {
            Ok(fetched) => Ok(Some(fetched.value)),
            // A token request that is rejected with 403 is no evidence that the account is not visible.
            Err(error) if error.endpoint == target.endpoint && is_hidden(&error.kind) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the token buckets of Atlas, as returned by [`Self::list_rate_limits`].
    pub fn set_rate_limits(&self, sets: Vec<EndpointSet>) {
        let credential = self.credential_name();
        debug!(credential = &**credential, ?sets, "rate limits loaded");
        self.deps.rate_limiter.set_endpoint_sets(credential, sets);
    }

    /// Returns the time that a request for the first page of keys of `org` would wait.
    pub fn next_delay(&self, org: &OrgId) -> Duration {
        let target = self.target(Endpoint::AiModelApiKeys, Some(org));
        self.deps.rate_limiter.next_delay(target)
    }

    /// Returns the bucket of the pages of `org`, and the rate that it sustains.
    pub fn sustained_rate(&self, org: &OrgId) -> BucketRate {
        let target = self.target(Endpoint::AiModelApiKeys, Some(org));
        self.deps.rate_limiter.sustained_rate(target)
    }

    /// Handles a change of the credential's files: discards failures of the old credential, so that the next request gets
    /// a new token.
    pub async fn on_credential_changed(&self) {
        self.auth.on_credential_changed().await;
    }

    /// Revokes the access token, if there is one.
    pub async fn revoke_token(&self) {
        self.auth.revoke_token(&self.transport).await;
    }

    fn target<'a>(&'a self, endpoint: Endpoint, org: Option<&'a OrgId>) -> RequestTarget<'a> {
        RequestTarget {
            credential: self.credential_name(),
            endpoint,
            org,
        }
    }

    fn url(&self, target: RequestTarget<'_>, ids: &[&str]) -> Url {
        target.endpoint.url(&self.config.base_url, ids)
    }

    /// Fetches all pages of a list. `parse` returns `None` for invalid results.
    async fn list_all<T: PartialEq + Send + 'static>(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        parse: impl Fn(JsonField<'_>) -> Option<T> + Clone + Send + 'static,
    ) -> Result<ListResult<T>, Error> {
        let mut target = self.target(endpoint, org);
        let mut base = self.url(target, org.map(OrgId::as_str).as_slice());
        // The bucket of this endpoint does not belong to the organization, although the organization is a parameter.
        if endpoint == Endpoint::RateLimits
            && let Some(org) = target.org.take()
        {
            base.query_pairs_mut().append_pair("orgId", org.as_str());
        }
        let incomplete = |message| {
            let kind = ErrorKind::PaginationIncomplete(message);
            Err(kind.with_endpoint(endpoint))
        };
        let mut pagination = Pagination::new(LIST_PAGE_SIZE);
        let (mut items, mut previous) = (Vec::new(), 0);
        for number in 1..=MAX_LIST_PAGES {
            let url = page_url(&base, number, LIST_PAGE_SIZE);
            let parse = parse.clone();
            let parse = move |body: &str| wire::parse_list(body, LIST_PAGE_SIZE as usize, parse);
            let page = self.fetch(target, &url, parse).await?.value;
            let is_repeated =
                !page.items.is_empty() && items.get(previous..) == Some(page.items.as_slice());
            let next = pagination.add(PageSummary {
                results: page.results,
                duplicates: if is_repeated { page.results } else { 0 },
                next_link: page.next_link,
                total_count: page.total_count,
            });
            if pagination.is_endless() {
                return incomplete(format!(
                    "page {number} is empty like the pages before it, but links to a next page"
                ));
            }
            let is_full = page.results >= LIST_PAGE_SIZE as usize;
            if is_repeated && (next == NextPage::Linked || is_full) {
                return incomplete(format!("page {number} repeats the previous page"));
            }
            if !is_repeated {
                previous = items.len();
                items.extend(page.items);
            }
            if is_repeated || next == NextPage::None {
                if let Some(total) = pagination.unmet_total() {
                    debug!(%endpoint, results = items.len(), total, "list is shorter than totalCount");
                }
                return Ok(ListResult {
                    items,
                    is_incomplete: pagination.expects_more(),
                });
            }
        }
        incomplete(format!("more than {MAX_LIST_PAGES} pages"))
    }
}

/// Returns the URL of a page of a list.
fn page_url(url: &Url, page: u32, size: u32) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut()
        .append_pair("itemsPerPage", &size.to_string())
        .append_pair("pageNum", &page.to_string());
    url
}

#[cfg(test)]
mod tests;
