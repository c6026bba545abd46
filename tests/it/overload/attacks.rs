//! Attacks: connections that use resources of other connections.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::CONNECTIONS;
use crate::common::eventually;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

pub(super) trait AttackStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> AttackStream for S {}

/// Behavior of each connection of an attacker; returns when the connection is closed or useless.
pub(super) type AttackFn = fn(Box<dyn AttackStream>) -> BoxFuture<'static, io::Result<()>>;

/// Keeps connections open until dropped.
pub(super) struct Attack(JoinSet<()>);

impl Attack {
    pub(super) async fn start(
        from: Ipv4Addr,
        address: &str,
        tls: Option<&TlsConnector>,
        behavior: AttackFn,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let opened = Arc::new(AtomicUsize::new(0));
        for number in 0..CONNECTIONS {
            let (address, tls) = (address.to_owned(), tls.cloned());
            let opened = Arc::clone(&opened);
            tasks.spawn(async move {
                let mut first = true;
                loop {
                    if let Ok(stream) = connect(from, &address, tls.as_ref()).await {
                        let attack = behavior(stream);
                        opened
                            .fetch_add(usize::from(std::mem::take(&mut first)), Ordering::Relaxed);
                        let _ = attack.await;
                    }
                    // Evicted clients reconnect, but not all at the same time.
                    tokio::time::sleep(Duration::from_millis(2000 + 20 * number as u64)).await;
                }
            });
        }
        eventually("all connections are open", async || {
            let opened = opened.load(Ordering::Relaxed);
            if opened < CONNECTIONS {
                Err(opened)
            } else {
                Ok(())
            }
        })
        .await;
        Self(tasks)
    }

    pub(super) async fn stop(mut self) {
        self.0.shutdown().await;
    }
}

async fn connect(
    from: Ipv4Addr,
    address: &str,
    tls: Option<&TlsConnector>,
) -> io::Result<Box<dyn AttackStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    // A small receive buffer soon blocks a response.
    socket.set_recv_buffer_size(4096)?;
    let stream: TcpStream = socket.connect(address.parse().unwrap()).await?;
    Ok(match tls {
        Some(tls) => {
            let name = "localhost".try_into().unwrap();
            Box::new(tls.connect(name, stream).await?)
        }
        None => Box::new(stream),
    })
}

/// Sends a request over HTTP/2 without a window for the response.
pub(super) fn open_http2_without_window(
    mut stream: Box<dyn AttackStream>,
) -> BoxFuture<'static, io::Result<()>> {
    Box::pin(async move {
        let request = crate::common::http2::zero_window_request("/metrics", "localhost");
        stream.write_all(&request).await?;
        // Everything sent without a window, until the end.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        Ok(())
    })
}

/// Sends several requests and reads nothing.
pub(super) fn stall_reading(
    mut stream: Box<dyn AttackStream>,
) -> BoxFuture<'static, io::Result<()>> {
    Box::pin(async move {
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(4);
        stream.write_all(request.as_bytes()).await?;
        // Only a read detects that the connection was closed.
        tokio::time::sleep(Duration::from_secs(20)).await;
        Ok(())
    })
}

/// Repeats a request with a pause after each response.
async fn repeat_request(mut stream: Box<dyn AttackStream>, request: &str) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        stream.write_all(request.as_bytes()).await?;
        while stream.read(&mut buffer).await? == buffer.len() {}
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

pub(super) fn guess_passwords(stream: Box<dyn AttackStream>) -> BoxFuture<'static, io::Result<()>> {
    // prometheus:wrong.
    let request =
        "GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Basic cHJvbWV0aGV1czp3cm9uZw==\r\n\r\n";
    Box::pin(repeat_request(stream, request))
}

pub(super) fn request_pages(stream: Box<dyn AttackStream>) -> BoxFuture<'static, io::Result<()>> {
    Box::pin(repeat_request(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
}

pub(super) fn stay_silent(mut stream: Box<dyn AttackStream>) -> BoxFuture<'static, io::Result<()>> {
    Box::pin(async move {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHo").await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        Ok(())
    })
}
