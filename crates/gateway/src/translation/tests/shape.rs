//! One rule as Envoy Gateway 1.9 sends it, and what the cluster says of it.

use envoy_types::pb::envoy::config::cluster::v3::cluster::EdsClusterConfig;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, circuit_breakers};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{AggregatedConfigSource, ConfigSource, Metadata};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use envoy_types::pb::google::protobuf::{Any, Duration, Struct, UInt32Value, Value, value};
use pointsman_envoy::bootstrap::{Peer, PeerTls, Pem};
use pointsman_envoy::wire::put_bytes;
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::picture::{PickerRef, PickerState, Route as PictureRoute, RuleShares};
use crate::stamp::stamp;

/// The rule's name.
pub(super) const RULE: &str = "httproute/default/chat/rule/0";
/// A field that no version of Envoy has.
pub(super) const FUTURE: u32 = 999;
const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A rule.
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// The pools that its backendRefs name and that are there.
    pools: Vec<&'static str>,
    /// Envoy Gateway's clusters of the rule, by what follows the rule's name.
    clusters: Vec<&'static str>,
    /// Envoy Gateway's entries of the weighted route; one cluster where there are none.
    entries: Option<Vec<(&'static str, u32)>>,
    /// What the watches say.
    shares: Option<RuleShares>,
    pub(super) route: fn(&mut Route),
    pub(super) action: fn(&mut RouteAction),
    pub(super) cluster: fn(&mut Cluster),
    pub(super) manager: fn(&mut HttpConnectionManager),
}

/// A pool by its name, as kube-apiserver shows it: what is peculiar about it is its name.
fn pool(name: &str) -> Vec<u8> {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let mut pool = json!({
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": 8000}],
            "appProtocol": if name.starts_with("h2c") { "kubernetes.io/h2c" } else { "http" },
            "endpointPickerRef": {
                "group": "",
                "kind": "Service",
                "name": format!("{name}-epp"),
                "port": {"number": 9002},
                "failureMode": if name.starts_with("open") { "FailOpen" } else { "FailClose" },
            },
        },
    });
    match name {
        "free" => _ = pool["spec"].as_object_mut().unwrap().remove("endpointPickerRef"),
        "odd" => pool["spec"]["endpointPickerRef"]["kind"] = json!("Deployment"),
        "portless" => _ = pool["spec"]["endpointPickerRef"].as_object_mut().unwrap().remove("port"),
        "old" => pool["apiVersion"] = json!("inference.networking.x-k8s.io/v1alpha2"),
        _ => {}
    }
    pool.to_string().into_bytes()
}

