//! The token of a service account: when it is requested, renewed, dropped and revoked, in simulated time.

mod stored;

use std::sync::{Mutex as SyncMutex, MutexGuard};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::*;
use crate::auth::TokenStore;
use crate::client::ApiVersion;
use crate::clock::Clock;
use crate::credential::{Credential, StaticSecret};
use crate::observer::ClientObserver;
use crate::proxy::ProxyRoute;
use crate::transport::Transport;

const START_TIME: &str = "2026-03-01T12:00:00Z";

const HOUR: u64 = 3600;

#[derive(Debug, Clone, PartialEq, Eq)]
enum TokenEvent {
    Requested,
    RevocationRequested,
    Saved,
    Cleared,
    ExpiryChanged(Timestamp),
    Rejected,
}

/// A response of the token endpoint.
#[derive(Clone, Copy)]
enum TokenReply {
    /// Issues a token with this lifetime in seconds.
    Issued(u64),
    /// Fails with a status and a `Retry-After`.
    Failed(u16, Option<u64>),
}

/// Token endpoint, store and observer of one provider. Records all events with their times.
struct TokenRecorder {
    started_at: Instant,
    reply: SyncMutex<TokenReply>,
    events: SyncMutex<Vec<(u64, TokenEvent)>>,
    stored: SyncMutex<Option<StoredToken>>,
}

fn lock<T>(mutex: &SyncMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics with the lock held")
}

impl TokenRecorder {
    fn record(&self, event: TokenEvent) {
        lock(&self.events).push((self.started_at.elapsed().as_secs(), event));
    }

    /// Returns the times of the requests for a token, in seconds since the start.
    fn request_times(&self) -> Vec<u64> {
        let events = lock(&self.events);
        let requests = events
            .iter()
            .filter(|(_, event)| *event == TokenEvent::Requested);
        requests.map(|(at, _)| *at).collect()
    }
}

impl Transport for TokenRecorder {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, ErrorKind>> {
        let is_revocation = request.url().path().ends_with("revoke");
        self.record(if is_revocation {
            TokenEvent::RevocationRequested
        } else {
            TokenEvent::Requested
        });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (status, body) = match *lock(&self.reply) {
            TokenReply::Issued(lifetime) => {
                let number = self.request_times().len();
                let body =
                    format!("{{\"access_token\":\"issued-{number}\",\"expires_in\":{lifetime}}}");
                (200, body)
            }
            TokenReply::Failed(status, retry_after) => {
                if let Some(seconds) = retry_after {
                    headers.insert("retry-after", HeaderValue::from(seconds));
                }
                (status, "{}".to_owned())
            }
        };
        let response = Response {
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            body: body.into_bytes().into(),
        };
        Box::pin(async move { Ok(response) })
    }
}

impl TokenStore for TokenRecorder {
    fn load(&self) -> BoxFuture<'_, Option<StoredToken>> {
        let stored = lock(&self.stored).take();
        Box::pin(async move { stored })
    }

    fn save(&self, _token: StoredToken) -> BoxFuture<'_, ()> {
        self.record(TokenEvent::Saved);
        Box::pin(async {})
    }

    fn clear(&self) -> BoxFuture<'_, ()> {
        self.record(TokenEvent::Cleared);
        Box::pin(async {})
    }
}

impl ClientObserver for TokenRecorder {
    fn token_expiry_changed(&self, _credential: &str, expires_at: Timestamp) {
        self.record(TokenEvent::ExpiryChanged(expires_at));
    }

    fn token_rejected(&self, _credential: &str) {
        self.record(TokenEvent::Rejected);
    }
}

struct TokenFixture {
    recorder: Arc<TokenRecorder>,
    provider: TokenProvider,
    transport: ObservedTransport,
}

impl TokenFixture {
    fn new(reply: TokenReply) -> Self {
        Self::with_client("an-id", "https://atlas.invalid/", reply)
    }

