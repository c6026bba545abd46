//! Activity of one connection: its requests, its responses, and how long each may take.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Extensions;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits::ServerLimits;

/// A response of which the client has taken nothing for this long is stalled: it no longer keeps its connection from
/// being evicted, nor its scrape from losing its place.
pub(crate) const STALLED_AFTER: Duration = Duration::from_millis(250);

/// Bytes of an HTTP/1 request header.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// Response to a larger one.
const RESPONSE_431: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
    content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\ncontent-length: 49\r\n\r\n\
    The head of a request may have 32 KiB, not more.\n";
/// How often the limits of a connection are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, as a single host usually has one.
pub(super) fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// State of one connection, shared by its task, its socket, its responses and the tracker that may evict it.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    client: IpAddr,
    /// Open connections of the same client.
    client_connections: Arc<AtomicUsize>,
    accepted_at: Instant,
    activity: Mutex<Activity>,
    /// Cancelled at the first complete request.
    first_request: CancellationToken,
    /// Cancelled when the connection has to close.
    pub(super) evicted: CancellationToken,
}

#[derive(Debug)]
struct Activity {
    /// When the first byte of an incomplete request header came in.
    header_started_at: Option<Instant>,
    /// Bytes of that header.
    header_bytes: usize,
    /// When the last response ended.
    idle_since: Instant,
    /// Whether a request was let through to the routes.
    authorized: bool,
    responses: Vec<InFlightResponse>,
    next_id: u64,
}

#[derive(Debug)]
struct InFlightResponse {
    id: u64,
    started_at: Instant,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The request waits, or is worked on.
    Handling,
    /// The client has taken everything so far; the next part of the body is being made.
    Producing,
    /// A part of the response has been waiting for the client since then.
    Unread(Instant),
}

/// Order of eviction, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EvictionRank {
    /// Whether a request was let through to the routes.
    pub(super) authorized: bool,
    /// Open connections of the same client.
    pub(super) client_connections: usize,
    /// Since when nothing has moved forward.
    pub(super) since: Instant,
}

impl ConnectionState {
    /// A connection from `client`, one of the `client_connections` that it has open.
    pub(crate) fn new(client: IpAddr, client_connections: Arc<AtomicUsize>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            client,
            client_connections,
            accepted_at: now,
            activity: Mutex::new(Activity {
                header_started_at: None,
                header_bytes: 0,
                idle_since: now,
                authorized: false,
                responses: Vec::new(),
                next_id: 0,
            }),
            first_request: CancellationToken::new(),
            evicted: CancellationToken::new(),
        })
    }

    pub(super) fn client(&self) -> IpAddr {
        self.client
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records bytes read. Returns false once the request header is too large.
    fn record_read(&self, bytes: usize) -> bool {
        let mut activity = self.activity();
        if bytes == 0 || !activity.responses.is_empty() {
            return true;
        }
        activity.header_started_at.get_or_insert_with(Instant::now);
        activity.header_bytes += bytes;
        activity.header_bytes <= MAX_HEADER_BYTES
    }

    /// Where the connection stands in the order of eviction. None while an authorized client takes a response as it is
    /// made. A client that was never let in has no such claim: with each of its requests it could renew it.
    pub(super) fn eviction_rank(&self) -> Option<EvictionRank> {
        let activity = self.activity();
        let rank = |since: Instant| EvictionRank {
            authorized: activity.authorized,
            client_connections: self.client_connections.load(Ordering::Relaxed),
            since,
        };
        if !activity.authorized {
            return Some(rank(self.accepted_at));
        }
        let mut since = activity.idle_since;
        for response in &activity.responses {
            let last_progress = match response.phase {
                Phase::Handling => response.started_at,
                Phase::Producing => return None,
                Phase::Unread(unread_since) if unread_since.elapsed() < STALLED_AFTER => {
                    return None;
                }
                Phase::Unread(unread_since) => unread_since,
            };
            since = since.max(last_progress);
        }
        Some(rank(since))
    }

    /// Begins a response to a complete request; it is in flight until what this returns is dropped.
    pub(crate) fn begin_response(self: &Arc<Self>) -> ResponseGuard {
        self.first_request.cancel();
        let mut activity = self.activity();
        (activity.header_started_at, activity.header_bytes) = (None, 0);
        let id = activity.next_id;
        activity.next_id += 1;
        activity.responses.push(InFlightResponse {
            id,
            started_at: Instant::now(),
            phase: Phase::Handling,
        });
        ResponseGuard(ResponseHandle {
            connection: Arc::clone(self),
            id,
        })
    }

    /// Returns after the first complete request.
    pub(super) async fn first_request(&self) {
        self.first_request.cancelled().await;
    }

    /// Why the connection has to close, if a limit is exceeded.
    fn find_expired(&self, limits: &ServerLimits) -> Option<&'static str> {
        let activity = self.activity();
        let longer = |since: Instant, limit: Duration| since.elapsed() > limit;
        if activity
            .header_started_at
            .is_some_and(|since| longer(since, limits.header_timeout))
        {
            return Some("request header timeout");
        }
        for response in &activity.responses {
            if matches!(response.phase, Phase::Unread(since) if longer(since, limits.write_stall_timeout))
            {
                return Some("response write timeout");
            }
            if longer(response.started_at, limits.response_timeout) {
                return Some("response timeout");
            }
        }
        let idle =
            activity.responses.is_empty() && longer(activity.idle_since, limits.idle_timeout);
        idle.then_some("idle timeout")
    }

    /// Returns when the connection has to close, with the reason.
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

