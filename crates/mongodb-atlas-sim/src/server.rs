//! Connections. hyper is driven by hand here for the one thing a framework cannot do: end a
//! connection with a reset on demand.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Simulator, handlers};

/// Set by an endpoint that wants its connection to be reset instead of answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResetFlag(Arc<AtomicBool>);

impl ResetFlag {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A connection that fails, and is reset, once its flag is set.
struct ResettableStream {
    stream: TcpStream,
    flag: ResetFlag,
}

impl ResettableStream {
    fn fail_if_reset(&self) -> io::Result<()> {
        if self.flag.is_set() {
            // without this the kernel would end the connection in good order
            self.stream.set_zero_linger()?;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for ResettableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.fail_if_reset()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ResettableStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.fail_if_reset()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts connections until `shutdown`, each on a task of its own that ends with it.
pub(crate) async fn serve(
    listener: TcpListener,
    sim: Arc<Simulator>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted.ok().map(|(stream, _)| stream),
        };
        let Some(stream) = stream else {
            // out of file handles, most likely: let some be given back
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        tasks.spawn(serve_connection(stream, Arc::clone(&sim), shutdown.clone()));
    }
}

async fn serve_connection(stream: TcpStream, sim: Arc<Simulator>, shutdown: CancellationToken) {
    let flag = ResetFlag::default();
    let io = TokioIo::new(ResettableStream {
        stream,
        flag: flag.clone(),
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let (sim, flag) = (Arc::clone(&sim), flag.clone());
        async move {
            Ok::<Response<Body>, std::convert::Infallible>(
                handlers::handle(&sim, &flag, request.map(Body::new)).await,
            )
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(io, service);
    // how a connection ends is the client's business: a reset or cut one is what a fault asked for
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = connection => {}
    }
}
