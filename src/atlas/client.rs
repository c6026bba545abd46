//! One credential's requests to Atlas: the right version, the right authentication, and one more
//! try where a second request is right and cheaper than giving up a walk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Method, Request, StatusCode, Url};
use tracing::{debug, warn};

use super::auth::Auth;
use super::error::{Endpoint, Error, Problem};
use super::observer::{Observer, Retry};
use super::transport::{Answer, Transport};
use super::wire::{self, KeyPage};
use crate::clock::Clock;
use crate::credentials::Credential;
use crate::ids::OrgId;

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
pub struct ClientConfig {
    /// What the credential is called in metrics and logs.
    pub name: String,
    /// The credential.
    pub credential: Credential,
    /// Atlas' address, ending in a slash.
    pub base_url: Url,
    /// The version of the API to ask for.
    pub version: Version,
    /// What one request may take, connect to last byte.
    pub timeout: Duration,
}

/// How long the second try of a request waits, at most; less by chance.
const SECOND_TRY_AFTER: Duration = Duration::from_millis(500);

/// Asks Atlas on behalf of one credential. Shared by all walks of its organizations: they share
/// its connections, its token and its nonce.
pub struct Client {
    name: String,
    base: Url,
    accept: HeaderValue,
    accept_preview: HeaderValue,
    fallen_back: AtomicBool,
    auth: Auth,
    transport: Transport,
    observer: Arc<dyn Observer>,
}

impl Client {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// A sentence when TLS cannot be set up or the base URL cannot be built upon.
    pub fn new(
        config: ClientConfig,
        observer: Arc<dyn Observer>,
        clock: Clock,
    ) -> Result<Self, String> {
        let accept = HeaderValue::from_str(&config.version.media_type())
            .map_err(|error| error.to_string())?;
        Ok(Self {
            auth: Auth::new(
                &config.name,
                config.credential,
                &config.base_url,
                Arc::clone(&observer),
                clock,
            )?,
            transport: Transport::new(&config.base_url, config.timeout, Arc::clone(&observer))?,
            name: config.name,
            base: config.base_url,
            fallen_back: AtomicBool::new(config.version == Version::Preview),
            accept,
            accept_preview: HeaderValue::from_static("application/vnd.atlas.preview+json"),
            observer,
        })
    }

    /// What the credential is called in metrics and logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Page `page` (from 1) of the keys of `org`, `size` a page (1 to 500).
    ///
    /// # Errors
    /// Whatever went wrong, after one more try where that is right.
    pub async fn keys(&self, org: &OrgId, page: u32, size: u32) -> Result<KeyPage, Error> {
        let endpoint = Endpoint::AiModelApiKeys;
        let problem = |problem: Problem| problem.at(endpoint);
        let path =
            format!("api/atlas/v2/orgs/{org}/aiModelApiKeys?itemsPerPage={size}&pageNum={page}");
        let url = self
            .base
            .join(&path)
            .map_err(|error| problem(Problem::Invalid(error.to_string())))?;
        let answer = self.get(endpoint, &url).await?;
        self.learn(endpoint, org, &answer);
        wire::page(answer.json().map_err(problem)?).map_err(problem)
    }

    /// Ends the access token, if there is one.
    pub async fn close(&self) {
        self.auth.close(&self.transport).await;
    }

    /// Gets `url`, whatever the answer's status; with a second try where one can help.
    async fn get(&self, endpoint: Endpoint, url: &Url) -> Result<Answer, Error> {
        let first = self.get_authorized(endpoint, url).await;
        let retry = match &first {
            // a kept connection may have been closed from the other side just now
            Err(error) if matches!(error.problem, Problem::Connection(_)) => Retry::Connection,
            Ok(answer) if matches!(answer.status.as_u16(), 500 | 502 | 504) => Retry::ServerError,
            _ => return first,
        };
        let wait = SECOND_TRY_AFTER.mul_f64(0.5 + fastrand::f64() / 2.0);
        debug!(%endpoint, reason = retry.as_str(), "one more try");
        tokio::time::sleep(wait).await;
        self.observer.retry(endpoint, retry);
        self.get_authorized(endpoint, url).await
    }

    async fn get_authorized(&self, endpoint: Endpoint, url: &Url) -> Result<Answer, Error> {
        // a challenge, a stale nonce, a renewed token, an older version: each at most once
        for _ in 0..4 {
            let permit = self
                .auth
                .permit(&self.transport, endpoint, &Method::GET, url)
                .await?;
            let preview = self.fallen_back.load(Ordering::Relaxed);
            let mut request = Request::new(Method::GET, url.clone());
            let accept = if preview {
                &self.accept_preview
            } else {
                &self.accept
            };
            request.headers_mut().insert(ACCEPT, accept.clone());
            if let Some(value) = permit.header().map_err(|problem| problem.at(endpoint))? {
                request.headers_mut().insert(AUTHORIZATION, value);
            }
            let answer = self.transport.send(endpoint, request).await?;
            let retry = match answer.status {
                StatusCode::UNAUTHORIZED => self.auth.refused(permit, &answer.headers).await,
                StatusCode::NOT_ACCEPTABLE if !preview => {
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

    fn fall_back(&self) {
        if !self.fallen_back.swap(true, Ordering::Relaxed) {
            warn!(
                credential = self.name,
                refused = self.accept.to_str().unwrap_or_default(),
                "Atlas does not have this version of the API (HTTP 406); asking for the preview from now on, see --atlas.api-version"
            );
        }
    }

    fn learn(&self, endpoint: Endpoint, org: &OrgId, answer: &Answer) {
        let (capacity, remaining) = (
            answer.number("ratelimit-limit"),
            answer.number("ratelimit-remaining"),
        );
        // a limit of 0 on a good answer is no limit at all but a server that fills in nothing
        if capacity == Some(0) || (capacity.is_none() && remaining.is_none()) {
            return;
        }
        self.observer.rate_limit(endpoint, org, capacity, remaining);
    }
}