    fn with_client(id: &str, base_url: &str, reply: TokenReply) -> Self {
        let recorder = Arc::new(TokenRecorder {
            started_at: Instant::now(),
            reply: SyncMutex::new(reply),
            events: SyncMutex::default(),
            stored: SyncMutex::default(),
        });
        let secret =
            |value: &str| Arc::new(StaticSecret::new("a test", value)) as Arc<dyn SecretSource>;
        let (id, secret) = (secret(id), secret("a-secret"));
        let credential = Credential::ServiceAccount {
            id: Arc::clone(&id),
            secret: Arc::clone(&secret),
        };
        let config = ClientConfig {
            credential_name: "default".into(),
            user_agent: "test".to_owned(),
            credential,
            base_url: base_url.parse().expect("a URL"),
            route: ProxyRoute::Direct,
            api_version: ApiVersion::Preview,
            request_timeout: Duration::from_secs(10),
            max_retry_wait: Duration::ZERO,
        };
        let deps = ClientDeps {
            transport: Arc::clone(&recorder) as Arc<dyn Transport>,
            rate_limiter: Arc::default(),
            token_store: Some(Arc::clone(&recorder) as Arc<dyn TokenStore>),
            observer: Arc::clone(&recorder) as Arc<dyn ClientObserver>,
            clock: Clock::simulated(START_TIME.parse().expect("a time")),
        };
        Self {
            recorder,
            provider: TokenProvider::new(&config, deps.clone(), id, secret),
            transport: ObservedTransport::new(config.request_timeout, deps),
        }
    }

    /// Stores a token of an earlier process that is valid for `left`.
    async fn store_token(&self, left: Duration) -> Timestamp {
        let client_fingerprint = self.provider.client_fingerprint().await.expect("an id");
        let expires_at = self.provider.deps.clock.now() + left;
        *lock(&self.recorder.stored) = Some(StoredToken {
            client_fingerprint,
            token: SecretString::from("stored"),
            expires_at,
        });
        expires_at
    }

    fn set_reply(&self, reply: TokenReply) {
        *lock(&self.recorder.reply) = reply;
    }

    /// Returns the token with which a request would be sent.
    async fn token(&self) -> Result<String, Error> {
        let token = self.provider.current_token(&self.transport).await?;
        Ok(token.expose_secret().to_owned())
    }

