//! A client whose Atlas is a function of the test: for responses that no server gives on purpose.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atlas_ai_keys_exporter::credentials::{self, Environment};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{
    Answer, Client, ClientConfig, Context, Endpoint, Observer, Outcome, Problem, Retry, Route,
    TokenOutcome, Transport, Version,
};
use reqwest::Request;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// The time at which a scripted client starts; it moves with tokio's.
pub const START: &str = "2026-03-01T12:00:00Z";

/// A response with these headers and this body, as JSON unless a header says otherwise.
pub fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut map = HeaderMap::new();
    map.insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.insert(name, HeaderValue::from_str(value).unwrap());
    }
    Answer {
        status: reqwest::StatusCode::from_u16(status).unwrap(),
        headers: map,
        body: body.as_bytes().to_vec().into(),
    }
}

type Respond = dyn Fn(&Request) -> Answer + Send + Sync;

/// Answers with a function, and remembers the paths of the requests.
pub struct Scripted {
    respond: Box<Respond>,
    paths: Mutex<Vec<String>>,
}

impl Scripted {
    /// A client with the credential in `variables`, and its transport. Needs a runtime.
    pub fn client(
        variables: &[(&str, &str)],
        respond: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> (Client, Arc<Self>) {
        let scripted = Arc::new(Self {
            respond: Box::new(respond),
            paths: Mutex::default(),
        });
        let environment = Environment::fixed(variables.iter().copied());
        let config = ClientConfig {
            name: "default".into(),
            credential: credentials::find(&environment).unwrap().to_client(),
            base_url: "https://atlas.invalid/".parse().unwrap(),
            route: Route::Direct,
            version: Version::Preview,
            timeout: Duration::from_secs(10),
            patience: Duration::ZERO,
        };
        let context = Context {
            transport: Arc::clone(&scripted) as Arc<dyn Transport>,
            budgets: Arc::default(),
            tokens: None,
            observer: Arc::new(Unheard),
            clock: Clock::virtual_from(START.parse().unwrap()),
        };
        (Client::new(config, context).unwrap(), scripted)
    }

    /// How many requests went to a path that ends like this.
    pub fn requests(&self, end: &str) -> usize {
        let paths = self.paths.lock().unwrap();
        paths.iter().filter(|path| path.ends_with(end)).count()
    }
}

impl Transport for Scripted {
    fn exchange(&self, request: Request) -> BoxFuture<'_, Result<Answer, Problem>> {
        self.paths
            .lock()
            .unwrap()
            .push(request.url().path().to_owned());
        let answer = (self.respond)(&request);
        Box::pin(async move { Ok(answer) })
    }
}

struct Unheard;

impl Observer for Unheard {
    fn request(&self, _: Endpoint, _: Outcome, _: Duration) {}
    fn retry(&self, _: Endpoint, _: Retry) {}
    fn rate_limit(&self, _: Endpoint, _: Option<&OrgId>, _: Option<u64>, _: Option<u64>) {}
    fn throttled(&self, _: Endpoint, _: Option<&OrgId>, _: Duration) {}
    fn token(&self, _: &str, _: TokenOutcome) {}
    fn token_ends(&self, _: &str, _: Timestamp) {}
    fn token_refused(&self, _: &str) {}
}
