//! What was made, decoded by `envoy-types` and written for people: a line a thing.

use std::fmt::Write as _;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, LoadBalancingPolicy};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::TargetSpecifier;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ExtProcPerRoute;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ext_proc_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::load_balancing_policies::override_host::v3::OverrideHost;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use prost::Message as _;

use super::shape::{RULE, filter_text};
use crate::translation::Translated;

/// All that was made of the rule; what the other route has is left out.
pub(super) fn tell(made: &Translated) -> String {
    let mut told = String::new();
    for route in routes(made).iter().filter(|route| route.name.starts_with(RULE)) {
        told += &tell_route(route);
    }
    for cluster in &made.resources.clusters {
        let cluster = Cluster::decode(&**cluster).unwrap();
        if !cluster.name.starts_with("httproute/default/plain") {
            let _ = writeln!(told, "  {}", tell_cluster(&cluster));
        }
    }
    for listener in &made.resources.listeners {
        let chain = Listener::decode(&**listener).unwrap().default_filter_chain.unwrap();
        let Some(ConfigType::TypedConfig(manager)) = &chain.filters[0].config_type else { panic!("no manager") };
        let manager = HttpConnectionManager::decode(manager.value.as_slice()).unwrap();
        let filters: Vec<_> = manager.http_filters.iter().map(filter_text).collect();
        let _ = writeln!(told, "  filters {}", filters.join(", "));
    }
    told.replace(RULE, "RULE")
}

/// The clusters that routes and their filters name.
pub(super) fn named_clusters(made: &Translated) -> Vec<String> {
    let mut named = Vec::new();
    for route in routes(made) {
        let Some(Action::Route(action)) = route.action else { continue };
        let mut configurations: Vec<Any> = route.typed_per_filter_config.into_values().collect();
        match action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => named.push(name),
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                for entry in weighted.clusters {
                    named.push(entry.name);
                    configurations.extend(entry.typed_per_filter_config.into_values());
                }
            }
            _ => {}
        }
        named.extend(configurations.iter().map(|configuration| picker(configuration).0));
    }
    named
}

fn routes(made: &Translated) -> Vec<Route> {
    let hosts =
        made.resources.routes.iter().flat_map(|routes| RouteConfiguration::decode(&**routes).unwrap().virtual_hosts);
    hosts.flat_map(|host| host.routes).collect()
}

fn tell_route(route: &Route) -> String {
    let action = match &route.action {
        Some(Action::Route(action)) => action,
        other => {
            return format!("  {} {}\n", route.name, if other.is_some() { "answers itself" } else { "goes nowhere" });
        }
    };
    let mut told = String::new();
    let mut to = |name: &str, weight: Option<u32>, filters: &std::collections::HashMap<String, Any>| {
        let weight = weight.map_or_else(String::new, |weight| format!(" x{weight}"));
        let asked: Vec<_> = filters.iter().map(|(name, configuration)| tell_picker(name, configuration)).collect();
        let _ = writeln!(told, "  to {name}{weight}{}", asked.concat());
    };
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => to(name, None, &route.typed_per_filter_config),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            assert!(route.typed_per_filter_config.is_empty());
            for entry in &weighted.clusters {
                to(&entry.name, entry.weight.as_ref().map(|weight| weight.value), &entry.typed_per_filter_config);
            }
            if let Some(specifier) = &weighted.random_value_specifier {
                let _ = writeln!(told, "  drawn by {specifier:?}");
            }
        }
        other => panic!("{other:?}"),
    }
    let seconds = |duration: Option<_>| {
        duration.map_or_else(
            || "unset".to_owned(),
            |duration: envoy_types::pb::google::protobuf::Duration| format!("{}s", duration.seconds),
        )
    };
    let retry = action.retry_policy.as_ref().map_or_else(
        || "none".to_owned(),
        |policy| format!("{} x{}", policy.retry_on, policy.num_retries.as_ref().map_or(1, |tries| tries.value)),
    );
    let limit =
        route.request_body_buffer_limit.as_ref().map_or_else(|| "unset".to_owned(), |limit| limit.value.to_string());
    let _ = writeln!(
        told,
        "  timeout {}, idle {}, retry {retry}, body {limit}",
        seconds(action.timeout),
        seconds(action.idle_timeout),
    );
    told
}

/// The cluster, the authority, the pool and the failure mode of a picker.
fn picker(configuration: &Any) -> (String, String, String, bool) {
    let per_route = ExtProcPerRoute::decode(configuration.value.as_slice()).unwrap();
    let Some(Override::Overrides(overrides)) = per_route.r#override else { panic!("no overrides") };
    let Some(TargetSpecifier::EnvoyGrpc(grpc)) = overrides.grpc_service.unwrap().target_specifier else {
        panic!("no picker")
    };
    let pool = overrides.grpc_initial_metadata.iter().find(|header| header.key == "x-pointsman-pool").unwrap();
    (grpc.cluster_name, grpc.authority, pool.value.clone(), overrides.failure_mode_allow.unwrap().value)
}

