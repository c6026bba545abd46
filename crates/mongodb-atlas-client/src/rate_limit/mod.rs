//! The request budget: requests wait *before* they are sent, so that a bucket that is known never
//! answers 429 at all.
//!
//! Atlas has a token bucket for each endpoint set and scope. Until it says which those are
//! ([`Budgets::learn_sets`]), every endpoint of every organization counts as one of its own, for
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

pub use token_bucket::BucketSize;

use super::error::Endpoint;
use crate::ids::OrgId;
use token_bucket::Bucket;
pub(super) use token_bucket::MAX_WAIT;

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
    pub size: BucketSize,
}

/// Which bucket: what draws on it, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId {
    set: String,
    credential: Option<Arc<str>>,
    org: Option<OrgId>,
}

/// The budgets of the whole process. One for all clients, kept over a reload.
#[derive(Default)]
pub struct Budgets {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    lanes: HashMap<LaneId, Arc<Lane>>,
    sets: HashMap<Arc<str>, Vec<EndpointSet>>,
    /// Sets of a credential whose bucket is taken to be shared by all its organizations, until then.
    widened: HashMap<(Arc<str>, String), Instant>,
    /// The last organization that was refused although its bucket should have had tokens.
    surprises: HashMap<(Arc<str>, String), (OrgId, Instant)>,
}

/// One bucket, and the queue before it.
#[derive(Default)]
struct Lane {
    bucket: Mutex<Bucket>,
    /// Fair: whoever comes first is served first.
    turn: tokio::sync::Mutex<()>,
    /// Set when another lane has taken its place.
    retired: AtomicBool,
}

/// Leave for one request. It must be told what came of it.
pub(super) struct Ticket {
    lane: Arc<Lane>,
    id: LaneId,
    number: u64,
    settled: bool,
}

/// For how long a surprise makes organizations count as sharing a bucket.
const WIDENED_FOR: Duration = Duration::from_hours(1);
/// Refusals of two organizations within this time are taken for one cause.
const SURPRISES_WITHIN: Duration = Duration::from_mins(1);
/// Endpoint sets of one credential; there are fewer endpoints than that.
const MAX_SETS: usize = 64;
/// Bytes of the id of an endpoint set; it becomes a part of the key of each lane.
const MAX_SET_ID_BYTES: usize = 256;
/// The longest sleep before the bucket is looked at again: more may have been learnt.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

impl Budgets {
    /// Waits until a request may be sent; says how long that took.
    pub(super) async fn take(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
    ) -> (Ticket, Duration) {
        let begun = Instant::now();
        loop {
            let (id, lane) = self.lane(credential, endpoint, org);
            let turn = lane.turn.lock().await;
            while !lane.retired.load(Ordering::Acquire) {
                let now = Instant::now();
                let delay = lane.bucket().delay(now);
                if delay.is_zero() {
                    let number = lane.bucket().spend(now);
                    drop(turn);
                    let ticket = Ticket {
                        lane,
                        id,
                        number,
                        settled: false,
                    };
                    return (ticket, now - begun);
                }
                tokio::time::sleep(delay.min(LOOK_AGAIN)).await;
            }
        }
    }

    /// How long a request would have to wait now, those before it left out of account.
    pub fn delay(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
    ) -> Duration {
        self.lane(credential, endpoint, org)
            .1
            .bucket()
            .delay(Instant::now())
    }

    /// Which bucket requests draw on, and how many requests a second it can give for ever; none
    /// while that is not known.
    pub fn supply(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
    ) -> (LaneId, Option<f64>) {
        let (id, lane) = self.lane(credential, endpoint, org);
        let supply = lane.bucket().supply();
        (id, supply)
    }

    /// Atlas told which endpoints share a bucket, with whom, and how large it is. Sets that make no sense are ignored.
    pub fn learn_sets(&self, credential: &Arc<str>, mut sets: Vec<EndpointSet>) {
        let now = Instant::now();
        sets.retain(|set| set.size.is_plausible() && set.id.len() <= MAX_SET_ID_BYTES);
        sets.truncate(MAX_SETS);
        let mut inner = self.inner();
        inner.widened.retain(|(name, _), _| name != credential);
        inner.sets.insert(Arc::clone(credential), sets);
        inner.regroup(credential, now);
    }

