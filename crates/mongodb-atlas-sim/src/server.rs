//! Accepts connections and drives hyper directly, because a connection must be closed with a TCP reset on demand.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::handlers;
use crate::state::Simulator;

/// Accepts connections until `shutdown`, each served by its own task.
pub(crate) async fn serve(
    listener: TcpListener,
    sim: Arc<Simulator>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // The usual cause is a lack of file descriptors: retry after some are closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        tasks.spawn(serve_connection(stream, Arc::clone(&sim), shutdown.clone()));
    }
}

async fn serve_connection(stream: TcpStream, sim: Arc<Simulator>, shutdown: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let sim = Arc::clone(&sim);
        async move {
            let response = handlers::handle(&sim, request.map(Body::new)).await;
            response.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let result = tokio::select! {
        () = shutdown.cancelled() => return,
        result = &mut connection => result,
    };
    if result.is_err_and(|error| is_reset_fault(&error)) {
        // Otherwise the kernel closes the connection with a FIN.
        let _ = connection.into_parts().io.inner().set_zero_linger();
    }
}

/// Returns whether a fault requested a reset, as opposed to an error of the client or of a truncated body.
fn is_reset_fault(error: &hyper::Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}
