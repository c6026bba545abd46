//! The request budget: requests wait *before* they are sent, so that a bucket that is known never
//! answers 429 at all.
//!
//! Atlas has a token bucket for each endpoint set and scope. Until it says which those are
//! ([`RateLimiter::set_endpoint_sets`]), every endpoint of every organization counts as one of its own, for
//! each credential. Two organizations that are refused at the same time although each should have
//! had tokens are taken to share one, for an hour.

mod token_bucket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::info;

pub use token_bucket::BucketParams;

use super::error::Endpoint;
use crate::ids::OrgId;
pub(super) use token_bucket::MAX_WAIT;
use token_bucket::TokenBucket;

/// Who shares a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Everybody who asks about the same organization.
    Organization,
    /// Every request of the same credential.
    Credential,
    /// Every request from this machine.
    Address,
}

/// Endpoints that draw on the same bucket, as Atlas tells them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSet {
    /// Atlas' `endpointSetId`.
    pub id: String,
    /// Those of this exporter's endpoints that are in it.
    pub endpoints: Vec<Endpoint>,
    /// Who shares it.
    pub scope: Scope,
    /// How large it is.
    pub size: BucketParams,
}

/// Which bucket: what draws on it, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketKey {
    set_id: String,
    credential: Option<Arc<str>>,
    org: Option<OrgId>,
}

/// The budgets of the whole process. One for all clients, kept over a reload.
#[derive(Default)]
pub struct RateLimiter {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queues: HashMap<BucketKey, Arc<BucketQueue>>,
    endpoint_sets: HashMap<Arc<str>, Vec<EndpointSet>>,
    /// Sets of a credential whose bucket is taken to be shared by all its organizations, until then.
    assumed_shared: HashMap<(Arc<str>, String), Instant>,
    /// The last organization that was refused although its bucket should have had tokens.
    unexpected_429s: HashMap<(Arc<str>, String), (OrgId, Instant)>,
}

/// One bucket, and the queue before it.
#[derive(Default)]
struct BucketQueue {
    bucket: Mutex<TokenBucket>,
    /// Fair: whoever comes first is served first.
    fifo: tokio::sync::Mutex<()>,
    /// Set when another lane has taken its place.
    replaced: AtomicBool,
}

/// Leave for one request. It must be told what came of it.
pub(super) struct RequestPermit {
    queue: Arc<BucketQueue>,
    key: BucketKey,
    sequence: u64,
    reported: bool,
}

/// For how long a surprise makes organizations count as sharing a bucket.
const SHARED_ASSUMPTION_TTL: Duration = Duration::from_hours(1);
/// Refusals of two organizations within this time are taken for one cause.
const CORRELATION_WINDOW: Duration = Duration::from_mins(1);
/// Endpoint sets of one credential; there are fewer endpoints than that.
const MAX_SETS: usize = 64;
/// Bytes of the id of an endpoint set; it becomes a part of the key of each lane.
const MAX_SET_ID_BYTES: usize = 256;
/// The longest sleep before the bucket is looked at again: more may have been learnt.
const MAX_SLEEP: Duration = Duration::from_secs(10);

impl RateLimiter {
    /// Waits until a request may be sent; says how long that took.
    pub(super) async fn acquire(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
    ) -> (RequestPermit, Duration) {
        let begun = Instant::now();
        loop {
            let (id, lane) = self.queue(credential, endpoint, org);
            let turn = lane.fifo.lock().await;
            while !lane.replaced.load(Ordering::Acquire) {
                let now = Instant::now();
                let delay = lane.lock_bucket().time_until_ready(now);
                if delay.is_zero() {
                    let number = lane.lock_bucket().take(now);
                    drop(turn);
                    let ticket = RequestPermit {
                        queue: lane,
                        key: id,
                        sequence: number,
                        reported: false,
                    };
                    return (ticket, now - begun);
                }
                tokio::time::sleep(delay.min(MAX_SLEEP)).await;
            }
        }
    }

    /// How long a request would have to wait now, those before it left out of account.
    pub fn next_delay(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
    ) -> Duration {
        self.queue(credential, endpoint, org)
            .1
            .lock_bucket()
            .time_until_ready(Instant::now())
    }

    /// Which bucket requests draw on, and how many requests a second it can give for ever; none
    /// while that is not known.
    pub fn sustained_rate(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
    ) -> (BucketKey, Option<f64>) {
        let (id, lane) = self.queue(credential, endpoint, org);
        let supply = lane.lock_bucket().sustained_rate();
        (id, supply)
    }

