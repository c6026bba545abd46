//! Limits concurrent requests, fairly among clients.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::server::{ResponseHandle, STALLED_AFTER};

/// The same as [`STALLED_AFTER`] where the client has more requests admitted than that of the request that waits.
const STALLED_AFTER_UNDER_CONTENTION: Duration = Duration::from_millis(100);
/// Requests that wait, from all clients together; beyond it each client may have one.
const MAX_WAITING: usize = 256;

/// Admits a number of requests at once; the others wait for a while.
///
/// The next one admitted is of the client with the fewest admitted requests, and of its requests the latest: under a flood
/// those that have waited for long are lost anyway, and first in, first out would lose all. A response that the client
/// does not take gives its place up as soon as another request needs it: its connection is closed.
#[derive(Debug)]
pub struct RequestLimiter {
    /// Requests of one client that wait at once; for another one the oldest of them is refused.
    max_waiting_per_client: usize,
    wait_timeout: Duration,
    requests: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    next_id: u64,
    max_admitted: usize,
    admitted: usize,
    /// In the order in which they came.
    by_id: BTreeMap<u64, LimitedRequest>,
}

#[derive(Debug)]
struct LimitedRequest {
    response: Option<ResponseHandle>,
    admitted: bool,
    changed: Arc<Notify>,
}

impl LimitedRequest {
    fn client(&self) -> IpAddr {
        client_address(self.response.as_ref())
    }

    fn unread_for(&self) -> Option<Duration> {
        self.response.as_ref()?.unread_for()
    }
}

fn client_address(response: Option<&ResponseHandle>) -> IpAddr {
    response.map_or(Ipv4Addr::UNSPECIFIED.into(), ResponseHandle::client)
}

/// Counts a request as waiting, then as admitted, until it is dropped.
#[derive(Debug)]
pub struct RequestPermit {
    limiter: Arc<RequestLimiter>,
    id: u64,
}

impl RequestLimiter {
    /// A limiter in which a request waits for `wait_timeout` at most, and `max_waiting_per_client` requests of one client at once.
    pub fn new(max_waiting_per_client: usize, wait_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            max_waiting_per_client,
            wait_timeout,
            requests: Mutex::default(),
        })
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no more than `max` requests are admitted, this one included. None when that takes too long, or too
    /// many are waiting already. `response` is that of the request, where a listener has taken it in.
    pub async fn acquire(
        self: &Arc<Self>,
        max: usize,
        response: Option<ResponseHandle>,
    ) -> Option<RequestPermit> {
        let changed = Arc::new(Notify::new());
        let permit = self.enqueue(max, response, &changed);
        let admitted = async {
            loop {
                let next_check = {
                    let mut requests = self.requests();
                    let next_check = requests.admit();
                    match requests.by_id.get(&permit.id) {
                        Some(request) if !request.admitted => next_check,
                        request => return request.is_some(),
                    }
                };
                let _ = tokio::time::timeout(next_check, changed.notified()).await;
            }
        };
        let admitted = tokio::time::timeout(self.wait_timeout, admitted).await;
        (admitted == Ok(true)).then_some(permit)
    }

    fn enqueue(
        self: &Arc<Self>,
        max: usize,
        response: Option<ResponseHandle>,
        changed: &Arc<Notify>,
    ) -> RequestPermit {
        let mut requests = self.requests();
        // it can change at a reload
        requests.max_admitted = max;
        let waiting = requests.by_id.len() - requests.admitted;
        if waiting > 0 {
            let client = client_address(response.as_ref());
            let mut waiting_for_client = requests
                .by_id
                .iter()
                .filter(|(_, request)| !request.admitted && request.client() == client)
                .map(|(id, _)| *id);
            let oldest = waiting_for_client.next();
            let max_waiting = if waiting < MAX_WAITING {
                self.max_waiting_per_client
            } else {
                1
            };
            let is_full = oldest.is_some() && 1 + waiting_for_client.count() >= max_waiting;
            if let Some(id) = oldest.filter(|_| is_full)
                && let Some(refused) = requests.by_id.remove(&id)
            {
                refused.changed.notify_one();
            }
        }
        let id = requests.next_id;
        requests.next_id += 1;
        requests.by_id.insert(
            id,
            LimitedRequest {
                response,
                admitted: false,
                changed: Arc::clone(changed),
            },
        );
        RequestPermit {
            limiter: Arc::clone(self),
            id,
        }
    }
}

