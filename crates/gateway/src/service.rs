//! The hooks, served. What Envoy Gateway asks is answered at once from what is known at that moment: an error would have
//! it wait for the next change, and send nothing of this one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Deserialize;
use tonic::{Request, Response, Status};

use crate::metrics::{Hook, HookMetrics};
use crate::pb::envoy_gateway_extension_server::{EnvoyGatewayExtension, EnvoyGatewayExtensionServer};
use crate::pb::{
    ExtensionResource, PostClusterModifyRequest, PostClusterModifyResponse, PostEndpointsModifyRequest,
    PostEndpointsModifyResponse, PostHttpListenerModifyRequest, PostHttpListenerModifyResponse, PostRouteModifyRequest,
    PostRouteModifyResponse, PostTranslateModifyRequest, PostTranslateModifyResponse, PostVirtualHostModifyRequest,
    PostVirtualHostModifyResponse,
};
use crate::picture::{ObjectName, Picture, Settings};
use crate::stamp::stamp;
use crate::translation::{Resources, RuleReport, translate};

/// The most bytes of one request and of one answer: a thousand rules have a Translation of some megabytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Gateways of which it is remembered what they were answered.
const GATEWAYS_MAX: usize = 1024;

/// The service. Clones are the same service.
#[derive(Clone)]
pub struct Hooks {
    shared: Arc<Shared>,
}

struct Shared {
    known: Arc<ArcSwap<Known>>,
    metrics: HookMetrics,
    answers: Mutex<HashMap<ObjectName, Answer>>,
}

/// All that answers are made of, beside what Envoy Gateway shows.
#[derive(Clone, Debug)]
pub struct Known {
    /// What the watches tell.
    pub picture: Picture,
    /// What is the same for all Gateways.
    pub settings: Settings,
}

/// What a Gateway was answered last, by this replica.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The digest of the picture that the answer was made of.
    pub digest: String,
    /// The digest and the round of the `GatewaySync` that came with the question.
    pub shown: (String, u32),
    /// What was made of its rules, by Envoy Gateway's names for them.
    pub rules: BTreeMap<String, RuleReport>,
    /// When.
    pub at: Instant,
}

impl Hooks {
    /// A service that answers from what is known at the moment.
    pub fn new(known: Arc<ArcSwap<Known>>, metrics: HookMetrics) -> Self {
        Self { shared: Arc::new(Shared { known, metrics, answers: Mutex::default() }) }
    }