    /// Uses the token each second until `end`, in seconds since the start. Returns each change of the current token with
    /// its second; `None` if there is no token.
    async fn use_until(&self, end: u64) -> Vec<(u64, Option<String>)> {
        let mut used: Vec<(u64, Option<String>)> = Vec::new();
        let start = self.recorder.started_at.elapsed().as_secs();
        for second in start..=end {
            let token = self.token().await.ok();
            if used.last().is_none_or(|(_, last)| *last != token) {
                used.push((second, token));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        used
    }

    async fn on_unauthorized(&self, token: &str) -> bool {
        let token = SecretString::from(token);
        self.provider.on_unauthorized(&token).await
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "compared with the current token, if any"
)]
fn token(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[tokio::test(start_paused = true)]
async fn failed_requests_back_off_from_one_second_to_a_minute() {
    let fixture = TokenFixture::new(TokenReply::Failed(503, None));
    assert_eq!(fixture.use_until(243).await, [(0, None)]);
    let times = fixture.recorder.request_times();
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
    // A success resets the backoff.
    fixture.set_reply(TokenReply::Issued(HOUR));
    assert_eq!(
        fixture.use_until(303).await,
        [(244, None), (303, token("issued-11"))]
    );
    fixture.set_reply(TokenReply::Failed(503, None));
    fixture.use_until(303 + 3307).await;
    let times = fixture.recorder.request_times();
    assert_eq!(times.get(10..), Some(&[303, 3603, 3604, 3606, 3610][..]));
}

#[tokio::test(start_paused = true)]
async fn retry_after_extends_the_backoff_and_never_shortens_it() {
    for (status, retry_after, times) in [
        (429, 300, vec![0, 300, 600]),
        (503, 300, vec![0, 300, 600]),
        (503, 3, vec![0, 3, 6, 10, 18, 34, 66, 126, 186]),
        (503, 0, vec![0, 1, 3, 7, 15, 31, 63, 123, 183]),
    ] {
        let fixture = TokenFixture::new(TokenReply::Failed(status, Some(retry_after)));
        let end = *times.last().expect("times");
        fixture.use_until(end).await;
        let requests = fixture.recorder.request_times();
        assert_eq!(requests, times, "{status} {retry_after}");
    }
}

#[tokio::test(start_paused = true)]
async fn valid_token_is_used_while_its_renewal_fails() {
    let fixture = TokenFixture::new(TokenReply::Issued(HOUR));
    fixture.use_until(0).await;
    fixture.set_reply(TokenReply::Failed(503, None));
    assert_eq!(
        fixture.use_until(3700).await,
        [(1, token("issued-1")), (3600, None)]
    );
    assert_eq!(
        fixture.recorder.request_times(),
        [
            0, 3300, 3301, 3303, 3307, 3315, 3331, 3363, 3423, 3483, 3543, 3603, 3663
        ]
    );
    fixture.set_reply(TokenReply::Issued(HOUR));
    assert_eq!(
        fixture.use_until(3723).await,
        [(3701, None), (3723, token("issued-14"))]
    );
}

#[tokio::test(start_paused = true)]
async fn token_is_renewed_ahead_of_its_expiry() {
    for (lifetime, renewed_at) in [
        (HOUR, 3300),
        (3000, 2700),
        (100, 90),
        (30, 27),
        // A shorter lifetime causes 401s, but at most one token request every 10 s.
        (5, 10),
        (0, 10),
        (7 * 24 * HOUR, 24 * HOUR - 300),
    ] {
        let fixture = TokenFixture::new(TokenReply::Issued(lifetime));
        assert_eq!(
            fixture.use_until(renewed_at).await,
            [(0, token("issued-1")), (renewed_at, token("issued-2"))],
            "{lifetime}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn issued_token_is_stored_and_its_expiry_reported() {
    let fixture = TokenFixture::new(TokenReply::Issued(HOUR));
    fixture.use_until(10).await;
    let expires_at: Timestamp = "2026-03-01T13:00:00Z".parse().expect("a time");
    let expected = [
        TokenEvent::Requested,
        TokenEvent::ExpiryChanged(expires_at),
        TokenEvent::Saved,
    ];
    assert_eq!(
        *lock(&fixture.recorder.events),
        expected.map(|event| (0, event))
    );
}

#[tokio::test(start_paused = true)]
async fn rejected_token_is_replaced_at_most_once_a_minute() {
    let fixture = TokenFixture::new(TokenReply::Issued(HOUR));
    fixture.use_until(0).await;
    assert!(fixture.on_unauthorized("issued-1").await);
    assert_eq!(fixture.token().await.ok(), token("issued-2"));
    assert!(
        fixture.on_unauthorized("issued-1").await,
        "another request with the old token is retried"
    );
    for _ in 0..59 {
        assert!(!fixture.on_unauthorized("issued-2").await);
        assert_eq!(fixture.token().await.ok(), token("issued-2"));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(fixture.on_unauthorized("issued-2").await);
    assert_eq!(fixture.token().await.ok(), token("issued-3"));
    let rejections = lock(&fixture.recorder.events).clone();
    let rejections = rejections
        .into_iter()
        .filter(|(_, event)| *event == TokenEvent::Rejected);
    assert_eq!(rejections.map(|(at, _)| at).collect::<Vec<_>>(), [1, 61]);
}

#[tokio::test(start_paused = true)]
async fn changed_credential_is_used_right_after_a_401() {
    let fixture = TokenFixture::new(TokenReply::Issued(HOUR));
    fixture.use_until(0).await;
    assert!(fixture.on_unauthorized("issued-1").await);
    assert_eq!(fixture.token().await.ok(), token("issued-2"));
    assert!(!fixture.on_unauthorized("issued-2").await);
    fixture.provider.on_credential_changed().await;
    assert!(
        fixture.on_unauthorized("issued-2").await,
        "the last renewal after a 401 was for another secret"
    );
    assert_eq!(fixture.token().await.ok(), token("issued-3"));
}

#[tokio::test(start_paused = true)]
async fn changed_credential_ends_the_backoff() {
    let fixture = TokenFixture::new(TokenReply::Failed(401, Some(600)));
    fixture.use_until(60).await;
    assert_eq!(fixture.recorder.request_times(), [0]);
    fixture.set_reply(TokenReply::Issued(HOUR));
    fixture.provider.on_credential_changed().await;
    assert_eq!(fixture.token().await.ok(), token("issued-2"));
}

#[tokio::test(start_paused = true)]
async fn changed_credential_renews_the_token_and_keeps_it_if_that_fails() {
    let fixture = TokenFixture::new(TokenReply::Issued(HOUR));
    fixture.use_until(9).await;
    fixture.set_reply(TokenReply::Failed(401, None));
    fixture.provider.on_credential_changed().await;
    assert_eq!(fixture.token().await.ok(), token("issued-1"));
    assert_eq!(fixture.recorder.request_times(), [0, 10]);
    fixture.set_reply(TokenReply::Issued(HOUR));
    assert_eq!(
        fixture.use_until(60).await,
        [(10, token("issued-1")), (11, token("issued-3"))]
    );
}
