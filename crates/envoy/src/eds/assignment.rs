//! A pool's members in Envoy's form.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

/// The type of the resources.
pub const ENDPOINT_TYPE: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// The assignment of a pool: its addresses, all in one locality; none at all when it has none.
pub(super) fn assignment(pool: &str, addresses: &[SocketAddr]) -> Any {
    let lb_endpoints: Vec<_> = addresses.iter().map(|address| lb_endpoint(*address)).collect();
    let localities = match lb_endpoints.is_empty() {
        true => Vec::new(),
        false => vec![LocalityLbEndpoints { lb_endpoints, ..Default::default() }],
    };
    let assignment =
        ClusterLoadAssignment { cluster_name: pool.to_owned(), endpoints: localities, ..Default::default() };
    Any { type_url: ENDPOINT_TYPE.to_owned(), value: assignment.encode_to_vec() }
}

fn lb_endpoint(address: SocketAddr) -> LbEndpoint {
    let socket = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    };
    let address = Address { address: Some(AddressKind::SocketAddress(socket)) };
    let endpoint = Endpoint { address: Some(address), ..Default::default() };
    LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }
}
