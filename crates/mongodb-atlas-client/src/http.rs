//! The HTTP client, and its limits on responses.

use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Method, Request, redirect};
use tokio::runtime::Runtime;
use tokio_util::task::AbortOnDropHandle;

use crate::body::{Body, MAX_BODY_BYTES, MAX_COMPRESSED_BYTES, MAX_SHORT_BYTES, too_large_error};
use crate::client::ClientConfig;
use crate::error::{ErrorKind, proxy_suffix};
use crate::transport::{Response, Transport};

/// Creates a transport over HTTP, with TLS if the scheme of the base URL is `https`.
///
/// # Errors
/// Returns the message of the TLS library if its setup fails, usually because there are no root certificates on the system.
pub fn new_http_transport(config: &ClientConfig) -> Result<Arc<dyn Transport>, String> {
    Ok(Arc::new(ReqwestTransport::new(config)?))
}

/// Maximum number of headers of a response over HTTP/1. Some proxies and gateways send more than hyper's limit of 100.
const MAX_HEADERS: usize = 1000;
/// Maximum size of all headers of a response over HTTP/2; hyper's limit is 16 KiB. Over HTTP/1 the limit is about 400 KiB.
const MAX_HEADER_BYTES: u32 = 256 << 10;
/// Number of threads that drive connections to Atlas. A single thread could be blocked by one busy connection.
const CONNECTION_THREADS: usize = 2;

/// Returns the runtime of the connections to Atlas. A server that keeps a connection busy, for example with endless
/// interim responses, then blocks one thread of this runtime and none of the caller's runtime.
fn connections_runtime() -> Result<&'static Runtime, String> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let build = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(CONNECTION_THREADS);
        builder.thread_name("atlas").enable_all().build().ok()
    };
    RUNTIME
        .get_or_init(build)
        .as_ref()
        .ok_or_else(|| "cannot start the threads for connections to Atlas".to_owned())
}

/// Sends requests with reqwest. Connections are reused.
#[derive(Clone)]
struct ReqwestTransport {
    client: reqwest::Client,
    /// The proxy in use, as displayed in errors.
    proxy: Option<String>,
}

impl ReqwestTransport {
    fn new(config: &ClientConfig) -> Result<Self, String> {
        let proxy = config.route.proxy();
        // The process has one provider. The call fails if it is already installed, which is harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let accept_gzip = (ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let mut builder = reqwest::Client::builder()
            .user_agent(&config.user_agent)
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(4)
            .tcp_nodelay(true)
            .referer(false)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            // Bodies are decompressed by `Body`, in bounded memory and on blocking threads.
            .default_headers(HeaderMap::from_iter([accept_gzip]))
            // The `proxy` module reads the variables: reqwest ignores a value that it cannot parse.
            .no_proxy();
        if let Some(proxy) = proxy {
            builder = builder.proxy(proxy.to_reqwest()?);
        }
        Ok(Self {
            client: builder.build().map_err(|error| root_cause(&error))?,
            proxy: proxy.map(ToString::to_string),
        })
    }

    async fn send_and_read(&self, request: Request) -> Result<Response, ErrorKind> {
        let is_short = request.method() == Method::POST;
        let classify = |error| self.classify_error(error);
        let mut response = self.client.execute(request).await.map_err(classify)?;
        let is_error = !response.status().is_success();
        let max_bytes = if is_short || is_error {
            MAX_SHORT_BYTES
        } else {
            MAX_BODY_BYTES
        };
        let is_gzip = is_gzip(response.headers())?;
        let max_received = if is_gzip {
            max_bytes.min(MAX_COMPRESSED_BYTES)
        } else {
            max_bytes
        };
        let mut body = Body::default();
        while let Some(chunk) = response.chunk().await.map_err(classify)? {
            if !body.append(&chunk, max_received).await {
                if !is_error {
                    return Err(too_large_error(max_received));
                }
                // The error object is at the beginning of the body, and a truncated body must not hide the status.
                let room = max_received.saturating_sub(body.len());
                let start = chunk.get(..room).unwrap_or_default();
                body.append(start, max_received).await;
                break;
            }
        }
        if is_gzip {
            body = match body.gunzip(max_bytes, is_error).await {
                Err(_) if is_error => Body::default(),
                decompressed => decompressed?,
            };
        }
        Ok(Response {
            status: response.status(),
            headers: response.headers().clone(),
            body,
        })
    }

    fn classify_error(&self, error: reqwest::Error) -> ErrorKind {
        // The endpoint is in the error already, and a query must not be logged.
        let error = error.without_url();
        let is_tls = error_chain(&error).any(<dyn StdError>::is::<rustls::Error>);
        if error.is_decode() && !is_tls && error_chain(&error).any(is_malformed) {
            let cause = root_cause(&error);
            return ErrorKind::InvalidResponse(format!("cannot read the body: {cause}"));
        }
        let cause = root_cause(&error) + &proxy_suffix(self.proxy.as_deref());
        if is_tls {
            ErrorKind::Tls(cause)
        } else {
            ErrorKind::Connection(cause)
        }
    }
}

impl Transport for ReqwestTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, ErrorKind>> {
        let this = self.clone();
        Box::pin(async move {
            let runtime = connections_runtime().map_err(ErrorKind::Connection)?;
            let task = runtime.spawn(async move { this.send_and_read(request).await });
            // Dropping the future that waits for the task aborts the task.
            AbortOnDropHandle::new(task)
                .await
                .unwrap_or_else(|error| Err(ErrorKind::Connection(error.to_string())))
        })
    }

    fn proxy(&self) -> Option<&str> {
        self.proxy.as_deref()
    }
}

/// Returns whether a body is compressed with gzip.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] for any other encoding, because the request does not accept it.
fn is_gzip(headers: &HeaderMap) -> Result<bool, ErrorKind> {
    let mut names = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"));
    match (names.next(), names.next()) {
        (None, _) => Ok(false),
        (Some(name), None)
            if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") =>
        {
            Ok(true)
        }
        _ => Err(ErrorKind::InvalidResponse(
            "unexpected Content-Encoding (expected gzip or none)".to_owned(),
        )),
    }
}

/// Returns the message of the root cause.
fn root_cause(error: ErrorRef<'_>) -> String {
    error_chain(error)
        .last()
        .map_or_else(String::new, ToString::to_string)
}

type ErrorRef<'a> = &'a (dyn StdError + 'static);

/// Returns an error and its causes. The `source` of an [`io::Error`] is that of the error it wraps, not the wrapped
/// error, which may be another `io::Error` around the cause.
fn error_chain(error: ErrorRef<'_>) -> impl Iterator<Item = ErrorRef<'_>> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref().and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as ErrorRef<'_>),
            None => error.source(),
        }
    })
}

/// Returns whether a body violates HTTP/1. Every other error of a body is a connection error; most errors of HTTP/2 have
/// no type that could be distinguished.
fn is_malformed(cause: ErrorRef<'_>) -> bool {
    let kind = cause.downcast_ref().map(io::Error::kind);
    matches!(
        kind,
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
    )
}
