//! Responses over HTTP/2.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::ready;
use futures_util::stream::{once, pending};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::tls_frontend::server_config;
use super::token_env;
use crate::common::pki::TestPki;
use crate::common::run_exporter;

/// How a truncated response ends.
#[derive(Debug, Clone, Copy)]
enum BodyEnd {
    /// The stream is reset.
    Reset,
    /// The connection is closed.
    Closed,
}

/// Responds with the first bytes of a page.
async fn serve_truncated_body(stream: TcpStream, acceptor: TlsAcceptor, end: BodyEnd) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let service = service_fn(move |_| async move {
        let start = once(ready(Ok(Bytes::from_static(b"{\"results\": ["))));
        let body = match end {
            BodyEnd::Reset => start
                .chain(once(ready(Err(io::Error::other("reset on demand")))))
                .boxed(),
            BodyEnd::Closed => start.chain(pending()).boxed(),
        };
        let response = hyper::Response::builder().header("content-type", "application/json");
        Ok::<_, Infallible>(response.body(Body::from_stream(body)).unwrap())
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    // The connection is dropped without a GOAWAY frame.
    let _ = tokio::time::timeout(Duration::from_millis(500), connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_http2_body_is_a_connection_error() {
    let pki = TestPki::new();
    let mut config = server_config(&pki, "atlas");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    for end in [BodyEnd::Reset, BodyEnd::Closed] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (acceptor, counter) = (acceptor.clone(), Arc::clone(&connections));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve_truncated_body(stream, acceptor.clone(), end));
            }
        });
        let mut variables = token_env(format!("https://127.0.0.1:{port}"));
        let ca = pki.path("ca.pem").display().to_string();
        variables.push(("SSL_CERT_FILE".to_owned(), ca));
        let output = run_exporter(&["once"], variables).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{end:?}: {error}");
        assert!(error.contains("reason=connection"), "{end:?}: {error}");
        assert!(!error.contains("cannot read the body"), "{end:?}: {error}");
        assert!(connections.load(Ordering::Relaxed) > 0);
        server.abort();
    }
}
