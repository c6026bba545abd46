//! Limits the number of open connections.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection_state::{ConnectionState, client_network};

/// Of the open connections, the share that always belongs to those without an authorized request: a new connection has
/// to get as far as its first request. Beyond it, they are evicted before any other.
const UNAUTHORIZED_SHARE: usize = 4;

/// The open connections of all listeners of a kind.
///
/// At `max` a new connection evicts another. First go those without an authorized request, the oldest first, whatever
/// they are doing; then those on which nothing moves forward (idle, waiting, or with a response that the client does not
/// take), the longest first. In both groups the client with the most connections loses one. Connections of authorized
/// clients that take their response are never evicted.
pub(super) struct ConnectionTracker {
    max: usize,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next_id: u64,
    open: HashMap<u64, Arc<ConnectionState>>,
    /// Open connections of each client.
    clients: HashMap<IpAddr, Arc<AtomicUsize>>,
}

/// Held by the task of a connection, which counts as open until this is dropped.
pub(super) struct ConnectionGuard {
    tracker: Arc<ConnectionTracker>,
    id: u64,
    pub(super) state: Arc<ConnectionState>,
}

impl ConnectionTracker {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            connections: Mutex::default(),
        })
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a connection from `address`; none when no other can be evicted for it.
    pub(super) fn try_admit(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionGuard> {
        let mut connections = self.connections();
        if connections.open.len() >= self.max && !connections.evict() {
            return None;
        }
        let client = client_network(address);
        let count = Arc::clone(connections.clients.entry(client).or_default());
        count.fetch_add(1, Ordering::Relaxed);
        let state = ConnectionState::new(client, count);
        let id = connections.next_id;
        connections.next_id += 1;
        connections.open.insert(id, Arc::clone(&state));
        Some(ConnectionGuard {
            tracker: Arc::clone(self),
            id,
            state,
        })
    }

    /// Makes room where the system has none left.
    pub(super) fn evict(&self) {
        self.connections().evict();
    }
}

impl Connections {
    /// Evicts a connection; false when every one is needed.
    fn evict(&mut self) -> bool {
        let mut unauthorized = 0;
        let mut first = [None, None];
        for (id, state) in &self.open {
            let Some(rank) = state.eviction_rank() else {
                continue;
            };
            unauthorized += usize::from(!rank.authorized);
            let order = (Reverse(rank.client_connections), rank.since, *id);
            let [of_unauthorized, of_authorized] = &mut first;
            let first = if rank.authorized {
                of_authorized
            } else {
                of_unauthorized
            };
            if first.is_none_or(|first| order < first) {
                *first = Some(order);
            }
        }
        let [of_unauthorized, of_authorized] = first;
        let victim = if unauthorized * UNAUTHORIZED_SHARE > self.open.len() {
            of_unauthorized.or(of_authorized)
        } else {
            of_authorized.or(of_unauthorized)
        };
        let evicted = victim.and_then(|(_, _, id)| self.remove(id));
        if let Some(state) = &evicted {
            state.evicted.cancel();
        }
        evicted.is_some()
    }

    fn remove(&mut self, id: u64) -> Option<Arc<ConnectionState>> {
        let state = self.open.remove(&id)?;
        let client = state.client();
        if let Some(count) = self.clients.get(&client)
            && count.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.clients.remove(&client);
        }
        Some(state)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.tracker.connections().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::Extensions;
    use futures_util::FutureExt as _;
    use http_body::Body as _;

    use super::*;
    use crate::server::connection_state::{ResponseGuard, STALLED_AFTER, mark_authorized};

    const SECOND: Duration = Duration::from_secs(1);

    fn authorize(response: &ResponseGuard) {
        let mut extensions = Extensions::new();
        extensions.insert(response.handle());
        mark_authorized(&extensions);
    }

    /// Asks a body for its next frame; true when there was one.
    fn poll(body: &mut Body) -> bool {
        let frame =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
        frame.now_or_never().is_some()
    }

    struct TestTracker(Arc<ConnectionTracker>);

    impl TestTracker {
        fn new(max: usize) -> Self {
            Self(ConnectionTracker::new(max))
        }

        /// A connection a second after the one before, from the n-th address.
        async fn admit(&self, address: u8) -> Option<ConnectionGuard> {
            tokio::time::advance(SECOND).await;
            self.0.try_admit(IpAddr::from([10, 0, 0, address]))
        }

        /// Such a connection, with an authorized request behind it.
        async fn admit_authorized(&self, address: u8) -> ConnectionGuard {
            let connection = self.admit(address).await.expect("room");
            authorize(&connection.state.begin_response());
            connection
        }
    }

