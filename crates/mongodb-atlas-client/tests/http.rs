//! Responses over HTTP/1: complete ones, truncated ones (a connection error) and malformed ones (an invalid response).
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic fails the test"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use mongodb_atlas_client::{
    ApiVersion, ClientConfig, Credential, ErrorKind, FailureReason, ProxyRoute, Response,
    StaticSecret, new_http_transport,
};
use reqwest::{Method, Request};

/// Responds to one request with these bytes, and closes the connection.
fn serve_once(response: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&response);
    });
    url
}

async fn fetch(response: Vec<u8>) -> Result<Response, ErrorKind> {
    let url = serve_once(response);
    let config = ClientConfig {
        credential_name: "default".into(),
        user_agent: "test".to_owned(),
        credential: Credential::AccessToken {
            token: Arc::new(StaticSecret::new("a test", "a-token")),
        },
        base_url: url.parse().unwrap(),
        route: ProxyRoute::Direct,
        api_version: ApiVersion::Preview,
        request_timeout: Duration::from_secs(10),
        max_retry_wait: Duration::ZERO,
    };
    let transport = new_http_transport(&config).unwrap();
    let request = Request::new(Method::GET, config.base_url);
    transport.send(request).await
}

/// Returns the reason of the failure; `None` for a response.
async fn failure(response: Vec<u8>) -> Option<FailureReason> {
    fetch(response).await.err().map(|kind| kind.reason())
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Returns a response with `Content-Length: length`.
fn response(status: &str, encoding: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let header = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{encoding}Content-Length: {length}\r\n\r\n"
    );
    [header.as_bytes(), body].concat()
}

/// Returns a response in one chunk, followed by `end`.
fn chunked(encoding: &str, body: &[u8], end: &str) -> Vec<u8> {
    let header = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{encoding}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    );
    [header.as_bytes(), body, b"\r\n", end.as_bytes()].concat()
}

const GZIP: &str = "Content-Encoding: gzip\r\n";

const TEXT: &str = "{\"results\": [], \"totalCount\": 0, \"links\": []}";

#[tokio::test(flavor = "multi_thread")]
async fn complete_body_is_returned() {
    let compressed = gzip(TEXT);
    for bytes in [
        response("200 OK", "", TEXT.len(), TEXT.as_bytes()),
        response("200 OK", GZIP, compressed.len(), &compressed),
        chunked("", TEXT.as_bytes(), "0\r\n\r\n"),
        chunked(GZIP, &compressed, "0\r\n\r\n"),
    ] {
        let body = fetch(bytes).await.map(|response| response.body.to_vec());
        assert_eq!(body, Ok(TEXT.as_bytes().to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_body_is_a_connection_error() {
    let compressed = gzip(TEXT);
    let half = compressed.len() / 2;
    for (what, bytes) in [
        (
            "closed before Content-Length",
            response("200 OK", "", TEXT.len() + 1, TEXT.as_bytes()),
        ),
        (
            "compressed, closed before Content-Length",
            response("200 OK", GZIP, compressed.len(), &compressed[..half]),
        ),
        (
            "compressed, truncated data",
            response("200 OK", GZIP, half, &compressed[..half]),
        ),
        (
            "compressed, without its checksum",
            response(
                "200 OK",
                GZIP,
                compressed.len() - 8,
                &compressed[..compressed.len() - 8],
            ),
        ),
        ("without the last chunk", chunked("", TEXT.as_bytes(), "")),
        (
            "compressed, without the last chunk",
            chunked(GZIP, &compressed, ""),
        ),
        ("within a chunk", chunked("", TEXT.as_bytes(), "40\r\n{")),
    ] {
        let reason = failure(bytes).await;
        assert_eq!(reason, Some(FailureReason::Connection), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_body_is_an_invalid_response() {
    let mut compressed = gzip(TEXT);
    let crc = compressed.len() - 6;
    compressed[crc] ^= 0xff;
    for (what, bytes) in [
        ("no chunk size", chunked("", TEXT.as_bytes(), "no size\r\n")),
        (
            "no gzip",
            response("200 OK", GZIP, TEXT.len(), TEXT.as_bytes()),
        ),
        (
            "another checksum",
            response("200 OK", GZIP, compressed.len(), &compressed),
        ),
        (
            "another encoding",
            response(
                "200 OK",
                "Content-Encoding: br\r\n",
                TEXT.len(),
                TEXT.as_bytes(),
            ),
        ),
        (
            "two encodings",
            response("200 OK", "Content-Encoding: gzip, gzip\r\n", 0, b""),
        ),
    ] {
        let reason = failure(bytes).await;
        assert_eq!(reason, Some(FailureReason::InvalidResponse), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn error_status_is_returned_despite_a_truncated_gzip_body() {
    let compressed = gzip(TEXT);
    let half = &compressed[..compressed.len() / 2];
    let response = fetch(response("503 Service Unavailable", GZIP, half.len(), half)).await;
    let response = response.unwrap();
    assert_eq!(response.status.as_u16(), 503);
    assert!(response.body.is_empty());
}
