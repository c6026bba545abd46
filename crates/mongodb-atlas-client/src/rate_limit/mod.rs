//! Client-side rate limiting: requests wait *before* they are sent, so that a known bucket never causes a 429.
//!
//! Atlas has one token bucket for each endpoint set and scope. Until Atlas has reported the sets
//! ([`RateLimiter::set_endpoint_sets`]), each endpoint of each organization is assumed to have its own bucket, for each
//! credential. If two organizations get an unexpected 429 within a minute, they are assumed to share one bucket for an
//! hour.

mod token_bucket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::info;

pub(crate) use token_bucket::MAX_WAIT;
use token_bucket::TokenBucket;
pub use token_bucket::{BucketParams, Rejection};

use crate::error::Endpoint;
use crate::ids::OrgId;

/// The requests that share a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// All requests for the same organization.
    Organization,
    /// All requests with the same credential.
    Credential,
    /// All requests from the same IP address.
    #[serde(rename = "Address")]
    ClientIp,
}

/// Endpoints that share a bucket, as reported by Atlas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSet {
    /// Atlas' `endpointSetId`.
    pub id: String,
    /// The endpoints of this client that are in the set.
    pub endpoints: Vec<Endpoint>,
    /// The requests that share the bucket.
    pub scope: Scope,
    /// The parameters of the bucket.
    #[serde(rename = "size")]
    pub params: BucketParams,
}

/// Identifies a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketKey {
    /// The id of an endpoint set, or the name of an endpoint if its set is unknown.
    set_id: String,
    credential: Option<Arc<str>>,
    org: Option<OrgId>,
}

/// The rate that a bucket sustains.
#[derive(Debug, Clone, PartialEq)]
pub struct BucketRate {
    /// The bucket.
    pub key: BucketKey,
    /// Requests per second; `None` if unknown.
    pub per_second: Option<f64>,
}

/// The properties of a request that determine its bucket.
#[derive(Debug, Clone, Copy)]
pub struct RequestTarget<'a> {
    /// The name of the credential.
    pub credential: &'a Arc<str>,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The organization, if the request is for one.
    pub org: Option<&'a OrgId>,
}

/// Limits the rate of requests. A process has one rate limiter, because clients share buckets.
#[derive(Default)]
pub struct RateLimiter {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queues: HashMap<BucketKey, Arc<BucketQueue>>,
    endpoint_sets: HashMap<Arc<str>, Vec<EndpointSet>>,
    /// Buckets of a credential that are assumed to be shared by its organizations, each with the end of the assumption.
    assumed_shared: HashMap<BucketKey, Instant>,
    /// The last unexpected 429 (the bucket should have had tokens) and its organization, by credential and set.
    unexpected_429s: HashMap<BucketKey, Unexpected429>,
}

struct Unexpected429 {
    org: OrgId,
    at: Instant,
}

/// One bucket, and the queue of the requests that wait for its tokens.
struct BucketQueue {
    key: BucketKey,
    /// The endpoint that the bucket was created for.
    endpoint: Endpoint,
    bucket: Mutex<TokenBucket>,
    /// Sends requests in the order of their arrival.
    fifo: tokio::sync::Mutex<()>,
    /// Whether another queue has replaced this one.
    replaced: AtomicBool,
}

/// The permission to send one request. The result of the request must be reported.
pub(crate) struct RequestPermit {
    queue: Arc<BucketQueue>,
    sequence: u64,
    waited: Duration,
    reported: bool,
}

/// Time for which organizations are assumed to share a bucket.
const SHARED_ASSUMPTION_TTL: Duration = Duration::from_hours(1);
/// Maximum time between unexpected 429s of two organizations that are assumed to have the same cause.
const CORRELATION_WINDOW: Duration = Duration::from_mins(1);
/// Maximum number of endpoint sets of one credential. The client has fewer endpoints.
const MAX_SETS: usize = 64;
/// Maximum length of an endpoint set's id, which is a part of each bucket's key.
const MAX_SET_ID_BYTES: usize = 256;
/// Maximum sleep before the state of the bucket is read again.
const MAX_SLEEP: Duration = Duration::from_secs(10);