    fn lane(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
    ) -> (LaneId, Arc<Lane>) {
        let mut inner = self.inner();
        let now = Instant::now();
        let id = inner.id(credential, endpoint, org, now);
        let lane = inner.open(&id, now);
        (id, lane)
    }

    /// Tells the bucket of a refusal; how long nobody may send anything.
    pub(super) fn refused(
        &self,
        mut ticket: Ticket,
        asked: Option<Duration>,
        empty: bool,
        size: Option<BucketSize>,
    ) -> Duration {
        ticket.settled = true;
        let now = Instant::now();
        let (surprise, pause) = {
            let mut bucket = ticket.lane.bucket();
            let blocked = bucket.delay(now) > Duration::ZERO;
            let surprise = !blocked && bucket.tokens(now) != Some(0);
            (
                surprise,
                bucket.refused(ticket.number, now, asked, empty, size),
            )
        };
        if empty && surprise {
            self.inner().surprised(&ticket.id, now);
        }
        pause
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn id(
        &self,
        credential: &Arc<str>,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        now: Instant,
    ) -> LaneId {
        let set = self
            .sets
            .get(credential)
            .and_then(|sets| sets.iter().find(|set| set.endpoints.contains(&endpoint)));
        let name = set.map_or_else(|| endpoint.as_str().to_owned(), |set| set.id.clone());
        let widened = self
            .widened
            .get(&(Arc::clone(credential), name.clone()))
            .is_some_and(|until| now < *until);
        let scope = match set {
            Some(set) => set.scope,
            None if widened => Scope::Credential,
            None => Scope::Organization,
        };
        LaneId {
            set: name,
            credential: (scope != Scope::Address).then(|| Arc::clone(credential)),
            org: org.filter(|_| scope == Scope::Organization).cloned(),
        }
    }

    fn open(&mut self, id: &LaneId, now: Instant) -> Arc<Lane> {
        if let Some(lane) = self.lanes.get(id) {
            return Arc::clone(lane);
        }
        let lane = Arc::new(Lane::default());
        let size = id
            .credential
            .iter()
            .filter_map(|credential| self.sets.get(credential))
            .chain(self.sets.values())
            .flatten()
            .find(|set| set.id == id.set)
            .map(|set| set.size);
        if let Some(size) = size {
            lane.bucket().learn(size, now);
        }
        self.lanes.insert(id.clone(), Arc::clone(&lane));
        lane
    }

    /// Replaces the lanes of `credential` that stand for another bucket than they were opened for.
    fn regroup(&mut self, credential: &Arc<str>, now: Instant) {
        let mine: Vec<LaneId> = self
            .lanes
            .keys()
            .filter(|id| id.credential.as_ref() == Some(credential))
            .cloned()
            .collect();
        for old in mine {
            // a lane is named after its set, or after an endpoint as long as no set is known
            let endpoint = Endpoint::ALL.into_iter().find(|endpoint| {
                endpoint.as_str() == old.set
                    || self.sets.get(credential).is_some_and(|sets| {
                        sets.iter()
                            .any(|set| set.id == old.set && set.endpoints.contains(endpoint))
                    })
            });
            let Some(endpoint) = endpoint else {
                continue;
            };
            let id = self.id(credential, endpoint, old.org.as_ref(), now);
            if id == old {
                continue;
            }
            if let Some(lane) = self.lanes.remove(&old) {
                let new = self.open(&id, now);
                new.bucket().merge(&lane.bucket(), now);
                lane.retired.store(true, Ordering::Release);
            }
        }
    }

    fn surprised(&mut self, id: &LaneId, now: Instant) {
        let (Some(credential), Some(org)) = (&id.credential, &id.org) else {
            return;
        };
        let key = (Arc::clone(credential), id.set.clone());
        let before = self.surprises.insert(key.clone(), (org.clone(), now));
        let shared = before.is_some_and(|(other, at)| other != *org && now < at + SURPRISES_WITHIN);
        if shared && !self.sets.contains_key(credential) {
            info!(
                credential = &**credential,
                endpoint = id.set,
                "organizations are refused together; taking their request budget for a common one for an hour"
            );
            self.widened.insert(key, now + WIDENED_FOR);
            self.regroup(credential, now);
        }
    }
}

impl Lane {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The request was answered, with what `RateLimit-Limit` and `RateLimit-Remaining` say.
    pub(super) fn answered(mut self, limit: Option<u64>, remaining: Option<u64>) {
        self.settled = true;
        self.lane
            .bucket()
            .answered(self.number, Instant::now(), limit, remaining);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.lane.bucket().lost();
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
            size: BucketSize::new(10, 5, 60).expect("a size"),
        }
    }

