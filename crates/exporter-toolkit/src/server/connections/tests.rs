use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt as _;
use http_body::Body as _;

use super::*;
use crate::server::response::STALLED_AFTER;

const SECOND: Duration = Duration::from_secs(1);

/// Polls a body for its next frame. Returns whether a frame was ready.
fn poll(body: &mut Body) -> bool {
    let frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
    frame.now_or_never().is_some()
}

struct TestTracker(Arc<ConnectionTracker>);

impl TestTracker {
    fn new(max: usize) -> Self {
        Self(ConnectionTracker::new(max))
    }

    /// Admits a connection from the n-th address, a second after the previous one.
    async fn admit(&self, address: u8) -> Option<ConnectionGuard> {
        tokio::time::advance(SECOND).await;
        self.0.try_admit(IpAddr::from([10, 0, 0, address]))
    }

    /// Admits a connection, and completes an authorized request on it.
    async fn admit_authorized(&self, address: u8) -> ConnectionGuard {
        let connection = self.admit(address).await.expect("admitted");
        connection.state.begin_response().handle().mark_authorized();
        connection
    }
}

fn is_evicted(connection: &ConnectionGuard) -> bool {
    connection.state.evicted.is_cancelled()
}

#[tokio::test(start_paused = true)]
async fn unauthorized_connections_are_evicted_first() {
    let tracker = TestTracker::new(4);
    let scraper = tracker.admit_authorized(1).await;
    let guessing = tracker.admit(1).await.expect("admitted");
    let guess = guessing.state.begin_response();
    let stalled = tracker.admit(1).await.expect("admitted");
    let rejected = stalled.state.begin_response().track(Body::from("rejected"));
    let silent = tracker.admit(1).await.expect("admitted");
    let mut later = Vec::new();
    for expected in [&guessing, &stalled, &silent] {
        assert!(!is_evicted(expected));
        later.push(tracker.admit(1).await.expect("admitted"));
        assert!(is_evicted(expected) && !is_evicted(&scraper));
    }
    drop((guess, rejected));
}

#[tokio::test(start_paused = true)]
async fn responses_without_progress_do_not_prevent_eviction() {
    type Response = Box<dyn std::any::Any>;
    // Each closure starts a response without progress.
    let waiting =
        |connection: &ConnectionGuard| -> Response { Box::new(connection.state.begin_response()) };
    let never_polled = |connection: &ConnectionGuard| -> Response {
        Box::new(connection.state.begin_response().track(Body::from("x")))
    };
    let unread = |connection: &ConnectionGuard| -> Response {
        let mut body = connection.state.begin_response().track(Body::from("x"));
        assert!(poll(&mut body));
        Box::new(body)
    };
    let kinds: [&dyn Fn(&ConnectionGuard) -> Response; 3] = [&waiting, &never_polled, &unread];
    for begin in kinds {
        let tracker = TestTracker::new(2);
        let connection = tracker.admit_authorized(1).await;
        let response = begin(&connection);
        let reading = tracker.admit_authorized(1).await;
        let guard = reading.state.begin_response();
        let pending = futures_util::stream::pending::<Result<&str, std::convert::Infallible>>();
        let mut body = guard.track(Body::from_stream(pending));
        assert!(!poll(&mut body), "the body is being produced");
        tokio::time::advance(STALLED_AFTER).await;
        assert!(tracker.admit(1).await.is_some());
        assert!(is_evicted(&connection) && !is_evicted(&reading));
        drop(response);
    }
}

#[tokio::test(start_paused = true)]
async fn connections_with_progress_are_never_evicted() {
    let tracker = TestTracker::new(2);
    let mut bodies = Vec::new();
    let connections = [
        tracker.admit_authorized(1).await,
        tracker.admit_authorized(1).await,
    ];
    for connection in &connections {
        let mut body = connection.state.begin_response().track(Body::from("x"));
        assert!(poll(&mut body), "read just now");
        bodies.push(body);
    }
    let address = IpAddr::from([10, 0, 0, 2]);
    assert!(tracker.0.try_admit(address).is_none());
    assert!(connections.iter().all(|connection| !is_evicted(connection)));
    drop(bodies);
    assert!(tracker.0.try_admit(address).is_some(), "both are idle");
}

#[tokio::test(start_paused = true)]
async fn client_with_most_connections_loses_one() {
    let tracker = TestTracker::new(6);
    let alone = tracker.admit(1).await.expect("admitted");
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(tracker.admit(2).await.expect("admitted"));
    }
    // The oldest connection belongs to the other client.
    for _ in 0..20 {
        others.push(tracker.admit(2).await.expect("admitted"));
        assert!(!is_evicted(&alone));
    }
    // The same holds for authorized connections.
    let tracker = TestTracker::new(6);
    let alone = tracker.admit_authorized(1).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(tracker.admit_authorized(2).await);
        assert!(!is_evicted(&alone));
    }
}

#[tokio::test(start_paused = true)]
async fn new_connection_reaches_its_request_when_authorized_ones_fill_the_limit() {
    let tracker = TestTracker::new(8);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(tracker.admit_authorized(1).await);
    }
    let first = tracker.admit(1).await.expect("admitted");
    let second = tracker.admit(1).await.expect("admitted");
    assert!(!is_evicted(&first) && !is_evicted(&second));
    assert!(waiting.iter().take(2).all(is_evicted));
    // Unauthorized connections beyond their share evict each other.
    let third = tracker.admit(1).await.expect("admitted");
    let _fourth = tracker.admit(1).await.expect("admitted");
    assert!(is_evicted(&first) && !is_evicted(&third));
}

#[tokio::test(start_paused = true)]
async fn closed_connections_are_counted_once() {
    let tracker = TestTracker::new(2);
    for _ in 0..5 {
        let connections = [tracker.admit(1).await, tracker.admit(2).await];
        let third = tracker.admit(1).await;
        assert!(connections.iter().flatten().any(is_evicted));
        drop((connections, third));
    }
    let connections = tracker.0.connections.lock();
    assert!(connections.open.is_empty() && connections.clients.is_empty());
}
