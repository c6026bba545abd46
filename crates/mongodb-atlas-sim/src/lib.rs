//! The simulated Atlas: an HTTP server that answers like the real one, for the demo, for the tests
//! and for anyone who wants to try a dashboard without an account.
//!
//! It is written from the API's description alone and shares no code with any client, so
//! that a misreading there is not repeated here. It lives: keys are used, created, renamed,
//! deactivated and deleted as time goes by, also in the middle of somebody's walk.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `world`, `population`, `life` | organizations, projects, keys; how they begin; what happens to them |
//! | `credentials`, `digest` | credentials, tokens, nonces |
//! | `buckets` | token buckets |
//! | `faults` | what goes wrong on demand |
//! | `request`, `endpoints`, `keys_endpoint`, `oauth`, `answer` | the API's endpoints and the form of their answers |
//! | `body` | bodies that are cut, drip, never end or explode |
//! | `control` | the control endpoint under `/sim` |
//! | `server` | connections, including those that end with a reset |

#![expect(
    clippy::result_large_err,
    reason = "an answer is the error here, made once a request and moved twice"
)]

mod body;
mod buckets;
mod clock;
mod control;
mod credentials;
mod digest;
mod events;
mod faults;
mod handlers;
mod keys;
mod oauth;
mod population;
mod request;
mod response;
mod scenario;
mod server;
mod world;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::{Request, Response};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use clock::SimClock;

pub use buckets::{BucketConfig, BucketScope};
pub use credentials::SimCredentials;
pub use faults::{Effect, ErrorBodyFormat, Fault, SimEndpoint};
pub use scenario::Scenario;
pub use world::{ChangeKind, LoggedChange, SimKey, World};

/// How a simulated Atlas begins.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Fixes the population and its life: one seed, one world.
    pub seed: u64,
    /// Number of organizations.
    pub orgs: usize,
    /// Number of keys in all organizations together.
    pub keys: usize,
    /// The situation to play.
    pub scenario: Scenario,
    /// How much faster than in reality things happen to keys; 0 stops their life. Times stay real.
    pub speed: f64,
    /// The token bucket of each organization for the keys and their limits.
    pub org_bucket: BucketConfig,
    /// Who shares that bucket.
    pub bucket_scope: BucketScope,
    /// Life of an access token in seconds.
    pub token_lifetime_seconds: u64,
    /// Life of a Digest nonce in seconds.
    pub nonce_lifetime_seconds: u64,
    /// Faults that are there from the start, beside those of the scenario.
    pub faults: Vec<Fault>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            orgs: 3,
            keys: 1200,
            scenario: Scenario::Calm,
            speed: 1.0,
            org_bucket: BucketConfig::TYPICAL,
            bucket_scope: BucketScope::Organization,
            token_lifetime_seconds: 3600,
            nonce_lifetime_seconds: 30,
            faults: Vec::new(),
        }
    }
}

/// Everything the endpoints share. The world is behind one lock that no request holds for longer
/// than it takes to copy its answer out.
pub(crate) struct Simulator {
    pub(crate) clock: SimClock,
    state: Mutex<SimState>,
}

pub(crate) struct SimState {
    pub(crate) world: World,
    pub(crate) credentials: SimCredentials,
    pub(crate) nonces: digest::Nonces,
    pub(crate) buckets: buckets::Buckets,
    pub(crate) faults: faults::Faults,
    pub(crate) requests: Vec<LoggedRequest>,
    page_hook: Option<PageHook>,
    page_hook_calls: u64,
}

type PageHook = Box<dyn FnMut(u64, u32, &mut World) + Send>;

/// One request that the simulated Atlas has answered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LoggedRequest {
    /// What was asked.
    pub endpoint: SimEndpoint,
    /// The organization in the path, if there is one.
    pub org: Option<String>,
    /// `pageNum`, where there are pages.
    pub page: Option<u32>,
    /// When it was answered.
    #[serde(serialize_with = "world::serialize_timestamp")]
    pub at: Timestamp,
    /// The status it was answered with; 0 for a connection that was reset.
    pub status: u16,
}

impl Simulator {
    /// Brings the world up to the present and hands it out.
    pub(crate) fn lock_state(&self) -> MutexGuard<'_, SimState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        state.world.advance(now);
        state
    }
}

impl SimState {
    /// Runs the test's hook before the keys are looked at.
    pub(crate) fn run_page_hook(&mut self, page: u32) {
        self.page_hook_calls += 1;
        if let Some(hook) = &mut self.page_hook {
            hook(self.page_hook_calls, page, &mut self.world);
        }
    }
}

/// A running simulated Atlas. Held by whoever started it; [`SimHandle::stop`] ends it.
pub struct SimHandle {
    base_url: String,
    sim: Arc<Simulator>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl SimHandle {
    /// Starts a simulated Atlas on `listener`.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(
        listener: TcpListener,
        config: &SimConfig,
        clock: SimClock,
    ) -> std::io::Result<Self> {
        let addr = listener.local_addr()?;
        let handle = Self {
            base_url: format!("http://{addr}"),
            ..Self::in_process(config, clock)
        };
        handle.tasks.spawn(server::serve(
            listener,
            Arc::clone(&handle.sim),
            handle.shutdown.clone(),
            handle.tasks.clone(),
        ));
        Ok(handle)
    }