/// A response and its connection, for those who handle the request: an extension of it.
#[derive(Debug, Clone)]
pub struct ResponseHandle {
    connection: Arc<ConnectionState>,
    id: u64,
}

impl ResponseHandle {
    /// The client that has sent the request.
    pub(crate) fn client(&self) -> IpAddr {
        self.connection.client
    }

    /// How long a part of the response has been waiting for the client; none when the client waits.
    pub(crate) fn unread_for(&self) -> Option<Duration> {
        let activity = self.connection.activity();
        let mut responses = activity.responses.iter();
        match responses.find(|response| response.id == self.id)?.phase {
            Phase::Unread(since) => Some(since.elapsed()),
            Phase::Handling | Phase::Producing => None,
        }
    }

    /// Closes the connection.
    pub(crate) fn evict(&self) {
        self.connection.evicted.cancel();
    }

    #[cfg(test)]
    /// Whether the connection is closed to make room for another.
    pub fn is_evicted(&self) -> bool {
        self.connection.evicted.is_cancelled()
    }
}

/// Records that a request with these extensions was let through to the routes: from now on its connection is among the
/// last to be evicted.
pub(crate) fn mark_authorized(extensions: &Extensions) {
    if let Some(response) = extensions.get::<ResponseHandle>() {
        response.connection.activity().authorized = true;
    }
}

/// Keeps a response in flight.
pub(crate) struct ResponseGuard(ResponseHandle);

impl ResponseGuard {
    pub(crate) fn handle(&self) -> ResponseHandle {
        self.0.clone()
    }

    fn set_phase(&self, phase: Phase) {
        let mut activity = self.0.connection.activity();
        let mut responses = activity.responses.iter_mut();
        if let Some(response) = responses.find(|response| response.id == self.0.id) {
            response.phase = phase;
        }
    }

    /// Watches how `body` is taken by the client.
    pub(crate) fn track(self, body: Body) -> Body {
        // also where the body is never asked for, as the client leaves no room for what comes before it
        self.set_phase(Phase::Unread(Instant::now()));
        Body::new(TrackedBody { body, guard: self })
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        let mut activity = self.0.connection.activity();
        activity
            .responses
            .retain(|response| response.id != self.0.id);
        activity.idle_since = Instant::now();
    }
}

/// A body that records when it is asked for more: everything before has then been taken.
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
        self.guard.set_phase(match frame {
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

/// Bounds the size of HTTP/1 request headers. hyper's own bound would hold for what it may buffer of a response as well.
pub(super) struct HeaderLimitIo<S> {
    stream: S,
    connection: Arc<ConnectionState>,
    /// How much of the 431 response is written, once there is one.
    written: Option<usize>,
}

impl<S: AsyncWrite + Unpin> HeaderLimitIo<S> {
    pub(super) fn new(stream: S, connection: Arc<ConnectionState>) -> Self {
        Self {
            stream,
            connection,
            written: None,
        }
    }

    /// Writes the rest of the 431 response, then ends the connection.
    fn write_431(&mut self, context: &mut Context<'_>, from: usize) -> Poll<io::Result<()>> {
        let mut written = from;
        while let Some(rest) = RESPONSE_431.get(written..).filter(|rest| !rest.is_empty()) {
            self.written = Some(written);
            written += match Pin::new(&mut self.stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(bytes)) => bytes,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
        }
        self.written = Some(written);
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => {
                let text = "request header too large";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for HeaderLimitIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(from) = self.written {
            return self.write_431(context, from);
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        if self.connection.record_read(bytes) {
            return read;
        }
        buffer.set_filled(before);
        self.write_431(context, 0)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeaderLimitIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
