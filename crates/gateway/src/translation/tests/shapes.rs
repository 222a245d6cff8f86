//! The table of shapes.

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::{HealthCheck, Http1ProtocolOptions, Http2ProtocolOptions};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{HashPolicy, RequestMirrorPolicy};
use envoy_types::pb::envoy::config::route::v3::{DirectResponseAction, RedirectAction, RetryPolicy};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value, UInt64Value};
use prost::Message as _;

use super::shape::Shape;

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn speak(cluster: &mut Cluster, protocol: UpstreamProtocolOptions) {
    let options = HttpProtocolOptions { upstream_protocol_options: Some(protocol), ..Default::default() };
    let any = Any { type_url: format!("type.googleapis.com/{OPTIONS}"), value: options.encode_to_vec() };
    cluster.typed_extension_protocol_options.insert(OPTIONS.to_owned(), any);
}

fn explicit(protocol: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(protocol) })
}

/// All shapes.
pub(super) fn all() -> Vec<Shape> {
    let mut all = one_pool();
    all.extend(several_pools());
    all.extend(pools_beside_services());
    all.extend(policies());
    all
}

fn one_pool() -> Vec<Shape> {
    vec![
        Shape::of("one pool that fails closed", &["a"]),
        Shape::of("one pool that fails open", &["open"]),
        Shape::of("one pool that speaks HTTP/2", &["h2c"]),
        Shape::of("one pool without a picker", &["free"]),
        Shape::of("one pool whose picker is no Service", &["odd"]),
        Shape::of("one pool whose picker has no port", &["portless"]),
        Shape::of("one pool whose picker's Service is missing", &["lost"]),
        Shape::of("one pool whose picker nobody has seen yet", &["new"]),
        Shape::of("one pool of another namespace", &["team/a"]),
        Shape::of("one pool that the watches have not seen in this rule", &["a"]).unseen(),
        Shape::of("one pool where the watches still see another", &["a"]).shares(&[("b", 1)], 0),
        Shape::of("one pool of any weight", &["a"]).shares(&[("a", 77)], 0),
        Shape::of("a pool of a version that is not read", &["old"]),
        Shape::of("one pool of a rule that redirects", &["a"])
            .route(|route| route.action = Some(Action::Redirect(RedirectAction::default()))),
        Shape::of("one pool of a rule that Envoy Gateway refuses", &["a"]).route(|route| {
            route.action = Some(Action::DirectResponse(DirectResponseAction { status: 500, ..Default::default() }))
        }),
    ]
}

fn several_pools() -> Vec<Shape> {
    vec![
        Shape::of("two pools 70 to 30", &["a", "b"]).shares(&[("a", 70), ("b", 30)], 0),
        Shape::of("two pools, one of which fails open", &["a", "open"]).shares(&[("a", 1), ("open", 9)], 0),
        Shape::of("two pools of which one speaks HTTP/2", &["a", "h2c"]),
        Shape::of("two pools of one name in two namespaces", &["a", "team/a"]).shares(&[("a", 1), ("team/a", 2)], 0),
        Shape::of("two pools of which one has no picker", &["a", "free"]),
        Shape::of("one pool twice", &["a", "a"]).shares(&[("a", 20), ("a", 5)], 0),
        Shape::of("two pools whose shares the watches have not seen", &["a", "b"]).unseen(),
        Shape::of("two pools of which the watches still see one", &["a", "b"]).shares(&[("a", 70)], 0),
        Shape::of("two pools that the watches see in the former order", &["a", "b"]).shares(&[("b", 30), ("a", 70)], 0),
        Shape::of("two pools of which one is missing", &["a"])
            .shares(&[("a", 70), ("gone", 30)], 0)
            .apart(&["/backend/0", "/backend/1"], &[("invalid-backend-cluster", 30)]),
        Shape::of("two pools in a zone-aware route", &["a", "b"])
            .shares(&[("a", 1), ("b", 3)], 0)
            .apart(&["/backend/0", "/backend/1"], &[]),
        Shape::of("three pools with a client held to its share", &["a", "b", "open"])
            .shares(&[("a", 1), ("b", 1), ("open", 2)], 0)
            .action(|action| action.hash_policy.push(HashPolicy::default())),
    ]
}