    /// A simulated Atlas that can be reached by [`SimHandle::handle`] alone: for tests in which
    /// time is simulated as well.
    pub fn in_process(config: &SimConfig, clock: SimClock) -> Self {
        let now = clock.now();
        let mut faults = faults::Faults::new(now);
        for fault in config
            .scenario
            .faults(config.speed)
            .into_iter()
            .chain(config.faults.clone())
        {
            faults.add(fault, now);
        }
        let org_bucket = config.scenario.org_bucket().unwrap_or(config.org_bucket);
        let sim = Arc::new(Simulator {
            state: Mutex::new(SimState {
                world: World::new(config, now),
                credentials: SimCredentials::new(config.seed, config.token_lifetime_seconds),
                nonces: digest::Nonces::new(config.seed, config.nonce_lifetime_seconds),
                buckets: buckets::Buckets::new(org_bucket, config.bucket_scope),
                faults,
                requests: Vec::new(),
                page_hook: None,
                page_hook_calls: 0,
            }),
            clock,
        });
        Self {
            base_url: "http://localhost".to_owned(),
            sim,
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Answers one request; none where the connection would have been reset.
    pub async fn handle(&self, request: Request<Body>) -> Option<Response<Body>> {
        let reset = server::ResetFlag::default();
        let answer = handlers::handle(&self.sim, &reset, request).await;
        (!reset.is_set()).then_some(answer)
    }

    /// `http://HOST:PORT`, what `--atlas.base-url` wants.
    pub fn base_url(&self) -> String {
        self.base_url.clone()
    }

    /// The clock that it lives by.
    pub fn clock(&self) -> SimClock {
        self.sim.clock.clone()
    }

    /// The ids of the organizations.
    pub fn org_ids(&self) -> Vec<String> {
        self.with_world(|world| world.org_ids())
    }

    /// The throw-away credentials.
    pub fn credentials(&self) -> SimCredentials {
        self.sim.lock_state().credentials.clone()
    }

    /// Changes the credentials: rotates a secret, say.
    pub fn with_credentials<T>(&self, change: impl FnOnce(&mut SimCredentials) -> T) -> T {
        change(&mut self.sim.lock_state().credentials)
    }

    /// Looks at the world as it is now, or changes it.
    pub fn with_world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.sim.lock_state().world)
    }

    /// Calls `hook` with the number of the call, the page that is asked for and the world, before
    /// each page of keys is cut.
    pub fn set_page_hook(&self, hook: impl FnMut(u64, u32, &mut World) + Send + 'static) {
        self.sim.lock_state().page_hook = Some(Box::new(hook));
    }

    /// Adds a fault that is in force from now on.
    pub fn add_fault(&self, fault: Fault) {
        let now = self.sim.clock.now();
        self.sim.lock_state().faults.add(fault, now);
    }

    /// Ends every fault.
    pub fn clear_faults(&self) {
        self.sim.lock_state().faults.clear();
    }

    /// Ends every live access token, as if somebody had revoked them all.
    pub fn revoke_all_tokens(&self) {
        self.sim.lock_state().credentials.revoke_all_tokens();
    }

    /// Ends every nonce.
    pub fn expire_nonces(&self) {
        self.sim.lock_state().nonces.expire_all();
    }

    /// Takes tokens for the keys of `org`, as another tool of the account does.
    pub fn take_tokens(&self, org: &str, tokens: u32) {
        let now = self.sim.clock.now();
        let mut state = self.sim.lock_state();
        for _ in 0..tokens {
            state.buckets.take_org("aiModelApi", org, now);
        }
    }

    /// Live access tokens of the service account.
    pub fn live_token_count(&self) -> usize {
        let now = self.sim.clock.now();
        self.sim.lock_state().credentials.live_token_count(now)
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.sim.lock_state().requests.clone()
    }

    /// The base URL, the organizations and the credentials, as a block to paste into a shell.
    pub fn env_exports(&self) -> String {
        let account = self.credentials();
        let mut text = String::new();
        let lines = [
            ("MONGODB_ATLAS_BASE_URL", self.base_url()),
            ("MONGODB_ATLAS_ORG_ID", self.org_ids().join(",")),
            ("MONGODB_ATLAS_CLIENT_ID", account.client_id),
            ("MONGODB_ATLAS_CLIENT_SECRET", account.client_secret),
            ("MONGODB_ATLAS_PUBLIC_API_KEY", account.public_key),
            ("MONGODB_ATLAS_PRIVATE_API_KEY", account.private_key),
            ("MONGODB_ATLAS_ACCESS_TOKEN", account.access_token),
        ];
        for (name, value) in lines {
            // writing to a String cannot fail
            let _ = writeln!(text, "export {name}={value}");
        }
        text
    }

    /// Closes the listener and every connection, and waits until they are gone.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
