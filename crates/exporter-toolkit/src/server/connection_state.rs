//! Tracks the activity of one connection, and checks its timeouts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits::ServerLimits;
use super::response::{InFlightResponse, Phase, ResponseGuard, ResponseHandle, STALLED_AFTER};
use crate::client_network::ClientNetwork;
use crate::sync::Mutex;

/// The maximum size of an HTTP/1 request header.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// The interval between two checks of a connection's timeouts.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The state of one connection. Its task, its stream, its responses and the connection tracker share it.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    pub(super) client: ClientNetwork,
    /// The number of open connections of the same client.
    client_connections: Arc<AtomicUsize>,
    accepted_at: Instant,
    /// Whether a request has passed authentication. Such connections are evicted last.
    pub(super) authorized: AtomicBool,
    pub(super) activity: Mutex<Activity>,
    /// Cancelled at the first complete request.
    pub(super) first_request: CancellationToken,
    /// Cancelled when the connection must close.
    pub(super) evicted: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Activity {
    /// The time of the first byte of an incomplete request header.
    header_started_at: Option<Instant>,
    /// The number of bytes of that header received so far.
    header_bytes: usize,
    /// The time at which the last response ended.
    pub(super) idle_since: Instant,
    pub(super) responses: Vec<Arc<InFlightResponse>>,
}

/// The properties that determine which connection is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EvictionRank {
    /// Whether a request has passed authentication.
    pub(super) authorized: bool,
    /// The number of open connections of the same client.
    pub(super) client_connections: usize,
    /// The time of the last progress.
    pub(super) since: Instant,
}

impl ConnectionState {
    /// Creates the state of a connection from `client`, one of its `client_connections`.
    pub(crate) fn new(client: ClientNetwork, client_connections: Arc<AtomicUsize>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            client,
            client_connections,
            accepted_at: now,
            authorized: AtomicBool::new(false),
            activity: Mutex::new(Activity {
                header_started_at: None,
                header_bytes: 0,
                idle_since: now,
                responses: Vec::new(),
            }),
            first_request: CancellationToken::new(),
            evicted: CancellationToken::new(),
        })
    }

    /// Records bytes read. Returns `false` once the request header exceeds [`MAX_HEADER_BYTES`].
    pub(super) fn record_read(&self, bytes: usize) -> bool {
        let mut activity = self.activity.lock();
        if bytes == 0 || !activity.responses.is_empty() {
            return true;
        }
        activity.header_started_at.get_or_insert_with(Instant::now);
        activity.header_bytes += bytes;
        activity.header_bytes <= MAX_HEADER_BYTES
    }

    /// Returns the connection's rank for eviction; `None` while an authorized client reads a response. A response to an
    /// unauthorized client does not protect its connection, because the client could send another request each time.
    pub(super) fn eviction_rank(&self) -> Option<EvictionRank> {
        let authorized = self.authorized.load(Ordering::Relaxed);
        let mut since = self.accepted_at;
        if authorized {
            let activity = self.activity.lock();
            since = activity.idle_since;
            for response in &activity.responses {
                since = since.max(match response.phase() {
                    Phase::Handling => response.started_at,
                    Phase::Unread(at) if at.elapsed() >= STALLED_AFTER => at,
                    Phase::Producing | Phase::Unread(_) => return None,
                });
            }
        }
        Some(EvictionRank {
            authorized,
            client_connections: self.client_connections.load(Ordering::Relaxed),
            since,
        })
    }

    /// Starts the response to a complete request. The response is in flight until the guard is dropped.
    pub(crate) fn begin_response(self: &Arc<Self>) -> ResponseGuard {
        self.first_request.cancel();
        let mut activity = self.activity.lock();
        (activity.header_started_at, activity.header_bytes) = (None, 0);
        let handle = ResponseHandle {
            connection: Arc::clone(self),
            response: InFlightResponse::new(),
        };
        activity.responses.push(Arc::clone(&handle.response));
        ResponseGuard(handle)
    }

    /// Returns the exceeded timeout, if any.
    fn find_expired(&self, limits: &ServerLimits) -> Option<&'static str> {
        let activity = self.activity.lock();
        let header_started_at = activity.header_started_at;
        if header_started_at.is_some_and(|at| at.elapsed() > limits.header_timeout) {
            return Some("request header timeout");
        }
        for response in &activity.responses {
            if response
                .unread_for()
                .is_some_and(|unread_for| unread_for > limits.write_stall_timeout)
            {
                return Some("response write timeout");
            }
            if response.started_at.elapsed() > limits.response_timeout {
                return Some("response timeout");
            }
        }
        let is_idle = activity.responses.is_empty();
        let idle_for = activity.idle_since.elapsed();
        (is_idle && idle_for > limits.idle_timeout).then_some("idle timeout")
    }

    /// Waits until the connection must close, and returns the reason.
    pub(super) async fn wait_expired(&self, limits: &ServerLimits) -> &'static str {
        let interval = CHECK_INTERVAL
            .min(limits.write_stall_timeout / 4)
            .min(limits.header_timeout / 4);
        loop {
            tokio::select! {
                () = self.evicted.cancelled() => return "evicted: too many open connections",
                () = tokio::time::sleep(interval) => {}
            }
            if let Some(reason) = self.find_expired(limits) {
                return reason;
            }
        }
    }
}
