//! Limits concurrent requests, fairly among clients.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::client_network::ClientNetwork;
use crate::server::{ResponseHandle, STALLED_AFTER};
use crate::sync::Mutex;

/// Replaces [`STALLED_AFTER`] for a client with more admitted requests than the waiting client.
const STALLED_AFTER_UNDER_CONTENTION: Duration = Duration::from_millis(100);
/// The maximum number of waiting requests of all clients. Above this number, each client may have one.
const MAX_WAITING: usize = 256;

/// Limits the number of concurrent requests. Excess requests wait until a timeout.
///
/// The next admitted request is the newest one of the client with the fewest admitted requests. During overload the oldest
/// requests are close to their timeout, so that a first-in, first-out queue would lose all of them. A response that the
/// client does not read loses its permit when another request needs it, and its connection is closed.
#[derive(Debug)]
pub struct RequestLimiter {
    /// The maximum number of waiting requests of one client. An excess request replaces the oldest one.
    max_waiting_per_client: usize,
    wait_timeout: Duration,
    requests: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    next_id: u64,
    max_admitted: usize,
    admitted: usize,
    /// The requests in order of arrival.
    by_id: BTreeMap<u64, LimitedRequest>,
}

#[derive(Debug)]
struct LimitedRequest {
    client: ClientNetwork,
    response: Option<ResponseHandle>,
    admitted: bool,
    changed: Arc<Notify>,
}

/// The permit of one request. The request counts as waiting, then as admitted, until the permit is dropped.
#[derive(Debug)]
pub struct RequestPermit {
    limiter: Arc<RequestLimiter>,
    id: u64,
}

impl RequestLimiter {
    /// Creates a limiter. A request waits for at most `wait_timeout`.
    pub fn new(max_waiting_per_client: usize, wait_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            max_waiting_per_client,
            wait_timeout,
            requests: Mutex::default(),
        })
    }

    /// Waits until the request is admitted: at most `max` requests are admitted at a time. Returns `None` after the timeout,
    /// or when too many requests of the same client are waiting. `response` is the [`ResponseHandle`] extension of the
    /// request.
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
                    let mut requests = self.requests.lock();
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
        let client = response.as_ref().map(ResponseHandle::client);
        let client = client.unwrap_or_default();
        let mut requests = self.requests.lock();
        // A reload can change the limit.
        requests.max_admitted = max;
        requests.make_room(client, self.max_waiting_per_client);
        let id = requests.next_id;
        requests.next_id += 1;
        let request = LimitedRequest {
            client,
            response,
            admitted: false,
            changed: Arc::clone(changed),
        };
        requests.by_id.insert(id, request);
        RequestPermit {
            limiter: Arc::clone(self),
            id,
        }
    }
}

impl Requests {
    /// Rejects the oldest waiting request of `client` when the client has reached its limit.
    fn make_room(&mut self, client: ClientNetwork, max_waiting_per_client: usize) {
        let waiting = self.by_id.len() - self.admitted;
        let max_waiting = if waiting < MAX_WAITING {
            max_waiting_per_client
        } else {
            1
        };
        let is_waiting = |request: &LimitedRequest| !request.admitted && request.client == client;
        let mut waiting = self.by_id.iter().filter(|(_, r)| is_waiting(r));
        let oldest = waiting.next().map(|(id, _)| *id);
        if let Some(oldest) = oldest
            && 1 + waiting.count() >= max_waiting
            && let Some(rejected) = self.by_id.remove(&oldest)
        {
            rejected.changed.notify_one();
        }
    }

    /// Admits waiting requests while permits are free. Returns the time until the next check for stalled responses.
    fn admit(&mut self) -> Duration {
        while self.admitted < self.by_id.len() {
            let mut admitted_per_client = HashMap::<ClientNetwork, usize>::new();
            for request in self.by_id.values().filter(|request| request.admitted) {
                *admitted_per_client.entry(request.client).or_default() += 1;
            }
            let admitted_for = |request: &LimitedRequest| {
                let count = admitted_per_client.get(&request.client);
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
                // The time until a response counts as stalled, and its request.
                let remaining = |(id, request): (&u64, &LimitedRequest)| {
                    let response = request.response.as_ref().filter(|_| request.admitted)?;
                    let unread_for = response.unread_for()?;
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
        let mut requests = self.limiter.requests.lock();
        // The request was removed already if another request has received its permit.
        if let Some(request) = requests.by_id.remove(&self.id)
            && request.admitted
        {
            requests.admitted -= 1;
            requests.admit();
        }
    }
}

#[cfg(test)]
mod tests;