impl RateLimiter {
    /// Waits until a request may be sent.
    pub(crate) async fn acquire(&self, target: RequestTarget<'_>) -> RequestPermit {
        let started_at = Instant::now();
        loop {
            let queue = self.queue(target);
            let turn = queue.fifo.lock().await;
            while !queue.replaced.load(Ordering::Acquire) {
                let now = Instant::now();
                let delay = queue.lock_bucket().time_until_ready(now);
                if delay.is_zero() {
                    let sequence = queue.lock_bucket().take(now);
                    drop(turn);
                    return RequestPermit {
                        queue,
                        sequence,
                        waited: now - started_at,
                        reported: false,
                    };
                }
                tokio::time::sleep(delay.min(MAX_SLEEP)).await;
            }
        }
    }

    /// Returns the wait of a request that is sent now, without the time in the queue.
    pub fn next_delay(&self, target: RequestTarget<'_>) -> Duration {
        let now = Instant::now();
        self.queue(target).lock_bucket().time_until_ready(now)
    }

    /// Returns the bucket of a request, and the rate that it sustains.
    pub fn sustained_rate(&self, target: RequestTarget<'_>) -> BucketRate {
        let queue = self.queue(target);
        let per_second = queue.lock_bucket().sustained_rate();
        BucketRate {
            key: queue.key.clone(),
            per_second,
        }
    }

    /// Sets the endpoint sets that Atlas reports for a credential. Implausible ones are ignored.
    pub fn set_endpoint_sets(&self, credential: &Arc<str>, mut sets: Vec<EndpointSet>) {
        sets.retain(|set| set.params.is_plausible() && set.id.len() <= MAX_SET_ID_BYTES);
        sets.truncate(MAX_SETS);
        let mut state = self.lock_state();
        let is_other = |key: &BucketKey| key.credential.as_ref() != Some(credential);
        state.assumed_shared.retain(|key, _| is_other(key));
        state.endpoint_sets.insert(Arc::clone(credential), sets);
        let now = Instant::now();
        state.remap(credential, now);
        state.update_params(credential, now);
    }

    fn queue(&self, target: RequestTarget<'_>) -> Arc<BucketQueue> {
        self.lock_state().queue(target, Instant::now())
    }