    /// The service as tonic's server takes it.
    pub fn into_server(self) -> EnvoyGatewayExtensionServer<Self> {
        EnvoyGatewayExtensionServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// What a Gateway was answered last.
    pub fn answer(&self, gateway: &str) -> Option<Answer> {
        self.shared.answers.lock().get(gateway).cloned()
    }

    /// What each Gateway was answered last. Only Gateways whose `GatewaySync` was shown are known by name.
    pub fn answers(&self) -> HashMap<ObjectName, Answer> {
        self.shared.answers.lock().clone()
    }

    fn cluster(&self, request: &PostClusterModifyRequest) -> PostClusterModifyResponse {
        let context = request.post_cluster_context.as_ref();
        let objects = context.map(|context| context.backend_extension_resources.as_slice()).unwrap_or_default();
        let objects = objects.iter().map(|object| &*object.unstructured_bytes);
        match stamp(&request.cluster, objects) {
            Ok(cluster) => PostClusterModifyResponse { cluster },
            Err(error) => {
                self.shared.metrics.refused(Hook::Cluster);
                tracing::error!(%error, "a cluster of Envoy Gateway's is left as it is");
                PostClusterModifyResponse { cluster: None }
            }
        }
    }

    fn translation(&self, request: PostTranslateModifyRequest) -> PostTranslateModifyResponse {
        let PostTranslateModifyRequest { post_translate_context, clusters, secrets, listeners, routes } = request;
        let resources = Resources { clusters, listeners, routes };
        let known = self.shared.known.load_full();
        let resources = match translate(&resources, &known.picture, &known.settings) {
            Ok(made) => {
                self.shared.metrics.made(&made.rules);
                let context = post_translate_context.unwrap_or_default();
                // With merged Gateways there are several.
                for (gateway, shown) in context.extension_resources.iter().filter_map(synced_gateway) {
                    let digest = known.picture.digest(&gateway, &known.settings);
                    tracing::debug!(gateway, digest, rules = made.rules.len(), "answered");
                    self.remember(gateway, Answer { digest, shown, rules: made.rules.clone(), at: Instant::now() });
                }
                made.resources
            }
            // What was sent goes back: routes to pools answer 503, all others go on.
            Err(error) => {
                self.shared.metrics.refused(Hook::Translation);
                tracing::error!(%error, "resources of Envoy Gateway's are left as they are");
                resources
            }
        };
        let Resources { clusters, listeners, routes } = resources;
        PostTranslateModifyResponse { clusters, secrets, listeners, routes }
    }

    fn remember(&self, gateway: ObjectName, answer: Answer) {
        let mut answers = self.shared.answers.lock();
        if answers.len() >= GATEWAYS_MAX && !answers.contains_key(&gateway) {
            let oldest = answers.iter().min_by_key(|(_, answer)| answer.at).map(|(gateway, _)| gateway.clone());
            oldest.map(|oldest| answers.remove(&oldest));
        }
        answers.insert(gateway, answer);
    }

    fn timed<T>(&self, hook: Hook, size: usize, answer: impl FnOnce() -> T) -> Result<Response<T>, Status> {
        let start = Instant::now();
        let answer = answer();
        self.shared.metrics.answered(hook, size, start.elapsed());
        Ok(Response::new(answer))
    }
}

/// A `GatewaySync` as Envoy Gateway shows it.
#[derive(Deserialize)]
struct GatewaySync {
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    namespace: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    target_refs: Vec<Target>,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    round: u32,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// The Gateway that an object is the `GatewaySync` of, and the digest and round that it says.
fn synced_gateway(object: &ExtensionResource) -> Option<(ObjectName, (String, u32))> {
    let GatewaySync { kind, metadata, spec } = serde_json::from_slice(&object.unstructured_bytes).ok()?;
    let target = spec.target_refs.into_iter().next().filter(|_| kind == "GatewaySync")?;
    Some((format!("{}/{}", metadata.namespace, target.name), (spec.digest, spec.round)))
}

#[tonic::async_trait]
impl EnvoyGatewayExtension for Hooks {
    async fn post_cluster_modify(
        &self,
        request: Request<PostClusterModifyRequest>,
    ) -> Result<Response<PostClusterModifyResponse>, Status> {
        let request = request.into_inner();
        self.timed(Hook::Cluster, request.cluster.len(), || self.cluster(&request))
    }

    async fn post_translate_modify(
        &self,
        request: Request<PostTranslateModifyRequest>,
    ) -> Result<Response<PostTranslateModifyResponse>, Status> {
        let request = request.into_inner();
        let parts = [&request.clusters, &request.secrets, &request.listeners, &request.routes];
        let size = parts.into_iter().flatten().map(bytes::Bytes::len).sum();
        self.timed(Hook::Translation, size, || self.translation(request))
    }

    async fn post_endpoints_modify(
        &self,
        _: Request<PostEndpointsModifyRequest>,
    ) -> Result<Response<PostEndpointsModifyResponse>, Status> {
        self.timed(Hook::Endpoints, 0, PostEndpointsModifyResponse::default)
    }

    async fn post_route_modify(
        &self,
        _: Request<PostRouteModifyRequest>,
    ) -> Result<Response<PostRouteModifyResponse>, Status> {
        self.timed(Hook::Other, 0, PostRouteModifyResponse::default)
    }

    async fn post_virtual_host_modify(
        &self,
        _: Request<PostVirtualHostModifyRequest>,
    ) -> Result<Response<PostVirtualHostModifyResponse>, Status> {
        self.timed(Hook::Other, 0, PostVirtualHostModifyResponse::default)
    }

    async fn post_http_listener_modify(
        &self,
        _: Request<PostHttpListenerModifyRequest>,
    ) -> Result<Response<PostHttpListenerModifyResponse>, Status> {
        self.timed(Hook::Other, 0, PostHttpListenerModifyResponse::default)
    }
}

#[cfg(test)]
mod tests;
