//! An extension server that changes nothing: what Envoy Gateway's hooks cost by themselves.

use std::net::SocketAddr;

use anyhow::Result;
use pointsman_gateway::pb::envoy_gateway_extension_server::{EnvoyGatewayExtension, EnvoyGatewayExtensionServer};
use pointsman_gateway::pb::{
    PostClusterModifyRequest, PostClusterModifyResponse, PostEndpointsModifyRequest, PostEndpointsModifyResponse,
    PostHttpListenerModifyRequest, PostHttpListenerModifyResponse, PostRouteModifyRequest, PostRouteModifyResponse,
    PostTranslateModifyRequest, PostTranslateModifyResponse, PostVirtualHostModifyRequest,
    PostVirtualHostModifyResponse,
};
use pointsman_gateway::service::MAX_MESSAGE_BYTES;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Serves one at that address for as long as the runtime lives.
pub async fn serve(address: SocketAddr) -> Result<()> {
    let incoming = TcpListenerStream::new(TcpListener::bind(address).await?);
    let service = EnvoyGatewayExtensionServer::new(Noop)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    Ok(())
}

struct Noop;

#[tonic::async_trait]
impl EnvoyGatewayExtension for Noop {
    async fn post_translate_modify(
        &self,
        request: Request<PostTranslateModifyRequest>,
    ) -> Result<Response<PostTranslateModifyResponse>, Status> {
        let PostTranslateModifyRequest { clusters, secrets, listeners, routes, .. } = request.into_inner();
        Ok(Response::new(PostTranslateModifyResponse { clusters, secrets, listeners, routes }))
    }

    async fn post_cluster_modify(
        &self,
        request: Request<PostClusterModifyRequest>,
    ) -> Result<Response<PostClusterModifyResponse>, Status> {
        Ok(Response::new(PostClusterModifyResponse { cluster: Some(request.into_inner().cluster) }))
    }

    async fn post_endpoints_modify(
        &self,
        _: Request<PostEndpointsModifyRequest>,
    ) -> Result<Response<PostEndpointsModifyResponse>, Status> {
        Ok(Response::new(PostEndpointsModifyResponse::default()))
    }

    async fn post_route_modify(
        &self,
        _: Request<PostRouteModifyRequest>,
    ) -> Result<Response<PostRouteModifyResponse>, Status> {
        Ok(Response::new(PostRouteModifyResponse::default()))
    }

    async fn post_virtual_host_modify(
        &self,
        _: Request<PostVirtualHostModifyRequest>,
    ) -> Result<Response<PostVirtualHostModifyResponse>, Status> {
        Ok(Response::new(PostVirtualHostModifyResponse::default()))
    }

    async fn post_http_listener_modify(
        &self,
        _: Request<PostHttpListenerModifyRequest>,
    ) -> Result<Response<PostHttpListenerModifyResponse>, Status> {
        Ok(Response::new(PostHttpListenerModifyResponse::default()))
    }
}