    /// Records the rejection of a request. Returns the time for which no request may be sent.
    pub(crate) fn on_rejected(&self, mut permit: RequestPermit, rejection: Rejection) -> Duration {
        permit.reported = true;
        let now = Instant::now();
        let (is_unexpected, delay) = {
            let mut bucket = permit.queue.lock_bucket();
            let is_ready = bucket.time_until_ready(now).is_zero();
            let is_unexpected = is_ready && bucket.available_tokens(now) != Some(0);
            let delay = bucket.on_rejected(permit.sequence, now, rejection);
            (is_unexpected && rejection.is_empty, delay)
        };
        if is_unexpected {
            self.lock_state().on_unexpected_429(&permit.queue.key, now);
        }
        delay
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn bucket_key(&self, target: RequestTarget<'_>, now: Instant) -> BucketKey {
        let sets = self.endpoint_sets.get(target.credential);
        let set = sets.and_then(|sets| {
            sets.iter()
                .find(|set| set.endpoints.contains(&target.endpoint))
        });
        let shared = BucketKey {
            set_id: set.map_or_else(|| target.endpoint.to_string(), |set| set.id.clone()),
            credential: Some(Arc::clone(target.credential)),
            org: None,
        };
        let is_assumed_shared = || {
            self.assumed_shared
                .get(&shared)
                .is_some_and(|until| now < *until)
        };
        let scope = match set {
            Some(set) => set.scope,
            None if is_assumed_shared() => Scope::Credential,
            None => Scope::Organization,
        };
        match scope {
            Scope::Organization => BucketKey {
                org: target.org.cloned(),
                ..shared
            },
            Scope::Credential => shared,
            Scope::ClientIp => BucketKey {
                credential: None,
                ..shared
            },
        }
    }

    /// Returns the queue of a request, created if necessary.
    fn queue(&mut self, target: RequestTarget<'_>, now: Instant) -> Arc<BucketQueue> {
        let key = self.bucket_key(target, now);
        if let Some(queue) = self.queues.get(&key) {
            return Arc::clone(queue);
        }
        // The parameters of a bucket of the IP address are the same for all credentials.
        let own_sets = key.credential.iter();
        let params = own_sets
            .filter_map(|credential| self.endpoint_sets.get(credential))
            .chain(self.endpoint_sets.values())
            .flatten()
            .find(|set| set.id == key.set_id)
            .map(|set| set.params);
        let mut bucket = TokenBucket::default();
        if let Some(params) = params {
            bucket.set_params(params, now);
        }
        let queue = Arc::new(BucketQueue {
            key: key.clone(),
            endpoint: target.endpoint,
            bucket: Mutex::new(bucket),
            fifo: tokio::sync::Mutex::default(),
            replaced: AtomicBool::new(false),
        });
        self.queues.insert(key, Arc::clone(&queue));
        queue
    }

    /// Replaces the queues of `credential` that belong to another bucket now.
    fn remap(&mut self, credential: &Arc<str>, now: Instant) {
        let is_own = |queue: &&Arc<BucketQueue>| queue.key.credential.as_ref() == Some(credential);
        let queues: Vec<_> = self.queues.values().filter(is_own).cloned().collect();
        for old in queues {
            let target = RequestTarget {
                credential,
                endpoint: old.endpoint,
                org: old.key.org.as_ref(),
            };
            if self.bucket_key(target, now) != old.key {
                self.queues.remove(&old.key);
                let new = self.queue(target, now);
                new.lock_bucket().merge(&old.lock_bucket(), now);
                old.replaced.store(true, Ordering::Release);
            }
        }
    }

    /// Applies the reported parameters to the buckets that are in use.
    fn update_params(&self, credential: &Arc<str>, now: Instant) {
        let is_own = |key: &BucketKey| key.credential.as_ref().is_none_or(|own| own == credential);
        for queue in self.queues.values().filter(|queue| is_own(&queue.key)) {
            let mut sets = self.endpoint_sets.get(credential).into_iter().flatten();
            if let Some(set) = sets.find(|set| set.id == queue.key.set_id) {
                queue.lock_bucket().update_params(set.params, now);
            }
        }
    }

    fn on_unexpected_429(&mut self, key: &BucketKey, now: Instant) {
        let (Some(credential), Some(org)) = (&key.credential, &key.org) else {
            return;
        };
        let shared = BucketKey {
            org: None,
            ..key.clone()
        };
        let (org, at) = (org.clone(), now);
        let event = Unexpected429 { org, at };
        let previous = self.unexpected_429s.insert(shared.clone(), event);
        let is_correlated = previous.is_some_and(|previous| {
            key.org.as_ref() != Some(&previous.org) && now < previous.at + CORRELATION_WINDOW
        });
        if is_correlated && !self.endpoint_sets.contains_key(credential) {
            info!(
                credential = &**credential,
                operation = key.set_id,
                expires_in = "1h",
                "organizations rate limited together; assuming a shared bucket"
            );
            self.assumed_shared
                .insert(shared, now + SHARED_ASSUMPTION_TTL);
            self.remap(credential, now);
        }
    }
}

impl BucketQueue {
    fn lock_bucket(&self) -> MutexGuard<'_, TokenBucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestPermit {
    /// Returns the time that the request waited.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Records the response, with the values of `RateLimit-Limit` and `RateLimit-Remaining`.
    pub(crate) fn on_response(mut self, limit: Option<u64>, remaining: Option<u64>) {
        self.reported = true;
        let mut bucket = self.queue.lock_bucket();
        bucket.on_response(self.sequence, Instant::now(), limit, remaining);
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        if !self.reported {
            self.queue.lock_bucket().abandon();
        }
    }
}

#[cfg(test)]
mod tests;
