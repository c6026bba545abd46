//! The HTTP client: what it sends along, and how much it takes in.

use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Method, Request, redirect};
use tokio::runtime::Runtime;
use tokio_util::task::AbortOnDropHandle;

use super::body::{Body, MAX_BODY_BYTES, MAX_COMPRESSED_BYTES, MAX_SHORT_BYTES, too_large_error};
use super::client::ClientConfig;
use super::error::{ErrorKind, proxy_suffix};
use super::proxy::Proxy;
use super::transport::{Response, Transport};

/// A way to Atlas over HTTP, with TLS where the scheme of the base URL asks for it.
///
/// # Errors
/// What the TLS library says when it cannot be set up, most likely for want of system roots.
pub fn new_http_transport(config: &ClientConfig) -> Result<Arc<dyn Transport>, String> {
    ReqwestTransport::new(config.route.proxy()).map(|http| Arc::new(http) as Arc<dyn Transport>)
}

/// Headers of a response over HTTP/1. hyper's own limit of 100 is less than what some proxies and gateways send.
const MAX_HEADERS: usize = 1000;
/// Bytes of all headers of a response over HTTP/2; hyper's own limit is 16 KiB. Over HTTP/1 it is some 400 KiB.
const MAX_HEADER_BYTES: u32 = 256 << 10;

/// The runtime of the connections to Atlas. A server that keeps a connection busy for ever, such as with interim responses
/// without end, takes threads of its own and none that serves.
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
        .ok_or_else(|| "cannot start threads for connections to Atlas".to_owned())
}

/// Threads that drive connections to Atlas: one would be held up by a single connection that is busy for ever.
const CONNECTION_THREADS: usize = 2;

/// Atlas over HTTPS. Connections are kept and reused between walks.
#[derive(Clone)]
struct ReqwestTransport {
    client: reqwest::Client,
    /// The proxy in force, as it is shown in errors.
    proxy: Option<String>,
}

impl ReqwestTransport {
    fn new(proxy: Option<&Proxy>) -> Result<Self, String> {
        // one provider for the whole process; a second call finds it set, which is what is wanted
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!(
                "atlas-ai-keys-exporter/",
                env!("CARGO_PKG_VERSION")
            ))
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(4)
            .tcp_nodelay(true)
            .referer(false)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            // decompressed here, in bounded memory and off the threads that serve
            .default_headers(HeaderMap::from_iter([(
                ACCEPT_ENCODING,
                HeaderValue::from_static("gzip"),
            )]))
            // The variables are read in `proxy`: reqwest ignores a value that it cannot parse.
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
        let problem = |error| self.classify_error(error);
        let mut response = self.client.execute(request).await.map_err(problem)?;
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
        while let Some(chunk) = response.chunk().await.map_err(problem)? {
            if body.append(&chunk, max_received).await.is_err() {
                if !is_error {
                    return Err(too_large_error(max_received));
                }
                // what an error says stands at its beginning; the status matters more
                let room = max_received.saturating_sub(body.len());
                let start = chunk.get(..room).unwrap_or_default();
                let _ = body.append(start, max_received).await;
                break;
            }
        }
        if is_gzip {
            body = match body.gunzip(max_bytes, is_error).await {
                // likewise
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
        // the address is known, and a query could hold what does not belong into a log
        let error = error.without_url();
        if error.is_decode() && !is_tls_error(&error) && !is_truncated(&error) {
            return ErrorKind::InvalidResponse(format!(
                "its body cannot be read: {}",
                root_cause(&error)
            ));
        }
        let cause = root_cause(&error) + &proxy_suffix(self.proxy.as_deref());
        if is_tls_error(&error) {
            ErrorKind::Tls(cause)
        } else {
            ErrorKind::Connection(cause)
        }
    }
}

/// Whether a body is compressed with gzip.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] for any other encoding, which was not asked for.
fn is_gzip(headers: &HeaderMap) -> Result<bool, ErrorKind> {
    let encodings = headers.get_all(CONTENT_ENCODING);
    let names = encodings
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut names = names
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

impl Transport for ReqwestTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, ErrorKind>> {
        let this = self.clone();
        Box::pin(async move {
            let runtime = connections_runtime().map_err(ErrorKind::Connection)?;
            // ends with the future that waits for it
            let task = AbortOnDropHandle::new(
                runtime.spawn(async move { this.send_and_read(request).await }),
            );
            task.await
                .unwrap_or_else(|error| Err(ErrorKind::Connection(error.to_string())))
        })
    }

    fn proxy(&self) -> Option<&str> {
        self.proxy.as_deref()
    }
}

/// Returns the root cause's message.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    error_chain(error)
        .last()
        .map_or_else(String::new, ToString::to_string)
}

type ErrorRef<'a> = &'a (dyn std::error::Error + 'static);

/// An error and its causes. [`std::io::Error`] names the source of the error that it wraps, not
/// the wrapped one, which may itself be another `io::Error` around what matters.
fn error_chain(error: ErrorRef<'_>) -> impl Iterator<Item = ErrorRef<'_>> {
    std::iter::successors(Some(error), |error| {
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as ErrorRef<'_>),
            None => error.source(),
        }
    })
}

fn is_tls_error(error: &reqwest::Error) -> bool {
    error_chain(error).any(<dyn std::error::Error>::is::<rustls::Error>)
}

/// Whether the body ended before its announced length: a matter of the connection.
fn is_truncated(error: &reqwest::Error) -> bool {
    error_chain(error).any(|cause| {
        cause.downcast_ref::<hyper::Error>().is_some_and(|error| {
            error.is_incomplete_message() || error.is_body_write_aborted() || error.is_closed()
        }) || cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::BrokenPipe
            )
        })
    })
}