    /// Atlas told which endpoints share a bucket, with whom, and how large it is. Sets that make no sense are ignored.
    pub fn set_endpoint_sets(&self, credential: &Arc<str>, mut sets: Vec<EndpointSet>) {
        let now = Instant::now();
        sets.retain(|set| set.size.is_plausible() && set.id.len() <= MAX_SET_ID_BYTES);
        sets.truncate(MAX_SETS);
        let mut inner = self.lock_state();
        inner
            .assumed_shared
            .retain(|(name, _), _| name != credential);
        inner.endpoint_sets.insert(Arc::clone(credential), sets);
        inner.remap(credential, now);
    }

    fn queue(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
    ) -> (BucketKey, Arc<BucketQueue>) {
        let mut inner = self.lock_state();
        let now = Instant::now();
        let id = inner.bucket_key(credential, endpoint, org, now);
        let lane = inner.get_or_create(&id, now);
        (id, lane)
    }

    /// Tells the bucket of a refusal; how long nobody may send anything.
    pub(super) fn on_rejected(
        &self,
        mut ticket: RequestPermit,
        asked: Option<Duration>,
        empty: bool,
        size: Option<BucketParams>,
    ) -> Duration {
        ticket.reported = true;
        let now = Instant::now();
        let (surprise, pause) = {
            let mut bucket = ticket.queue.lock_bucket();
            let blocked = bucket.time_until_ready(now) > Duration::ZERO;
            let surprise = !blocked && bucket.available_tokens(now) != Some(0);
            (
                surprise,
                bucket.on_rejected(ticket.sequence, now, asked, empty, size),
            )
        };
        if empty && surprise {
            self.lock_state().on_unexpected_429(&ticket.key, now);
        }
        pause
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn bucket_key(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        now: Instant,
    ) -> BucketKey {
        let set = self
            .endpoint_sets
            .get(credential)
            .and_then(|sets| sets.iter().find(|set| set.endpoints.contains(&endpoint)));
        let name = set.map_or_else(|| endpoint.as_str().to_owned(), |set| set.id.clone());
        let widened = self
            .assumed_shared
            .get(&(Arc::clone(credential), name.clone()))
            .is_some_and(|until| now < *until);
        let scope = match set {
            Some(set) => set.scope,
            None if widened => Scope::Credential,
            None => Scope::Organization,
        };
        BucketKey {
            set_id: name,
            credential: (scope != Scope::Address).then(|| Arc::clone(credential)),
            org: org.filter(|_| scope == Scope::Organization).cloned(),
        }
    }

    fn get_or_create(&mut self, id: &BucketKey, now: Instant) -> Arc<BucketQueue> {
        if let Some(lane) = self.queues.get(id) {
            return Arc::clone(lane);
        }
        let lane = Arc::new(BucketQueue::default());
        let size = id
            .credential
            .iter()
            .filter_map(|credential| self.endpoint_sets.get(credential))
            .chain(self.endpoint_sets.values())
            .flatten()
            .find(|set| set.id == id.set_id)
            .map(|set| set.size);
        if let Some(size) = size {
            lane.lock_bucket().set_params(size, now);
        }
        self.queues.insert(id.clone(), Arc::clone(&lane));
        lane
    }

    /// Replaces the lanes of `credential` that stand for another bucket than they were opened for.
    fn remap(&mut self, credential: &Arc<str>, now: Instant) {
        let mine: Vec<BucketKey> = self
            .queues
            .keys()
            .filter(|id| id.credential.as_ref() == Some(credential))
            .cloned()
            .collect();
        for old in mine {
            // a lane is named after its set, or after an endpoint as long as no set is known
            let endpoint = Endpoint::ALL.into_iter().find(|endpoint| {
                endpoint.as_str() == old.set_id
                    || self.endpoint_sets.get(credential).is_some_and(|sets| {
                        sets.iter()
                            .any(|set| set.id == old.set_id && set.endpoints.contains(endpoint))
                    })
            });
            let Some(endpoint) = endpoint else {
                continue;
            };
            let id = self.bucket_key(credential, endpoint, old.org.as_ref(), now);
            if id == old {
                continue;
            }
            if let Some(lane) = self.queues.remove(&old) {
                let new = self.get_or_create(&id, now);
                new.lock_bucket().merge(&lane.lock_bucket(), now);
                lane.replaced.store(true, Ordering::Release);
            }
        }
    }

    fn on_unexpected_429(&mut self, id: &BucketKey, now: Instant) {
        let (Some(credential), Some(org)) = (&id.credential, &id.org) else {
            return;
        };
        let key = (Arc::clone(credential), id.set_id.clone());
        let before = self.unexpected_429s.insert(key.clone(), (org.clone(), now));
        let shared =
            before.is_some_and(|(other, at)| other != *org && now < at + CORRELATION_WINDOW);
        if shared && !self.endpoint_sets.contains_key(credential) {
            info!(
                credential = &**credential,
                endpoint = id.set_id,
                "organizations are refused together; taking their request budget for a common one for an hour"
            );
            self.assumed_shared.insert(key, now + SHARED_ASSUMPTION_TTL);
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
    /// The request was answered, with what `RateLimit-Limit` and `RateLimit-Remaining` say.
    pub(super) fn on_response(mut self, limit: Option<u64>, remaining: Option<u64>) {
        self.reported = true;
        self.queue
            .lock_bucket()
            .on_response(self.sequence, Instant::now(), limit, remaining);
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
mod tests {
    use super::*;

    fn org(n: u32) -> OrgId {
        OrgId::parse(&format!("{n:024x}")).expect("an id")
    }

    fn set(scope: Scope) -> EndpointSet {
        EndpointSet {
            id: "some-set".into(),
            endpoints: vec![Endpoint::AiModelApiKeys, Endpoint::AiModelApiRateLimits],
            scope,
            size: BucketParams::new(10, 5, 60).expect("a size"),
        }
    }

    const KEYS: Endpoint = Endpoint::AiModelApiKeys;

    #[tokio::test(start_paused = true)]
    async fn endpoints_of_a_set_share_one_bucket() {
        let (budgets, name) = (RateLimiter::default(), Arc::from("default"));
        budgets.set_endpoint_sets(&name, vec![set(Scope::Organization)]);
        let begun = Instant::now();
        for n in 0..9 {
            let endpoint = if n % 2 == 0 {
                KEYS
            } else {
                Endpoint::AiModelApiRateLimits
            };
            let (ticket, waited) = budgets.acquire(&name, endpoint, Some(&org(1))).await;
            ticket.on_response(None, None);
            assert_eq!(waited.is_zero(), n < 8, "request {n} waited {waited:?}");
        }
        assert_eq!(begun.elapsed(), Duration::from_mins(1));
        let (_, waited) = budgets.acquire(&name, KEYS, Some(&org(2))).await;
        assert_eq!(waited, Duration::ZERO, "another organization has its own");
    }

    #[tokio::test(start_paused = true)]
    async fn credential_bucket_is_shared_by_its_organizations() {
        let (budgets, name) = (RateLimiter::default(), Arc::from("default"));
        for n in 0..4 {
            budgets
                .acquire(&name, KEYS, Some(&org(n)))
                .await
                .0
                .on_response(None, None);
        }
        budgets.set_endpoint_sets(&name, vec![set(Scope::Credential)]);
        for n in 0..8 {
            let (ticket, waited) = budgets.acquire(&name, KEYS, Some(&org(n))).await;
            ticket.on_response(None, None);
            assert_eq!(waited, Duration::ZERO);
        }
        let (_, waited) = budgets.acquire(&name, KEYS, Some(&org(9))).await;
        assert_eq!(waited, Duration::from_mins(1));
        let (id, supply) = budgets.sustained_rate(&name, KEYS, Some(&org(3)));
        assert_eq!(supply.map(|rate| (rate * 60.0).round()), Some(4.0));
        assert_eq!(id, budgets.sustained_rate(&name, KEYS, Some(&org(7))).0);
    }

    #[tokio::test(start_paused = true)]
    async fn correlated_429s_merge_buckets() {
        let (budgets, name) = (RateLimiter::default(), Arc::from("default"));
        let size = BucketParams::new(10, 5, 60);
        for n in 0..2 {
            let (ticket, _) = budgets.acquire(&name, KEYS, Some(&org(n))).await;
            budgets.on_rejected(ticket, Some(Duration::from_secs(30)), true, size);
        }
        let (id, supply) = budgets.sustained_rate(&name, KEYS, Some(&org(7)));
        assert_eq!((id.org, supply.is_some()), (None, true));
        let (_, waited) = budgets.acquire(&name, KEYS, Some(&org(7))).await;
        assert!(waited >= Duration::from_secs(30), "{waited:?}");
        tokio::time::advance(SHARED_ASSUMPTION_TTL).await;
        assert_eq!(
            budgets.sustained_rate(&name, KEYS, Some(&org(7))).0.org,
            Some(org(7))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn permits_are_granted_in_request_order() {
        let budgets = Arc::new(RateLimiter::default());
        let name: Arc<str> = Arc::from("default");
        budgets.set_endpoint_sets(&name, vec![set(Scope::Credential)]);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..30 {
            let (budgets, name, order) =
                (Arc::clone(&budgets), Arc::clone(&name), Arc::clone(&order));
            tasks.spawn(async move {
                budgets
                    .acquire(&name, KEYS, Some(&org(n)))
                    .await
                    .0
                    .on_response(None, None);
                order.lock().expect("no panic").push(n);
            });
            tokio::task::yield_now().await;
        }
        tasks.join_all().await;
        let order = order.lock().expect("no panic").clone();
        assert_eq!(order, (0..30).collect::<Vec<_>>());
    }
}
