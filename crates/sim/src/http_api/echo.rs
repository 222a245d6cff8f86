//! Every other path: the body goes back byte for byte, and an upgraded connection echoes raw bytes.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::{attest, read_body};
use crate::server::Shared;

pub(super) async fn serve(State(shared): State<Arc<Shared>>, mut request: Request) -> Response {
    if let Some(protocol) = request.headers().get(header::UPGRADE).cloned()
        && request.extensions().get::<hyper::upgrade::OnUpgrade>().is_some()
    {
        tokio::spawn(echo_raw(hyper::upgrade::on(&mut request), shared.abort.clone()));
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(header::UPGRADE, protocol);
        return response;
    }
    let body = match read_body(request.into_body()).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let mut response = Response::new(Body::from(body.clone()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    attest(&mut response, &body);
    response
}

/// Sends back what comes until the client closes or the server is cut.
async fn echo_raw(upgrade: hyper::upgrade::OnUpgrade, abort: CancellationToken) {
    let echo = async {
        let upgraded = upgrade.await.map_err(std::io::Error::other)?;
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        tokio::io::copy(&mut read, &mut write).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut write).await
    };
    tokio::select! {
        () = abort.cancelled() => {}
        ended = echo => if let Err(error) = ended {
            tracing::trace!(%error, "an upgraded connection ended");
        }
    }
}