impl Shape {
    /// A rule whose backendRefs are pools alone, of weight 1 each, in one cluster of Envoy Gateway's.
    pub(super) fn of(name: &'static str, pools: &[&'static str]) -> Self {
        let shape = Self {
            name,
            pools: pools.to_vec(),
            clusters: vec![""],
            entries: None,
            shares: None,
            route: |_| {},
            action: |_| {},
            cluster: |_| {},
            manager: |_| {},
        };
        let weights: Vec<_> = pools.iter().map(|pool| (*pool, 1)).collect();
        shape.shares(&weights, 0)
    }

    /// What the watches say of its shares.
    pub(super) fn shares(mut self, pools: &[(&'static str, u32)], others: u32) -> Self {
        let full = |name: &str| if name.contains('/') { name.to_owned() } else { format!("default/{name}") };
        let pools = pools.iter().map(|(name, weight)| (full(name), *weight)).collect();
        self.shares = Some(RuleShares { pools, others });
        self
    }

    /// The watches have not seen it.
    pub(super) fn unseen(mut self) -> Self {
        self.shares = None;
        self
    }

    /// Envoy Gateway made a cluster a backendRef, and a weighted route of these entries.
    pub(super) fn apart(mut self, clusters: &[&'static str], entries: &[(&'static str, u32)]) -> Self {
        self.clusters = clusters.to_vec();
        self.entries = Some(entries.to_vec());
        self
    }

    pub(super) fn route(mut self, route: fn(&mut Route)) -> Self {
        self.route = route;
        self
    }

    pub(super) fn action(mut self, action: fn(&mut RouteAction)) -> Self {
        self.action = action;
        self
    }

    pub(super) fn cluster(mut self, cluster: fn(&mut Cluster)) -> Self {
        self.cluster = cluster;
        self
    }

    pub(super) fn manager(mut self, manager: fn(&mut HttpConnectionManager)) -> Self {
        self.manager = manager;
        self
    }

    /// What Envoy Gateway sends, after the Cluster hook.
    pub(super) fn resources(&self) -> Resources {
        let pools: Vec<_> = self.pools.iter().map(|name| pool(name)).collect();
        let stamped = |suffix: &&str| {
            let mut cluster = gateway_cluster(&format!("{RULE}{suffix}"));
            (self.cluster)(&mut cluster);
            let mut cluster = cluster.encode_to_vec();
            put_bytes(&mut cluster, FUTURE, b"kept");
            let stamped = stamp(&cluster, pools.iter().map(Vec::as_slice)).unwrap();
            stamped.unwrap_or(cluster.into())
        };
        let mut clusters: Vec<_> = self.clusters.iter().map(stamped).collect();
        clusters.push(gateway_cluster("httproute/default/plain/rule/0").encode_to_vec().into());
        let routes = vec![self.route_of(RULE), plain_route()];
        Resources { clusters, listeners: vec![self.listener()], routes: vec![route_configuration(routes)] }
    }

    fn route_of(&self, rule: &str) -> Vec<u8> {
        let specifier = match &self.entries {
            None => ClusterSpecifier::Cluster(rule.to_owned()),
            Some(entries) => ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: entries
                    .iter()
                    .map(|(name, weight)| ClusterWeight {
                        name: if name.starts_with('/') { format!("{rule}{name}") } else { (*name).to_owned() },
                        weight: Some(UInt32Value { value: *weight }),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }),
        };
        let mut action = RouteAction { cluster_specifier: Some(specifier), ..Default::default() };
        (self.action)(&mut action);
        let mut route =
            Route { name: format!("{rule}/match/0/*"), action: Some(Action::Route(action)), ..Default::default() };
        (self.route)(&mut route);
        let mut route = route.encode_to_vec();
        put_bytes(&mut route, FUTURE, b"kept");
        route
    }

    fn listener(&self) -> Bytes {
        let filter = |name: &str| HttpFilter { name: name.to_owned(), ..Default::default() };
        let mut manager = HttpConnectionManager {
            route_specifier: Some(RouteSpecifier::Rds(Rds {
                route_config_name: "default/gateway/http".to_owned(),
                ..Default::default()
            })),
            http_filters: vec![filter("envoy.filters.http.cors"), filter("envoy.filters.http.router")],
            ..Default::default()
        };
        (self.manager)(&mut manager);
        let manager = Any { type_url: MANAGER.to_owned(), value: manager.encode_to_vec() };
        let chain = FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(ConfigType::TypedConfig(manager)),
            }],
            ..Default::default()
        };
        let listener = Listener {
            name: "default/gateway/http".to_owned(),
            default_filter_chain: Some(chain),
            ..Default::default()
        };
        listener.encode_to_vec().into()
    }

    /// What the watches tell.
    pub(super) fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        if let Some(shares) = &self.shares {
            let route = PictureRoute { rules: vec![shares.clone()], ..Default::default() };
            picture.routes.insert("default/chat".to_owned(), route);
        }
        for name in ["a", "b", "h2c", "open", "open-too", "team/a"] {
            let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
            let picker = PickerRef { namespace: namespace.into(), name: format!("{name}-epp"), port: 9002 };
            let server_name = format!("{name}-epp.{namespace}.svc");
            let tls = PeerTls { ca: Pem::Inline("CA".into()), server_name: server_name.clone(), client: None };
            let address = format!("{server_name}.cluster.local:9002").parse().unwrap();
            picture.pickers.insert(picker, PickerState::Found(Peer { addresses: vec![address], tls: Some(tls) }));
        }
        let lost = PickerRef { namespace: "default".into(), name: "lost-epp".into(), port: 9002 };
        picture.pickers.insert(lost, PickerState::Missing("there is no Service".into()));
        picture
    }
}

/// A cluster as Envoy Gateway makes it, with what it says of its own in metadata.
pub(super) fn gateway_cluster(name: &str) -> Cluster {
    let text = |text: &str| Value { kind: Some(value::Kind::StringValue(text.to_owned())) };
    let resources = Struct { fields: [("kind".to_owned(), text("HTTPRoute"))].into() };
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads), service_name: name.to_owned() }),
        connect_timeout: Some(Duration { seconds: 10, nanos: 0 }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![circuit_breakers::Thresholds {
                max_retries: Some(UInt32Value { value: 1024 }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        metadata: Some(Metadata {
            filter_metadata: [("envoy-gateway".to_owned(), resources)].into(),
            ..Default::default()
        }),
        load_balancing_policy: Some(Default::default()),
        ..Default::default()
    }
}

/// A route to a Service, which is nobody's business here.
fn plain_route() -> Vec<u8> {
    let specifier = ClusterSpecifier::Cluster("httproute/default/plain/rule/0".to_owned());
    let action = RouteAction { cluster_specifier: Some(specifier), ..Default::default() };
    let name = "httproute/default/plain/rule/0/match/0/*".to_owned();
    Route { name, action: Some(Action::Route(action)), ..Default::default() }.encode_to_vec()
}

fn route_configuration(routes: Vec<Vec<u8>>) -> Bytes {
    let mut host = VirtualHost { name: "*".into(), domains: vec!["*".into()], ..Default::default() }.encode_to_vec();
    routes.iter().for_each(|route| put_bytes(&mut host, 3, route));
    let mut routes = RouteConfiguration { name: "default/gateway/http".into(), ..Default::default() }.encode_to_vec();
    put_bytes(&mut routes, 2, &host);
    routes.into()
}

/// A filter of a connection manager: its name, and whether it is off by default.
pub(super) fn filter_text(filter: &HttpFilter) -> String {
    let name = filter.name.trim_start_matches("envoy.filters.http.");
    format!("{name}{}", if filter.disabled { " (off)" } else { "" })
}
