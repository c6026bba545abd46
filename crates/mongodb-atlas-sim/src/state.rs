//! State shared by all connections of a simulator.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::buckets::Buckets;
use crate::config::SimConfig;
use crate::credentials::SimCredentials;
use crate::digest::Nonces;
use crate::endpoint::SimEndpoint;
use crate::faults::Faults;
use crate::model::serialize_timestamp;
use crate::page_cache::PageCache;
use crate::service_account::SimServiceAccount;
use crate::world::World;

/// A simulator: a clock, and the state behind one lock that is never held across an `.await`.
pub(crate) struct Simulator {
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    state: Mutex<SimState>,
}

/// All state that requests read and change.
pub(crate) struct SimState {
    /// Time at which the state was locked.
    pub(crate) now: Timestamp,
    pub(crate) world: World,
    pub(crate) credentials: SimCredentials,
    pub(crate) service_account: SimServiceAccount,
    pub(crate) nonces: Nonces,
    pub(crate) buckets: Buckets,
    pub(crate) faults: Faults,
    pub(crate) requests: Vec<LoggedRequest>,
    pub(crate) page_cache: PageCache,
    pub(crate) page_hook: Option<PageHook>,
    page_hook_calls: u64,
}

type PageHook = Box<dyn FnMut(u64, u32, &mut World) + Send>;

/// A request that was served.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LoggedRequest {
    /// Endpoint requested.
    pub endpoint: SimEndpoint,
    /// Organization id in the path, if any.
    pub org: Option<String>,
    /// `pageNum` of a request for the key list.
    pub page: Option<u32>,
    /// Time of the response.
    #[serde(serialize_with = "serialize_timestamp")]
    pub at: Timestamp,
    /// Status of the response; 0 if the connection was reset.
    pub status: u16,
}

impl Simulator {
    pub(crate) fn new(
        config: &SimConfig,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        let now = clock();
        let mut faults = Faults::default();
        let initial = config.scenario.faults(config.speed);
        for fault in initial.into_iter().chain(config.faults.clone()) {
            faults.add(fault, now);
        }
        let org_bucket = config.scenario.org_bucket().unwrap_or(config.org_bucket);
        let world = World::new(config, now);
        let credentials = SimCredentials::new(config.seed, config.token_lifetime_seconds);
        let service_account = SimServiceAccount::new(
            world.org_ids().into_iter().next(),
            &credentials.client_secret,
            config.scenario,
            now,
        );
        let state = SimState {
            now,
            world,
            credentials,
            service_account,
            nonces: Nonces::new(config.seed, config.nonce_lifetime_seconds),
            buckets: Buckets::new(org_bucket, config.bucket_scope),
            faults,
            requests: Vec::new(),
            page_cache: PageCache::default(),
            page_hook: None,
            page_hook_calls: 0,
        };
        Self {
            clock: Box::new(clock),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Locks the state after applying all events that are due.
    pub(crate) fn lock_state(&self) -> MutexGuard<'_, SimState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = self.now();
        let now = state.now;
        state.world.advance(now);
        state
    }
}

impl SimState {
    /// Runs the hook, if a test has set one, before a page of keys is built.
    pub(crate) fn run_page_hook(&mut self, page: u32) {
        self.page_hook_calls += 1;
        if let Some(hook) = &mut self.page_hook {
            hook(self.page_hook_calls, page, &mut self.world);
        }
    }
}
