//! A transport to the simulated Atlas without a network, so that time can be simulated as well.

use std::sync::Arc;

use axum::body::Body;
use futures_util::future::BoxFuture;
use mongodb_atlas_client::{ErrorKind, Response, Transport};
use mongodb_atlas_sim::SimHandle;

/// Passes requests to a simulated Atlas in this process.
pub struct SimTransport(pub Arc<SimHandle>);

impl SimTransport {
    async fn send(&self, mut request: reqwest::Request) -> Result<Response, ErrorKind> {
        let body = request.body_mut().take();
        let bytes = body
            .as_ref()
            .and_then(|body| body.as_bytes())
            .unwrap_or_default()
            .to_vec();
        let mut sim_request = axum::http::Request::builder()
            .method(request.method().clone())
            .uri(request.url().as_str())
            .body(Body::from(bytes))
            .unwrap();
        *sim_request.headers_mut() = request.headers().clone();
        // A server receives only the path of the URL.
        let path = sim_request.uri().path_and_query().unwrap().as_str().parse();
        *sim_request.uri_mut() = path.unwrap();
        let reset = || ErrorKind::Connection("reset on demand".to_owned());
        let (parts, body) = self
            .0
            .handle(sim_request)
            .await
            .ok_or_else(reset)?
            .into_parts();
        let bytes = axum::body::to_bytes(body, 64 << 20)
            .await
            .map_err(|_| reset())?;
        Ok(Response {
            status: parts.status,
            headers: parts.headers,
            body: bytes.to_vec().into(),
        })
    }
}

impl Transport for SimTransport {
    fn send(&self, request: reqwest::Request) -> BoxFuture<'_, Result<Response, ErrorKind>> {
        Box::pin(self.send(request))
    }
}
