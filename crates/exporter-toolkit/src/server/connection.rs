//! One connection: its TLS, its HTTP.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection_state::{ConnectionState, HeaderLimitIo};
use super::connections::ConnectionGuard;
use super::limits::ServerLimits;
use crate::host;
use crate::web_config::{PeerAddr, PeerCertificates, SharedWebConfig, TlsSettings};

/// Send buffer of a socket; Linux doubles it. By itself it grows to several megabytes, which a client that reads nothing
/// would fill on each of its connections, and whether it reads would show that much later.
const SOCKET_SEND_BUFFER: usize = 256 << 10;
/// What an HTTP/1 connection holds of a response that the client does not take. hyper reads no larger header either;
/// [`HeaderLimitIo`] allows less.
const HTTP1_BUFFER: usize = 128 << 10;
/// What an HTTP/2 stream holds of such a response.
const HTTP2_BUFFER: usize = 64 << 10;
/// All headers of an HTTP/2 request.
const HTTP2_MAX_HEADER_LIST: u32 = 16 << 10;
/// Requests at once on one HTTP/2 connection.
const HTTP2_MAX_STREAMS: u32 = 32;
/// How often an HTTP/2 connection on which nothing comes in is asked whether somebody is there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long after the stop a client that has come in before may still ask for something: it could not
/// know, and nobody else will answer it.
const LATE_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// What a connection needs beside itself.
#[derive(Clone)]
pub(super) struct ConnectionContext {
    pub(super) router: Router,
    pub(super) limits: ServerLimits,
    /// Answers that are under way may end, and no other begins.
    pub(super) drain: CancellationToken,
    /// Nothing may go on.
    pub(super) abort: CancellationToken,
    /// Who is let in; none where everybody is.
    pub(super) web_config: Option<Arc<SharedWebConfig>>,
    /// The client's address, for the routes.
    pub(super) peer: Option<PeerAddr>,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    stream: TcpStream,
    tls: Option<TlsSettings>,
    connection: ConnectionGuard,
    mut ways: ConnectionContext,
) {
    ways.peer = stream.peer_addr().ok().map(PeerAddr);
    // a response is written in large pieces, and its end is not to wait for an acknowledgement
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_send_buffer_size(SOCKET_SEND_BUFFER);
    let state = Arc::clone(&connection.state);
    let (limits, end) = (ways.limits, ways.abort.clone());
    let served = async {
        let access = ways.web_config.clone();
        let Some(tls) = tls else {
            return tokio::select! {
                ended = http1(stream, state.clone(), ways) => ended,
                () = client_rejected(access, None) => Err(CLIENT_REJECTED.to_owned()),
            };
        };
        let handshake = TlsAcceptor::from(tls.config).accept(stream);
        let handshake = tokio::select! {
            () = drain_grace(&ways.drain) => return Ok(()),
            shaken = tokio::time::timeout(limits.header_timeout, handshake) => shaken,
        };
        let stream = handshake
            .map_err(|_| "TLS handshake timeout".to_owned())?
            .map_err(|error| format!("TLS handshake: {error}"))?;
        let session = stream.get_ref().1;
        let certificates = session.peer_certificates().unwrap_or_default().to_vec();
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        let served = async {
            if is_http2 {
                http2(TokioIo::new(stream), state.clone(), ways).await
            } else {
                http1(stream, state.clone(), ways).await
            }
        };
        tokio::select! {
            ended = served => ended,
            () = client_rejected(access, Some(&certificates)) => Err(CLIENT_REJECTED.to_owned()),
        }
    };
    let ended = tokio::select! {
        ended = served => ended,
        reason = state.wait_expired(&limits) => Err(reason.to_owned()),
        () = end.cancelled() => Err("the exporter stops".to_owned()),
    };
    if let Err(reason) = ended {
        debug!(reason, "connection closed");
    }
    drop(connection);
}

/// Why a connection ends that [`client_rejected`] ends.
const CLIENT_REJECTED: &str = "the client of the connection is no longer admitted";

/// Returns once `access` would not let the client of this connection in any more.
async fn client_rejected(access: Option<Arc<SharedWebConfig>>, certificates: PeerCertificates<'_>) {
    match access {
        Some(access) => access.client_rejected(certificates).await,
        None => std::future::pending().await,
    }
}

/// Hands a request to the routes, and tracks its response.
async fn handle(
    state: Arc<ConnectionState>,
    router: Router,
    peer: Option<PeerAddr>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let guard = state.begin_response();
    if host::validate(request.version(), request.uri(), request.headers()).is_err() {
        return Ok(bad_host_response().map(|body| guard.track(body)));
    }
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    request.extensions_mut().insert(guard.handle());
    let router = TowerToHyperService::new(router);
    let response = router.call(request.map(Body::new)).await?;
    Ok(response.map(|body| guard.track(body)))
}

/// The response to a request whose host is missing, given twice or malformed.
fn bad_host_response() -> Response<Body> {
    let text = "400 Bad Request: expected one valid Host header.\n";
    let headers = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::BAD_REQUEST, headers, text).into_response()
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    state: Arc<ConnectionState>,
    ways: ConnectionContext,
) -> Result<(), String> {
    let io = TokioIo::new(HeaderLimitIo::new(stream, Arc::clone(&state)));
    let ConnectionContext {
        router,
        drain: stop,
        peer,
        ..
    } = ways;
    let of_service = Arc::clone(&state);
    let service =
        service_fn(move |request| handle(Arc::clone(&of_service), router.clone(), peer, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // the state of the connection has these limits
        .header_read_timeout(None)
        .max_buf_size(HTTP1_BUFFER)
        .serve_connection(io, service);
    drive(connection, &state, stop).await
}

async fn http2(
    io: impl Read + Write + Unpin + 'static,
    state: Arc<ConnectionState>,
    ways: ConnectionContext,
) -> Result<(), String> {
    let ConnectionContext {
        router,
        drain: stop,
        limits,
        peer,
        ..
    } = ways;
    let of_service = Arc::clone(&state);
    let service =
        service_fn(move |request| handle(Arc::clone(&of_service), router.clone(), peer, request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HTTP2_MAX_HEADER_LIST)
        .max_concurrent_streams(HTTP2_MAX_STREAMS)
        .max_send_buf_size(HTTP2_BUFFER)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(limits.header_timeout)
        .serve_connection(io, service);
    drive(connection, &state, stop).await
}

/// Some time after `stop`.
async fn drain_grace(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LATE_REQUEST_GRACE).await;
}

/// Lets a connection end by itself; after `stop` it takes no request more, but for the first one of a
/// client that has come in before.
async fn drive(
    connection: impl GracefulConnection<Error = hyper::Error>,
    state: &ConnectionState,
    stop: CancellationToken,
) -> Result<(), String> {
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::join!(state.first_request(), stop.cancelled()); } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = drain_grace(&stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(|error| error.to_string())
}
