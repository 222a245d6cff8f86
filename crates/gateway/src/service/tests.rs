//! Claims about the hooks, seen through a gRPC client.

use std::collections::BTreeSet;

use pointsman_envoy::wire::Message;
use pointsman_envoy::xds::EdsServer;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};

use super::*;
use crate::pb::envoy_gateway_extension_client::EnvoyGatewayExtensionClient;
use crate::pb::{PostClusterExtensionContext, PostTranslateExtensionContext};
use crate::picture::{PickerRef, Route, RuleShares};

struct Fixture {
    hooks: Hooks,
    known: Arc<ArcSwap<Known>>,
    client: EnvoyGatewayExtensionClient<Channel>,
    metrics: Registry,
}

impl Fixture {
    async fn new() -> Self {
        let eds = EdsServer { address: "127.0.0.1:9004".parse().unwrap(), tls: None };
        let mut metrics = Registry::default();
        let settings = Settings { eds, max_streams: 10_000 };
        let known = Arc::new(ArcSwap::from_pointee(Known { picture: Picture::default(), settings }));
        let hooks = Hooks::new(Arc::clone(&known), HookMetrics::register(&mut metrics));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(hooks.clone().into_server());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = EnvoyGatewayExtensionClient::connect(format!("http://{address}")).await.unwrap();
        Self { hooks, known, client, metrics }
    }
}

fn resource(object: &serde_json::Value) -> ExtensionResource {
    ExtensionResource { unstructured_bytes: object.to_string().into() }
}

fn pool() -> ExtensionResource {
    resource(&json!({
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"namespace": "default", "name": "a"},
        "spec": {"endpointPickerRef": {"name": "epp", "port": {"number": 9002}}},
    }))
}

/// A cluster that has a name and nothing else.
fn cluster(name: &str) -> bytes::Bytes {
    let mut cluster = Vec::new();
    pointsman_envoy::wire::put_bytes(&mut cluster, 1, name.as_bytes());
    cluster.into()
}

const RULE: &str = "httproute/default/chat/rule/0";

#[tokio::test]
async fn a_rules_cluster_is_stamped_by_one_hook_and_made_the_pools_by_the_other() {
    let mut fixture = Fixture::new().await;
    let context = PostClusterExtensionContext { backend_extension_resources: vec![pool()] };
    let request = PostClusterModifyRequest { cluster: cluster(RULE), post_cluster_context: Some(context) };
    let stamped = fixture.client.post_cluster_modify(request).await.unwrap().into_inner().cluster.unwrap();
    let secret = bytes::Bytes::from_static(b"a secret");
    let request = PostTranslateModifyRequest {
        clusters: vec![cluster("plain"), stamped],
        secrets: vec![secret.clone()],
        ..Default::default()
    };
    let made = fixture.client.post_translate_modify(request).await.unwrap().into_inner();
    let names: Vec<_> =
        made.clusters.iter().map(|cluster| Message::read(cluster).unwrap().text(1).to_owned()).collect();
    assert_eq!(names, ["plain", "httproute/default/chat/rule/0/pool/default/a", "pointsman/picker/none"]);
    assert_eq!(made.secrets, [secret]);
    assert!(fixture.hooks.answers().is_empty(), "no Gateway was named");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &fixture.metrics).unwrap();
    for line in ["gateway_rules 1", "gateway_pools 1", "gateway_pickers_missing 1"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[tokio::test]
async fn a_cluster_without_pools_is_left_alone() {
    let mut fixture = Fixture::new().await;
    let other = resource(&json!({"apiVersion": "example.com/v1", "kind": "Cache", "metadata": {"name": "x"}}));
    let broken = ExtensionResource { unstructured_bytes: bytes::Bytes::from_static(b"{") };
    for objects in [vec![], vec![other], vec![broken]] {
        let context = PostClusterExtensionContext { backend_extension_resources: objects };
        let request = PostClusterModifyRequest { cluster: cluster(RULE), post_cluster_context: Some(context) };
        assert_eq!(fixture.client.post_cluster_modify(request).await.unwrap().into_inner().cluster, None);
    }
}

#[tokio::test]
async fn what_cannot_be_read_goes_back_and_is_no_error() {
    let mut fixture = Fixture::new().await;
    let broken = bytes::Bytes::from_static(&[0xff]);
    let context = PostClusterExtensionContext { backend_extension_resources: vec![pool()] };
    let request = PostClusterModifyRequest { cluster: broken.clone(), post_cluster_context: Some(context) };
    assert_eq!(fixture.client.post_cluster_modify(request).await.unwrap().into_inner().cluster, None);
    let request = PostTranslateModifyRequest { clusters: vec![broken.clone()], ..Default::default() };
    assert_eq!(fixture.client.post_translate_modify(request).await.unwrap().into_inner().clusters, [broken]);
    fixture.client.post_endpoints_modify(PostEndpointsModifyRequest {}).await.unwrap();
    fixture.client.post_route_modify(PostRouteModifyRequest {}).await.unwrap();
    fixture.client.post_virtual_host_modify(PostVirtualHostModifyRequest {}).await.unwrap();
    fixture.client.post_http_listener_modify(PostHttpListenerModifyRequest {}).await.unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &fixture.metrics).unwrap();
    for hook in ["cluster", "translation"] {
        let line = format!("gateway_hook_refusals_total{{hook=\"{hook}\"}} 1");
        assert!(text.contains(&line), "{line}: {text}");
    }
}

#[tokio::test]
async fn what_a_gateway_was_answered_from_is_remembered() {
    let mut fixture = Fixture::new().await;
    let sync = resource(&json!({
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "GatewaySync",
        "metadata": {"namespace": "default", "name": "g"},
        "spec": {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"}], "digest": "x"},
    }));
    let mut digests = BTreeSet::new();
    for weight in [1, 2] {
        let rules = vec![RuleShares { pools: vec![("default/a".into(), weight)], others: 0 }];
        let route = Route { gateways: ["default/g".to_owned()].into(), rules };
        let picker = PickerRef { namespace: "default".into(), name: "epp".into(), port: 9002 };
        let picture = Picture {
            routes: [("default/chat".to_owned(), route)].into(),
            pools: [("default/a".to_owned(), Some(picker))].into(),
            ..Default::default()
        };
        let settings = fixture.known.load().settings.clone();
        let digest = picture.digest("default/g", &settings);
        fixture.known.store(Arc::new(Known { picture, settings }));
        let context = PostTranslateExtensionContext { extension_resources: vec![sync.clone()] };
        let request = PostTranslateModifyRequest { post_translate_context: Some(context), ..Default::default() };
        fixture.client.post_translate_modify(request).await.unwrap();
        let answers = fixture.hooks.answers();
        assert_eq!(answers["default/g"].digest, digest);
        assert_eq!(answers["default/g"].shown, ("x".to_owned(), 0));
        digests.insert(answers["default/g"].digest.clone());
    }
    assert_eq!(digests.len(), 2);
}