    fn is_evicted(connection: &ConnectionGuard) -> bool {
        connection.state.evicted.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn unauthorized_connections_are_evicted_first() {
        let listener = TestTracker::new(4);
        let scraper = listener.admit_authorized(1).await;
        let guessing = listener.admit(1).await.expect("room");
        let guess = guessing.state.begin_response();
        let stalled = listener.admit(1).await.expect("room");
        let refused = stalled.state.begin_response().track(Body::from("refused"));
        let silent = listener.admit(1).await.expect("room");
        let mut later = Vec::new();
        for expected in [&guessing, &stalled, &silent] {
            assert!(!is_evicted(expected));
            later.push(listener.admit(1).await.expect("room"));
            assert!(is_evicted(expected) && !is_evicted(&scraper));
        }
        drop((guess, refused));
    }

    #[tokio::test(start_paused = true)]
    async fn responses_without_progress_do_not_prevent_eviction() {
        type Response = Box<dyn std::any::Any>;
        // each begins a response that does not move forward
        let waiting = |connection: &ConnectionGuard| -> Response {
            Box::new(connection.state.begin_response())
        };
        let never_polled = |connection: &ConnectionGuard| -> Response {
            Box::new(connection.state.begin_response().track(Body::from("x")))
        };
        let not_taken = |connection: &ConnectionGuard| -> Response {
            let mut body = connection.state.begin_response().track(Body::from("x"));
            assert!(poll(&mut body));
            Box::new(body)
        };
        let kinds: [&dyn Fn(&ConnectionGuard) -> Response; 3] =
            [&waiting, &never_polled, &not_taken];
        for begin in kinds {
            let listener = TestTracker::new(2);
            let connection = listener.admit_authorized(1).await;
            let response = begin(&connection);
            let taking = listener.admit_authorized(1).await;
            let guard = taking.state.begin_response();
            let pending = futures_util::stream::pending::<Result<&str, std::convert::Infallible>>();
            let mut body = guard.track(Body::from_stream(pending));
            assert!(!poll(&mut body), "it is being made");
            tokio::time::advance(STALLED_AFTER).await;
            assert!(listener.admit(1).await.is_some());
            assert!(is_evicted(&connection) && !is_evicted(&taking));
            drop(response);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_with_progress_are_never_evicted() {
        let listener = TestTracker::new(2);
        let mut bodies = Vec::new();
        let connections = [
            listener.admit_authorized(1).await,
            listener.admit_authorized(1).await,
        ];
        for connection in &connections {
            let mut body = connection.state.begin_response().track(Body::from("x"));
            assert!(poll(&mut body), "taken just now");
            bodies.push(body);
        }
        let address = IpAddr::from([10, 0, 0, 2]);
        assert!(listener.0.try_admit(address).is_none());
        assert!(connections.iter().all(|connection| !is_evicted(connection)));
        drop(bodies);
        assert!(listener.0.try_admit(address).is_some(), "both are idle");
    }

    #[tokio::test(start_paused = true)]
    async fn client_with_most_connections_loses_one() {
        let listener = TestTracker::new(6);
        let alone = listener.admit(1).await.expect("room");
        let mut crowd = Vec::new();
        for _ in 0..5 {
            crowd.push(listener.admit(2).await.expect("room"));
        }
        // the oldest of all is the one of the other client
        for _ in 0..20 {
            crowd.push(listener.admit(2).await.expect("room"));
            assert!(!is_evicted(&alone));
        }
        // authorized or not
        let listener = TestTracker::new(6);
        let alone = listener.admit_authorized(1).await;
        let mut crowd = Vec::new();
        for _ in 0..20 {
            crowd.push(listener.admit_authorized(2).await);
            assert!(!is_evicted(&alone));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_connection_reaches_its_request_when_authorized_ones_fill_the_limit() {
        let listener = TestTracker::new(8);
        let mut waiting = Vec::new();
        for _ in 0..8 {
            waiting.push(listener.admit_authorized(1).await);
        }
        let first = listener.admit(1).await.expect("room");
        let second = listener.admit(1).await.expect("room");
        assert!(!is_evicted(&first) && !is_evicted(&second));
        assert!(waiting.iter().take(2).all(is_evicted));
        // more than their share evict each other
        let third = listener.admit(1).await.expect("room");
        let _fourth = listener.admit(1).await.expect("room");
        assert!(is_evicted(&first) && !is_evicted(&third));
    }

    #[tokio::test(start_paused = true)]
    async fn closed_connections_are_counted_once() {
        let listener = TestTracker::new(2);
        for _ in 0..5 {
            let connections = [listener.admit(1).await, listener.admit(2).await];
            let third = listener.admit(1).await;
            assert!(connections.iter().flatten().any(is_evicted));
            drop((connections, third));
        }
        let connections = listener.0.connections();
        assert!(connections.open.is_empty() && connections.clients.is_empty());
    }

    #[test]
    fn addresses_map_to_client_networks() {
        for (address, client) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            let [address, client] = [address, client].map(|text| text.parse().expect("an address"));
            assert_eq!(client_network(address), client);
        }
    }
}
