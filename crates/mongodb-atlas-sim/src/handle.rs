//! Public handle of a running simulator.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::SimConfig;
use crate::credentials::SimCredentials;
use crate::faults::Fault;
use crate::service_account::SimServiceAccount;
use crate::state::{LoggedRequest, Simulator};
use crate::world::World;
use crate::{handlers, server};

/// A simulated Atlas. [`SimHandle::stop`] shuts it down.
pub struct SimHandle {
    base_url: String,
    sim: Arc<Simulator>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl SimHandle {
    /// Serves a simulated Atlas on `listener`, with wall time read from `clock`.
    ///
    /// # Errors
    /// Returns an error if the listener has no local address.
    pub fn start(
        listener: TcpListener,
        config: &SimConfig,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let mut handle = Self::in_process(config, clock);
        handle.base_url = format!("http://{}", listener.local_addr()?);
        handle.tasks.spawn(server::serve(
            listener,
            Arc::clone(&handle.sim),
            handle.shutdown.clone(),
            handle.tasks.clone(),
        ));
        Ok(handle)
    }

    /// Creates a simulated Atlas without a listener, reachable through [`SimHandle::handle`] only: for tests with
    /// simulated time.
    pub fn in_process(
        config: &SimConfig,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        Self {
            base_url: "http://localhost".to_owned(),
            sim: Arc::new(Simulator::new(config, clock)),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Handles one request. Returns `None` if the connection would have been reset.
    pub async fn handle(&self, request: Request<Body>) -> Option<Response<Body>> {
        handlers::handle(&self.sim, request).await
    }

    /// Returns `http://HOST:PORT`.
    pub fn base_url(&self) -> String {
        self.base_url.clone()
    }

    /// Returns the current time of the simulator's clock.
    pub fn now(&self) -> Timestamp {
        self.sim.now()
    }

    /// Returns the ids of all organizations.
    pub fn org_ids(&self) -> Vec<String> {
        self.with_world(|world| world.org_ids())
    }

    /// Returns the accepted credentials.
    pub fn credentials(&self) -> SimCredentials {
        self.sim.lock_state().credentials.clone()
    }

    /// Changes the accepted credentials, to rotate a secret for example.
    pub fn with_credentials<T>(&self, change: impl FnOnce(&mut SimCredentials) -> T) -> T {
        change(&mut self.sim.lock_state().credentials)
    }

    /// Reads or changes the service account, its secrets and its organization.
    pub fn with_service_account<T>(&self, access: impl FnOnce(&mut SimServiceAccount) -> T) -> T {
        access(&mut self.sim.lock_state().service_account)
    }

    /// Reads or changes organizations, projects and keys.
    pub fn with_world<T>(&self, access: impl FnOnce(&mut World) -> T) -> T {
        access(&mut self.sim.lock_state().world)
    }

    /// Sets a hook that runs before each page of keys is built, with its call number, the page number and the world.
    pub fn set_page_hook(&self, hook: impl FnMut(u64, u32, &mut World) + Send + 'static) {
        self.sim.lock_state().page_hook = Some(Box::new(hook));
    }

    /// Adds a fault.
    pub fn add_fault(&self, fault: Fault) {
        let mut state = self.sim.lock_state();
        let now = state.now;
        state.faults.add(fault, now);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.sim.lock_state().faults.clear();
    }

    /// Revokes all valid access tokens.
    pub fn revoke_all_tokens(&self) {
        self.sim.lock_state().credentials.revoke_all_tokens();
    }

    /// Expires all Digest nonces.
    pub fn expire_nonces(&self) {
        self.sim.lock_state().nonces.expire_all();
    }

    /// Takes tokens from the key bucket of `org`, like another client of the organization.
    pub fn take_tokens(&self, org: &str, tokens: u32) {
        let mut state = self.sim.lock_state();
        let now = state.now;
        for _ in 0..tokens {
            state.buckets.take_org("aiModelApi", org, now);
        }
    }

    /// Returns the number of tokens in the key bucket of `org`.
    pub fn available_tokens(&self, org: &str) -> u32 {
        let mut state = self.sim.lock_state();
        let now = state.now;
        state.buckets.org_level("aiModelApi", org, now)
    }

    /// Returns the number of valid access tokens.
    pub fn live_token_count(&self) -> usize {
        let state = self.sim.lock_state();
        state.credentials.live_token_count(state.now)
    }

    /// Returns all requests so far.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.sim.lock_state().requests.clone()
    }

    /// Returns shell `export` lines for the base URL, the organizations and all credentials.
    pub fn env_exports(&self) -> String {
        let credentials = self.credentials();
        [
            ("MONGODB_ATLAS_BASE_URL", self.base_url()),
            ("MONGODB_ATLAS_ORG_ID", self.org_ids().join(",")),
            ("MONGODB_ATLAS_CLIENT_ID", credentials.client_id),
            ("MONGODB_ATLAS_CLIENT_SECRET", credentials.client_secret),
            ("MONGODB_ATLAS_PUBLIC_API_KEY", credentials.public_key),
            ("MONGODB_ATLAS_PRIVATE_API_KEY", credentials.private_key),
            ("MONGODB_ATLAS_ACCESS_TOKEN", credentials.access_token),
        ]
        .map(|(name, value)| format!("export {name}={value}\n"))
        .concat()
    }

    /// Closes the listener and all connections, and waits for their tasks.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
