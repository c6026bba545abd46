//! Tracks how the client reads a response.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::connection_state::ConnectionState;
use crate::client_network::ClientNetwork;
use crate::sync::Mutex;

/// The time without a read by the client after which a response counts as stalled: it no longer protects its connection from
/// eviction, or its request from losing its permit.
pub(crate) const STALLED_AFTER: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct InFlightResponse {
    pub(super) started_at: Instant,
    phase: Mutex<Phase>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    /// The request is waiting or being handled.
    Handling,
    /// The client has read all chunks so far; the next chunk of the body is being produced.
    Producing,
    /// A chunk of the response has been waiting for the client since this time.
    Unread(Instant),
}

impl InFlightResponse {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            started_at: Instant::now(),
            phase: Mutex::new(Phase::Handling),
        })
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.lock()
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.lock() = phase;
    }

    pub(super) fn unread_for(&self) -> Option<Duration> {
        match self.phase() {
            Phase::Unread(since) => Some(since.elapsed()),
            Phase::Handling | Phase::Producing => None,
        }
    }
}

/// A response in flight and its connection. The handler of a request gets it as an extension of the request.
#[derive(Debug, Clone)]
pub struct ResponseHandle {
    pub(super) connection: Arc<ConnectionState>,
    pub(super) response: Arc<InFlightResponse>,
}

impl ResponseHandle {
    /// Returns the client that sent the request.
    pub(crate) fn client(&self) -> ClientNetwork {
        self.connection.client
    }

    /// Returns how long a chunk of the response has been waiting for the client; `None` if no chunk is waiting.
    pub(crate) fn unread_for(&self) -> Option<Duration> {
        self.response.unread_for()
    }

    /// Records that the request has passed authentication.
    pub(crate) fn mark_authorized(&self) {
        self.connection.authorized.store(true, Ordering::Relaxed);
    }

    /// Closes the connection.
    pub(crate) fn evict(&self) {
        self.connection.evicted.cancel();
    }

    #[cfg(test)]
    pub(crate) fn is_evicted(&self) -> bool {
        self.connection.evicted.is_cancelled()
    }
}

/// Marks a response as in flight until the guard is dropped.
pub(crate) struct ResponseGuard(pub(super) ResponseHandle);

impl ResponseGuard {
    pub(crate) fn handle(&self) -> ResponseHandle {
        self.0.clone()
    }

    /// Tracks how the client reads `body`.
    pub(crate) fn track(self, body: Body) -> Body {
        // The body is not polled while the client does not read the headers before it.
        self.0.response.set_phase(Phase::Unread(Instant::now()));
        Body::new(TrackedBody { body, guard: self })
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        let ended = &self.0.response;
        ended.set_phase(Phase::Handling);
        let mut activity = self.0.connection.activity.lock();
        activity
            .responses
            .retain(|response| !Arc::ptr_eq(response, ended));
        activity.idle_since = Instant::now();
    }
}

/// A body that records each poll: the client has read all previous chunks by then.
struct TrackedBody {
    body: Body,
    guard: ResponseGuard,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.guard.0.response.set_phase(match frame {
            Poll::Ready(_) => Phase::Unread(Instant::now()),
            Poll::Pending => Phase::Producing,
        });
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