impl Requests {
    /// Admits whom there is a place for. Returns when the next one may become free because its client does not take the
    /// response.
    fn admit(&mut self) -> Duration {
        while self.admitted < self.by_id.len() {
            let mut admitted_for_client = HashMap::<IpAddr, usize>::new();
            for request in self.by_id.values().filter(|request| request.admitted) {
                *admitted_for_client.entry(request.client()).or_default() += 1;
            }
            let admitted_for = |request: &LimitedRequest| {
                let count = admitted_for_client.get(&request.client());
                count.copied().unwrap_or_default()
            };
            let waiting = self.by_id.iter().filter(|(_, request)| !request.admitted);
            let next = waiting
                .map(|(id, request)| (admitted_for(request), Reverse(*id)))
                .min();
            let Some((admitted_for_next, Reverse(id))) = next else {
                break;
            };
            if self.admitted >= self.max_admitted {
                // how long until a response has been unread for too long, and whose it is
                let remaining = |(id, request): (&u64, &LimitedRequest)| {
                    let unread_for = request.admitted.then(|| request.unread_for()).flatten()?;
                    let admitted = admitted_for(request);
                    let stalled_after = if admitted > admitted_for_next + 1 {
                        STALLED_AFTER_UNDER_CONTENTION
                    } else {
                        STALLED_AFTER
                    };
                    let remaining = stalled_after.saturating_sub(unread_for);
                    Some((remaining, Reverse(admitted), Reverse(unread_for), *id))
                };
                match self.by_id.iter().filter_map(remaining).min() {
                    Some((Duration::ZERO, _, _, id)) => {
                        if let Some(request) = self.by_id.remove(&id) {
                            self.admitted -= 1;
                            request.response.iter().for_each(ResponseHandle::evict);
                        }
                        continue;
                    }
                    Some((remaining, ..)) => return remaining,
                    None => return STALLED_AFTER_UNDER_CONTENTION,
                }
            }
            if let Some(request) = self.by_id.get_mut(&id) {
                request.admitted = true;
                self.admitted += 1;
                request.changed.notify_one();
            }
        }
        STALLED_AFTER
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        let mut requests = self.limiter.requests();
        // it is gone already when its place went to another
        if let Some(request) = requests.by_id.remove(&self.id)
            && request.admitted
        {
            requests.admitted -= 1;
            requests.admit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use axum::body::Body;

    use super::*;
    use crate::server::ConnectionState;

    const WAIT: Duration = Duration::from_secs(2);

    fn limiter() -> Arc<RequestLimiter> {
        RequestLimiter::new(8, WAIT)
    }

    /// A request on a connection of its own from the n-th address; the body is the one of its response.
    fn request(address: u8) -> (ResponseHandle, impl FnOnce() -> Body) {
        let address = IpAddr::from([10, 0, 0, address]);
        let connection = ConnectionState::new(address, Arc::new(AtomicUsize::new(1)));
        let guard = connection.begin_response();
        (guard.handle(), move || guard.track(Body::from("x")))
    }

    #[tokio::test(start_paused = true)]
    async fn excess_request_waits_and_is_rejected_after_the_timeout() {
        let limiter = limiter();
        let first = limiter.acquire(1, None).await.expect("a place");
        let started_at = tokio::time::Instant::now();
        assert!(limiter.acquire(1, None).await.is_none());
        assert_eq!(started_at.elapsed(), WAIT);
        let waiting = tokio::spawn({
            let limiter = Arc::clone(&limiter);
            async move { limiter.acquire(1, None).await.is_some() }
        });
        tokio::time::sleep(WAIT / 2).await;
        drop(first);
        assert!(waiting.await.expect("no panic"));
        let requests = limiter.requests();
        assert!(requests.by_id.is_empty() && requests.admitted == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_response_loses_its_permit() {
        let limiter = limiter();
        let mut permits = Vec::new();
        let mut bodies = Vec::new();
        let mut handles = Vec::new();
        for _ in 0..3 {
            let (handle, respond) = request(1);
            permits.push(limiter.acquire(3, Some(handle.clone())).await);
            bodies.push(respond());
            handles.push(handle);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(permits.iter().all(Option::is_some));
        let started_at = tokio::time::Instant::now();
        let (handle, _respond) = request(1);
        let permit = limiter.acquire(3, Some(handle)).await;
        assert!(permit.is_some() && started_at.elapsed() <= STALLED_AFTER);
        let evicted = handles.iter().map(ResponseHandle::is_evicted);
        assert_eq!(evicted.collect::<Vec<_>>(), [true, false, false]);
        // a place that was taken away is not given back twice
        drop((permits, permit));
        let requests = limiter.requests();
        assert!(requests.by_id.is_empty() && requests.admitted == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn client_with_many_permits_loses_one_sooner() {
        let limiter = limiter();
        let mut admitted = Vec::new();
        for _ in 0..3 {
            let (handle, respond) = request(1);
            let permit = limiter.acquire(3, Some(handle)).await;
            admitted.push((permit, respond()));
        }
        for (address, expected) in [(2, STALLED_AFTER_UNDER_CONTENTION), (1, STALLED_AFTER)] {
            let started_at = tokio::time::Instant::now();
            let (handle, respond) = request(address);
            let permit = limiter.acquire(3, Some(handle)).await;
            assert!(permit.is_some());
            // the timer's resolution is a millisecond
            let waited =
                started_at.elapsed() + STALLED_AFTER_UNDER_CONTENTION * u32::from(address == 1);
            assert!(
                waited.abs_diff(expected) <= Duration::from_millis(3),
                "{waited:?}"
            );
            admitted.push((permit, respond()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_being_handled_keep_their_permits() {
        let limiter = limiter();
        let (handle, _respond) = request(1);
        let permit = limiter.acquire(1, Some(handle.clone())).await;
        let (other, _respond_to_other) = request(2);
        assert!(limiter.acquire(1, Some(other)).await.is_none());
        assert!(permit.is_some() && !handle.is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn client_with_fewest_permits_is_next_newest_request_first() {
        let limiter = limiter();
        let places: Vec<_> = [(); 4].map(|()| request(1)).into();
        let mut permits = Vec::new();
        for (handle, _) in &places {
            permits.push(limiter.acquire(4, Some(handle.clone())).await);
        }
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (number, address) in [1, 2, 2, 1].into_iter().enumerate() {
            let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let (handle, _respond) = request(address);
                let permit = limiter.acquire(4, Some(handle)).await;
                order.lock().expect("no panic").push(number);
                // kept until all are done
                permit
            }));
            tokio::task::yield_now().await;
        }
        for _ in 0..4 {
            permits.pop();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // two of the client that had none, until both have as many
        assert_eq!(*order.lock().expect("no panic"), [2, 1, 3, 0]);
        for task in tasks {
            task.await.expect("no panic");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn single_client_cannot_fill_the_queue() {
        let limiter = limiter();
        let _held = limiter.acquire(1, None).await.expect("a place");
        let wait = |address: u8| {
            let limiter = Arc::clone(&limiter);
            tokio::spawn(async move {
                let (handle, _respond) = request(address);
                let started_at = tokio::time::Instant::now();
                let refused = limiter.acquire(1, Some(handle)).await.is_none();
                assert!(refused);
                started_at.elapsed()
            })
        };
        let mut tasks: Vec<_> = [1; 20].map(wait).into();
        tasks.push(wait(2));
        let mut waited = Vec::new();
        for task in tasks {
            waited.push(task.await.expect("no panic") == WAIT);
        }
        let mut expected = [false; 21];
        expected[12..].fill(true);
        assert_eq!(waited, expected, "eight of the first, one of the other");
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_requests_leave_the_queue() {
        let limiter = limiter();
        let held = limiter.acquire(1, None).await.expect("a place");
        let waiting = tokio::spawn({
            let limiter = Arc::clone(&limiter);
            async move { limiter.acquire(1, None).await }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err_and(|error| error.is_cancelled()));
        drop(held);
        let requests = limiter.requests();
        assert!(requests.by_id.is_empty() && requests.admitted == 0);
    }
}