    const KEYS: Endpoint = Endpoint::AiModelApiKeys;

    #[tokio::test(start_paused = true)]
    async fn endpoints_of_a_set_share_what_is_left() {
        let (budgets, name) = (Budgets::default(), Arc::from("default"));
        budgets.learn_sets(&name, vec![set(Scope::Organization)]);
        let begun = Instant::now();
        for n in 0..9 {
            let endpoint = if n % 2 == 0 {
                KEYS
            } else {
                Endpoint::AiModelApiRateLimits
            };
            let (ticket, waited) = budgets.take(&name, endpoint, Some(&org(1))).await;
            ticket.answered(None, None);
            assert_eq!(waited.is_zero(), n < 8, "request {n} waited {waited:?}");
        }
        assert_eq!(begun.elapsed(), Duration::from_mins(1));
        let (_, waited) = budgets.take(&name, KEYS, Some(&org(2))).await;
        assert_eq!(waited, Duration::ZERO, "another organization has its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_of_the_credential_is_shared_by_its_organizations() {
        let (budgets, name) = (Budgets::default(), Arc::from("default"));
        for n in 0..4 {
            budgets
                .take(&name, KEYS, Some(&org(n)))
                .await
                .0
                .answered(None, None);
        }
        budgets.learn_sets(&name, vec![set(Scope::Credential)]);
        for n in 0..8 {
            let (ticket, waited) = budgets.take(&name, KEYS, Some(&org(n))).await;
            ticket.answered(None, None);
            assert_eq!(waited, Duration::ZERO);
        }
        let (_, waited) = budgets.take(&name, KEYS, Some(&org(9))).await;
        assert_eq!(waited, Duration::from_mins(1));
        let (id, supply) = budgets.supply(&name, KEYS, Some(&org(3)));
        assert_eq!(supply.map(|rate| (rate * 60.0).round()), Some(4.0));
        assert_eq!(id, budgets.supply(&name, KEYS, Some(&org(7))).0);
    }

    #[tokio::test(start_paused = true)]
    async fn two_organizations_refused_together_are_taken_to_share() {
        let (budgets, name) = (Budgets::default(), Arc::from("default"));
        let size = BucketSize::new(10, 5, 60);
        for n in 0..2 {
            let (ticket, _) = budgets.take(&name, KEYS, Some(&org(n))).await;
            budgets.refused(ticket, Some(Duration::from_secs(30)), true, size);
        }
        let (id, supply) = budgets.supply(&name, KEYS, Some(&org(7)));
        assert_eq!((id.org, supply.is_some()), (None, true));
        let (_, waited) = budgets.take(&name, KEYS, Some(&org(7))).await;
        assert!(waited >= Duration::from_secs(30), "{waited:?}");
        tokio::time::advance(WIDENED_FOR).await;
        assert_eq!(
            budgets.supply(&name, KEYS, Some(&org(7))).0.org,
            Some(org(7))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_first_is_served_first() {
        let budgets = Arc::new(Budgets::default());
        let name: Arc<str> = Arc::from("default");
        budgets.learn_sets(&name, vec![set(Scope::Credential)]);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..30 {
            let (budgets, name, order) =
                (Arc::clone(&budgets), Arc::clone(&name), Arc::clone(&order));
            tasks.spawn(async move {
                budgets
                    .take(&name, KEYS, Some(&org(n)))
                    .await
                    .0
                    .answered(None, None);
                order.lock().expect("no panic").push(n);
            });
            tokio::task::yield_now().await;
        }
        tasks.join_all().await;
        let order = order.lock().expect("no panic").clone();
        assert_eq!(order, (0..30).collect::<Vec<_>>());
    }
}
