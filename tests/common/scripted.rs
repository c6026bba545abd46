//! A client with responses from a function of the test, for responses that the simulator does not send.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atlas_ai_keys_exporter::credentials::{self, Environment};
use futures_util::future::BoxFuture;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{
    ApiVersion, Client, ClientConfig, ClientDeps, ClientObserver, ErrorKind, ProxyRoute, Response,
    Transport,
};
use reqwest::Request;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// Initial time of a scripted client, which advances with tokio's time.
pub const START_TIME: &str = "2026-03-01T12:00:00Z";

/// Returns a response with these headers and this body, as JSON unless a header says otherwise.
pub fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
    let mut map = HeaderMap::new();
    map.insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.insert(name, HeaderValue::from_str(value).unwrap());
    }
    Response {
        status: reqwest::StatusCode::from_u16(status).unwrap(),
        headers: map,
        body: body.as_bytes().to_vec().into(),
    }
}

type RespondFn = dyn Fn(&Request) -> Response + Send + Sync;

/// Responds with the result of a function, and records the request paths.
pub struct ScriptedTransport {
    respond: Box<RespondFn>,
    paths: Mutex<Vec<String>>,
}

impl ScriptedTransport {
    /// Returns a client with the credential in `variables`, and its transport. Must be called in a runtime.
    pub fn client(
        variables: &[(&str, &str)],
        respond: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> (Client, Arc<Self>) {
        let scripted = Arc::new(Self {
            respond: Box::new(respond),
            paths: Mutex::default(),
        });
        let environment = Environment::from_vars(variables.iter().copied());
        let config = ClientConfig {
            credential_name: "default".into(),
            user_agent: "test".to_owned(),
            credential: credentials::from_env(&environment).unwrap().to_client(),
            base_url: "https://atlas.invalid/".parse().unwrap(),
            route: ProxyRoute::Direct,
            api_version: ApiVersion::Preview,
            request_timeout: Duration::from_secs(10),
            max_retry_wait: Duration::ZERO,
        };
        let context = ClientDeps {
            transport: Arc::clone(&scripted) as Arc<dyn Transport>,
            rate_limiter: Arc::default(),
            token_store: None,
            observer: Arc::new(NoopObserver),
            clock: Clock::simulated(START_TIME.parse().unwrap()),
        };
        (Client::new(config, context).unwrap(), scripted)
    }

    /// Returns the number of requests with this path suffix.
    pub fn request_count(&self, end: &str) -> usize {
        let paths = self.paths.lock().unwrap();
        paths.iter().filter(|path| path.ends_with(end)).count()
    }
}

impl Transport for ScriptedTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, ErrorKind>> {
        self.paths
            .lock()
            .unwrap()
            .push(request.url().path().to_owned());
        let response = (self.respond)(&request);
        Box::pin(async move { Ok(response) })
    }
}

/// Ignores all events.
pub struct NoopObserver;

impl ClientObserver for NoopObserver {}
