//! Serves one connection: TLS and HTTP.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection_state::ConnectionState;
use super::connections::ConnectionGuard;
use super::header_limit::HeaderLimitIo;
use super::limits::ServerLimits;
use crate::host;
use crate::web_config::SharedWebConfig;

/// The size of a socket's send buffer; Linux doubles it. The default grows to several megabytes on each connection, which
/// delays the detection of a client that reads nothing.
const SOCKET_SEND_BUFFER: usize = 256 << 10;
/// The size of an HTTP/1 connection's buffer for a response that the client does not read. hyper also limits the request
/// header to this size; the limit of [`HeaderLimitIo`] is lower.
const HTTP1_BUFFER: usize = 128 << 10;
/// The size of an HTTP/2 stream's buffer for a response that the client does not read.
const HTTP2_BUFFER: usize = 64 << 10;
/// The maximum size of all headers of an HTTP/2 request.
const HTTP2_MAX_HEADER_LIST: u32 = 16 << 10;
/// The maximum number of concurrent requests on one HTTP/2 connection.
const HTTP2_MAX_STREAMS: u32 = 32;
/// The interval of pings on an HTTP/2 connection without incoming data.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// The grace period after shutdown in which an accepted connection may send its first request: no other process will respond
/// to it.
const LATE_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// The reason when [`SharedWebConfig::client_rejected`] closes a connection.
const CLIENT_REJECTED: &str = "client rejected by the web configuration";

/// The settings that all connections of a server share.
pub(super) struct ConnectionContext {
    pub(super) router: Router,
    pub(super) limits: ServerLimits,
    /// Cancelled at shutdown: responses in flight are completed, and new requests are not accepted.
    pub(super) drain: CancellationToken,
    /// Cancelled when connections must close immediately.
    pub(super) abort: CancellationToken,
    pub(super) web_config: Arc<SharedWebConfig>,
}

/// Serves one connection until it closes.
pub(super) async fn serve(
    stream: TcpStream,
    connection: ConnectionGuard,
    context: Arc<ConnectionContext>,
) {
    // Without a delay, because the last chunk of a response must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_send_buffer_size(SOCKET_SEND_BUFFER);
    let state = &connection.state;
    let result = tokio::select! {
        result = serve_stream(stream, state, &context) => result,
        reason = state.wait_expired(&context.limits) => Err(reason.to_owned()),
        () = context.abort.cancelled() => Err("drain timeout".to_owned()),
    };
    if let Err(reason) = result {
        debug!(reason, "connection closed");
    }
}

async fn serve_stream(
    stream: TcpStream,
    state: &Arc<ConnectionState>,
    context: &Arc<ConnectionContext>,
) -> Result<(), String> {
    let web_config = &context.web_config;
    let Some(tls) = web_config.get().tls() else {
        return tokio::select! {
            result = serve_http(stream, false, state, context) => result,
            () = web_config.client_rejected(None) => Err(CLIENT_REJECTED.to_owned()),
        };
    };
    let handshake = TlsAcceptor::from(tls.config).accept(stream);
    let late = async {
        context.drain.cancelled().await;
        tokio::time::sleep(LATE_REQUEST_GRACE).await;
    };
    let handshake = tokio::select! {
        () = late => return Ok(()),
        handshake = tokio::time::timeout(context.limits.header_timeout, handshake) => handshake,
    };
    let stream = handshake
        .map_err(|_| "TLS handshake timeout".to_owned())?
        .map_err(|error| format!("TLS handshake failed: {error}"))?;
    let session = stream.get_ref().1;
    let certificates = session.peer_certificates().unwrap_or_default().to_vec();
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    tokio::select! {
        result = serve_http(stream, is_http2, state, context) => result,
        () = web_config.client_rejected(Some(&certificates)) => Err(CLIENT_REJECTED.to_owned()),
    }
}

/// Serves HTTP on a stream until the connection closes. After `drain`, finishes requests in flight and allows one first
/// request within the grace period.
async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    is_http2: bool,
    state: &Arc<ConnectionState>,
    context: &Arc<ConnectionContext>,
) -> Result<(), String> {
    let service = {
        let (state, context) = (Arc::clone(state), Arc::clone(context));
        service_fn(move |request| handle(Arc::clone(&state), Arc::clone(&context), request))
    };
    let io = TokioIo::new(HeaderLimitIo::new(
        stream,
        (!is_http2).then(|| Arc::clone(state)),
    ));
    let builder = http_builder(&context.limits);
    let builder = if is_http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    let mut connection = pin!(builder.serve_connection(io, service));
    let drain = async {
        context.drain.cancelled().await;
        let _ = tokio::time::timeout(LATE_REQUEST_GRACE, state.first_request.cancelled()).await;
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = drain => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(|error| error.to_string())
}

fn http_builder(limits: &ServerLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // `ConnectionState` checks this timeout.
        .header_read_timeout(None)
        .max_buf_size(HTTP1_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HTTP2_MAX_HEADER_LIST)
        .max_concurrent_streams(HTTP2_MAX_STREAMS)
        .max_send_buf_size(HTTP2_BUFFER)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(limits.header_timeout);
    builder
}

/// Passes a request to the router, and tracks its response.
async fn handle(
    state: Arc<ConnectionState>,
    context: Arc<ConnectionContext>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let guard = state.begin_response();
    if !host::is_valid(request.version(), request.uri(), request.headers()) {
        return Ok(bad_host_response().map(|body| guard.track(body)));
    }
    request.extensions_mut().insert(guard.handle());
    let router = TowerToHyperService::new(context.router.clone());
    let response = router.call(request.map(Body::new)).await?;
    Ok(response.map(|body| guard.track(body)))
}

/// Returns the response to a request with a missing, duplicate or malformed host.
fn bad_host_response() -> Response<Body> {
    let text = "400 Bad Request: expected exactly one valid Host header.\n";
    let headers = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::BAD_REQUEST, headers, text).into_response()
}