fn pools_beside_services() -> Vec<Shape> {
    vec![
        Shape::of("a pool beside a Service", &["a"]).shares(&[("a", 90)], 10),
        Shape::of("a pool that fails open beside two Services", &["open"]).shares(&[("open", 5)], 15),
        Shape::of("a pool beside a Service that the watches have not seen", &["a"]).unseen(),
        Shape::of("a pool beside a Service without endpoints", &["a"])
            .shares(&[("a", 90)], 10)
            .apart(&["/backend/0", "/backend/1"], &[("invalid-backend-cluster", 10)]),
        Shape::of("a pool beside a Service and a pool that is missing", &["a"])
            .shares(&[("a", 50), ("gone", 20)], 30)
            .apart(&["/backend/0", "/backend/1", "/backend/2"], &[("invalid-backend-cluster", 20), ("/backend/2", 30)]),
        Shape::of("a pool beside a Service that speaks HTTP/2 over TLS", &["a"]).shares(&[("a", 1)], 1).cluster(
            |cluster| {
                speak(cluster, explicit(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())));
                cluster.transport_socket_matches.push(TransportSocketMatch::default());
            },
        ),
        Shape::of("a pool with a mirror to a Service", &["a"]).action(|action| {
            action
                .request_mirror_policies
                .push(RequestMirrorPolicy { cluster: "httproute/default/plain/rule/0".into(), ..Default::default() });
        }),
    ]
}

fn policies() -> Vec<Shape> {
    vec![
        Shape::of("a route with a timeout of its own", &["a"]).action(|action| {
            action.timeout = Some(Duration { seconds: 20, nanos: 0 });
            action.idle_timeout = Some(Duration { seconds: 3600, nanos: 0 });
        }),
        Shape::of("a listener with an idle timeout of its own", &["a"])
            .manager(|manager| manager.stream_idle_timeout = Some(Duration { seconds: 7, nanos: 0 })),
        Shape::of("a route with retries of its own", &["a"]).action(|action| {
            let tries = Some(UInt32Value { value: 4 });
            action.retry_policy =
                Some(RetryPolicy { retry_on: "5xx".into(), num_retries: tries, ..Default::default() });
        }),
        Shape::of("a route with a body limit of its own", &["a"])
            .route(|route| route.request_body_buffer_limit = Some(UInt64Value { value: 4096 })),
        Shape::of("a policy with circuit breakers", &["a"]).cluster(|cluster| {
            let thresholds = &mut cluster.circuit_breakers.as_mut().unwrap().thresholds;
            thresholds[0].max_requests = Some(UInt32Value { value: 12 });
            thresholds.push(Thresholds { priority: 1, ..Default::default() });
        }),
        Shape::of("a cluster without circuit breakers", &["a"]).cluster(|cluster| cluster.circuit_breakers = None),
        Shape::of("a policy with health checks and outlier detection", &["open"]).cluster(|cluster| {
            cluster.health_checks.push(HealthCheck::default());
            cluster.outlier_detection = Some(OutlierDetection::default());
        }),
        Shape::of("a policy with the client's protocol", &["h2c"]).cluster(|cluster| {
            let downstream = UseDownstreamHttpConfig::default();
            speak(cluster, UpstreamProtocolOptions::UseDownstreamProtocolConfig(downstream));
        }),
        Shape::of("a policy with HTTP/1.1 settings", &["a"]).cluster(|cluster| {
            speak(cluster, explicit(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())));
        }),
        Shape::of("a pool of HTTP/2 in a cluster of HTTP/1.1", &["h2c"]).cluster(|cluster| {
            speak(cluster, explicit(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())));
        }),
        Shape::of("a statistics name, one pool", &["a"]).cluster(|cluster| cluster.alt_stat_name = "chat".into()),
        Shape::of("a statistics name, two pools", &["a", "b"]).cluster(|cluster| cluster.alt_stat_name = "chat".into()),
    ]
}
