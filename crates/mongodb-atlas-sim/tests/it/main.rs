//! Tests of the simulated API, through [`SimHandle::handle`] or over a socket.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test may panic"
)]

mod api_description;
mod authentication;
mod endpoints;
mod events;
mod faults;
mod page_cache;
mod rate_limits;
mod schemas;
mod service_account;
mod tags;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_sim::{SimConfig, SimHandle};
use serde_json::Value;

const STABLE_VERSION: &str = "application/vnd.atlas.2025-03-12+json";
const PREVIEW_VERSION: &str = "application/vnd.atlas.preview+json";
const LEGACY_VERSION: &str = "application/vnd.atlas.2023-01-01+json";
const SERVICE_ACCOUNT_VERSION: &str = "application/vnd.atlas.2024-08-05+json";

/// Returns a configuration without events.
fn static_config(orgs: usize, keys: usize) -> SimConfig {
    SimConfig {
        orgs,
        keys,
        speed: 0.0,
        ..SimConfig::default()
    }
}

/// A clock that a test sets, in minutes after the Unix epoch.
#[derive(Clone, Default)]
struct TestClock(Arc<AtomicI64>);

impl TestClock {
    fn set_minutes(&self, minutes: i64) {
        self.0.store(minutes, Ordering::Relaxed);
    }

    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(self.0.load(Ordering::Relaxed))
    }
}

struct TestResponse {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Vec<u8>,
}

impl TestResponse {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A simulator and the credentials to access it.
struct SimClient {
    sim: SimHandle,
    org: String,
    clock: TestClock,
}

impl SimClient {
    fn new(config: &SimConfig) -> Self {
        let clock = TestClock::default();
        let read = clock.clone();
        let sim = SimHandle::in_process(config, move || read.now());
        let org = sim.org_ids()[0].clone();
        Self { sim, org, clock }
    }

    /// Returns an error if the connection is reset, or the body is truncated or longer than 1 MiB.
    async fn try_send(&self, request: Request<Body>) -> Result<TestResponse, String> {
        let response = self.sim.handle(request).await.ok_or("connection reset")?;
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await;
        Ok(TestResponse {
            status: parts.status,
            headers: parts.headers,
            body: body.map_err(|error| error.to_string())?.to_vec(),
        })
    }

    async fn send(&self, request: Request<Body>) -> TestResponse {
        self.try_send(request).await.expect("a complete response")
    }

    /// Builds a request for a path below `/api/atlas/v2/` with the access token; `ORG` stands for the first organization.
    fn request(&self, accept: &str, path: &str) -> Request<Body> {
        let path = path.replace("ORG", &self.org);
        let token = self.sim.credentials().access_token;
        let request = Request::get(format!("/api/atlas/v2/{path}"))
            .header(header::ACCEPT, accept)
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        request.body(Body::empty()).unwrap()
    }

    async fn get_as(&self, accept: &str, path: &str) -> TestResponse {
        self.send(self.request(accept, path)).await
    }

    async fn get_keys(&self, query: &str) -> TestResponse {
        let path = format!("orgs/ORG/aiModelApiKeys{query}");
        self.get_as(STABLE_VERSION, &path).await
    }

    /// Sends a form to an OAuth endpoint with the given client credentials.
    async fn post_form(&self, path: &str, id: &str, secret: &str, form: &str) -> TestResponse {
        let basic = STANDARD.encode(format!("{id}:{secret}"));
        let request = Request::post(format!("/api/oauth/{path}"))
            .header(header::AUTHORIZATION, format!("Basic {basic}"));
        self.send(request.body(Body::from(form.to_owned())).unwrap())
            .await
    }

    /// Requests an access token with the valid credentials.
    async fn request_token(&self) -> TestResponse {
        let credentials = self.sim.credentials();
        let (id, secret) = (&credentials.client_id, &credentials.client_secret);
        self.post_form("token", id, secret, "grant_type=client_credentials")
            .await
    }

    async fn send_control(&self, method: Method, path: &str, body: Option<Value>) -> TestResponse {
        let body = body.map_or_else(Body::empty, |json| Body::from(json.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(format!("/sim/{path}"));
        self.send(request.body(body).unwrap()).await
    }
}