fn tell_picker(filter: &str, configuration: &Any) -> String {
    assert_eq!(filter, "envoy.filters.http.ext_proc/pointsman");
    let (cluster, authority, pool, allows) = picker(configuration);
    let mode = if allows { "open" } else { "closed" };
    format!(", asks {cluster} ({authority}) of {pool}, fails {mode}")
}

fn tell_cluster(cluster: &Cluster) -> String {
    let mut told = format!("{}:", cluster.name);
    match &cluster.eds_cluster_config {
        Some(eds) => {
            let source = match eds.eds_config.as_ref().unwrap().config_source_specifier.as_ref().unwrap() {
                ConfigSourceSpecifier::Ads(_) => "ads".to_owned(),
                ConfigSourceSpecifier::ApiConfigSource(source) => {
                    let Some(TargetSpecifier::GoogleGrpc(google)) = &source.grpc_services[0].target_specifier else {
                        panic!("{source:?}")
                    };
                    let is_verified = google.channel_credentials.is_some();
                    format!("{}{}", google.target_uri, if is_verified { " verified" } else { "" })
                }
                other => panic!("{other:?}"),
            };
            let _ = write!(told, " eds {} from {source}", eds.service_name);
        }
        None => {
            let hosts = cluster.load_assignment.iter().flat_map(|assignment| &assignment.endpoints);
            let _ = write!(told, " {} hosts", hosts.map(|locality| locality.lb_endpoints.len()).sum::<usize>());
        }
    }
    let policy = cluster.load_balancing_policy.as_ref().map_or_else(String::new, tell_policy);
    let _ = write!(told, ", {}", if policy.is_empty() { "its own balancer" } else { &policy });
    if let Some(Any { value, .. }) = cluster.typed_extension_protocol_options.values().next() {
        let options = HttpProtocolOptions::decode(value.as_slice()).unwrap();
        let _ = write!(told, ", {}", tell_protocol(&options));
    }
    let number =
        |value: &Option<UInt32Value>| value.as_ref().map_or_else(|| "-".to_owned(), |value| value.value.to_string());
    for threshold in cluster.circuit_breakers.iter().flat_map(|breakers| &breakers.thresholds) {
        let values = [
            &threshold.max_connections,
            &threshold.max_pending_requests,
            &threshold.max_requests,
            &threshold.max_retries,
        ];
        let _ = write!(told, ", breakers {}", values.map(number).join("/"));
    }
    let mut also: Vec<&str> =
        cluster.metadata.iter().flat_map(|metadata| metadata.filter_metadata.keys()).map(String::as_str).collect();
    also.extend((!cluster.transport_socket_matches.is_empty()).then_some("tls matches"));
    also.extend(cluster.transport_socket.is_some().then_some("tls"));
    also.extend((!cluster.health_checks.is_empty()).then_some("health checks"));
    also.extend(cluster.outlier_detection.is_some().then_some("outlier detection"));
    also.extend((!cluster.alt_stat_name.is_empty()).then_some("stat name"));
    let _ = write!(told, " [{}]", also.join(", "));
    told
}

fn tell_protocol(options: &HttpProtocolOptions) -> &'static str {
    match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match &explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) => "http/1.1",
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => "http/2",
            other => panic!("{other:?}"),
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => "the client's protocol",
        other => panic!("{other:?}"),
    }
}

fn tell_policy(policy: &LoadBalancingPolicy) -> String {
    let Some(extension) = policy.policies.first().and_then(|policy| policy.typed_extension_config.as_ref()) else {
        return String::new();
    };
    let name = extension.name.trim_start_matches("envoy.load_balancing_policies.");
    if name != "override_host" {
        return name.to_owned();
    }
    let host = OverrideHost::decode(extension.typed_config.as_ref().unwrap().value.as_slice()).unwrap();
    let sources: Vec<_> = host
        .override_host_sources
        .iter()
        .map(|source| {
            assert_eq!(source.header, "", "no header names a destination");
            let key = source.metadata.as_ref().unwrap();
            format!("{}/{}", key.key, key.path.len())
        })
        .collect();
    assert_eq!((sources.join(" ").as_str(), host.selected_host_key.is_some()), ("envoy.lb/1", true));
    format!("pick else {}", tell_policy(host.fallback_policy.as_ref().unwrap()))
}
