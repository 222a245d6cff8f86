//! What is kept of the objects that are watched: a small part of each, so that thousands of pods cost little.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

use crate::api::{InferenceModel, InferenceModelRewrite, InferenceObjective, Pool, PoolSpec, SchedulingPolicy};
use crate::key::ObjectKey;

/// Keeps a pod out of new picks while it is there; its value says why. `kubectl pointsman cordon` sets it.
pub const CORDON_ANNOTATION: &str = "pointsman.dev/cordon";
/// Restricts a pod's endpoints to some of the pool's target ports: numbers, separated by commas. The first that is
/// there counts; the names are those of llm-d and of the Gateway API Inference Extension since v1.4.0.
const ACTIVE_PORTS_ANNOTATIONS: [&str; 2] = ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"];
/// Names the engine that a pod runs. The first that is there counts.
const ENGINE_LABELS: [&str; 2] = ["llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type"];
/// Which Service a slice belongs to.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Who an object is, and since when: of two that claim the same thing the older one wins, by name where both are as old.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// When it was made; an object without the time, which the API server never sends, is the oldest.
    pub created: Option<Timestamp>,
    /// Its name.
    pub key: ObjectKey,
    /// Tells it from an earlier object of the same name.
    pub uid: Arc<str>,
    /// Counts the changes of its `spec`.
    pub generation: i64,
}

/// What is kept of an object of a small kind: of a pool what it resolves to, of others the `spec`.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept<T> {
    /// Who it is.
    pub identity: Identity,
    /// What it says; metadata and status are taken out, so that it changes only when its owner changes it.
    pub object: T,
}

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its address, while it has one.
    pub ip: Option<IpAddr>,
    /// Whether it is to get requests: it runs, its condition Ready is True, and it is not being deleted.
    pub is_ready: bool,
    /// The node that it runs on.
    pub node: Option<String>,
    /// The ports that it serves on, where it says so; of the pool's target ports the others are left out.
    pub active_ports: Option<Vec<u16>>,
    /// Why it is cordoned, while it is.
    pub cordon: Option<Arc<str>>,
    /// The engine that it runs, where it says so.
    pub engine: Option<Arc<str>>,
}

/// What is kept of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceFacts {
    /// The Service that it belongs to; `None` is of no use to anybody.
    pub service: Option<Arc<str>>,
    /// Its ports, each with its name; those that are not TCP, or open to all, are left out.
    pub ports: Vec<(Arc<str>, u16)>,
    /// Its addresses.
    pub addresses: Vec<SliceAddress>,
}

/// One address of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Whether new requests may go there: it serves, and is not terminating.
    pub is_ready: bool,
    /// Whether it is going away.
    pub is_terminating: bool,
    /// The zone that it lies in.
    pub zone: Option<Arc<str>>,
    /// The node that it lies on.
    pub node: Option<Arc<str>>,
    /// The zones whose traffic it is meant for.
    pub for_zones: Vec<Arc<str>>,
    /// The pod behind it, of the slice's namespace: name and UID.
    pub pod: Option<(ObjectKey, Arc<str>)>,
}

impl Identity {
    /// Who the object with this metadata is.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            key: ObjectKey::of(meta),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            generation: meta.generation.unwrap_or_default(),
        }
    }
}

/// Keeps what a pool of any version says.
pub(crate) fn keep_pool<P: Pool>(meta: &ObjectMeta, pool: P) -> Kept<PoolSpec> {
    Kept { identity: Identity::of(meta), object: pool.resolved() }
}

/// Keeps an object of a small kind.
pub(crate) fn keep<K: Small>(meta: &ObjectMeta, mut object: K) -> Kept<K> {
    object.keep_spec_alone();
    Kept { identity: Identity::of(meta), object }
}

/// A kind of which the `spec` alone is kept.
pub(crate) trait Small {
    /// Takes out what others write beside the `spec`.
    fn keep_spec_alone(&mut self);
}

macro_rules! small {
    ($($kind:ty),*) => {
        $(impl Small for $kind {
            fn keep_spec_alone(&mut self) {
                self.metadata = ObjectMeta::default();
                self.status = None;
            }
        })*
    };
}

small!(SchedulingPolicy, InferenceModel, InferenceObjective, InferenceModelRewrite);

impl PodFacts {
    /// Keeps what matters of a pod.
    pub fn of(meta: &ObjectMeta, pod: Pod) -> Self {
        let status = pod.status.unwrap_or_default();
        let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let labels = pod.metadata.labels.unwrap_or_default();
        let annotations = pod.metadata.annotations.unwrap_or_default();
        let active_ports = ACTIVE_PORTS_ANNOTATIONS.iter().find_map(|name| annotations.get(*name));
        Self {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            ip: status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()),
            is_ready: ready && !is_over && meta.deletion_timestamp.is_none(),
            node: pod.spec.and_then(|spec| spec.node_name),
            active_ports: active_ports
                .map(|text| text.split(',').filter_map(|port| port.trim().parse().ok()).collect()),
            cordon: annotations.get(CORDON_ANNOTATION).map(|why| why.as_str().into()),
            engine: ENGINE_LABELS.iter().find_map(|name| labels.get(*name)).map(|engine| engine.as_str().into()),
            labels,
        }
    }
}

impl SliceFacts {
    /// Keeps what matters of a slice. One whose addresses are names has none.
    pub fn of(meta: &ObjectMeta, slice: EndpointSlice) -> Self {
        let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
        let ports = slice.ports.unwrap_or_default().into_iter().filter_map(|port| {
            let is_tcp = port.protocol.as_deref().unwrap_or("TCP") == "TCP";
            let number = u16::try_from(port.port?).ok().filter(|number| is_tcp && *number != 0)?;
            Some((port.name.as_deref().unwrap_or_default().into(), number))
        });
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        Self {
            service: service.map(|name| name.as_str().into()),
            ports: ports.collect(),
            addresses: slice.endpoints.into_iter().filter_map(|endpoint| address(endpoint, namespace)).collect(),
        }
    }
}

/// The address of one entry of a slice. Several are all the same server's, so the first that can be dialled is enough.
fn address(endpoint: SliceEndpoint, namespace: &str) -> Option<SliceAddress> {
    let conditions = endpoint.conditions.unwrap_or_default();
    let is_terminating = conditions.terminating.unwrap_or(false);
    // A condition that is not told counts as true, as the API says of `ready`, and `serving` follows `ready`.
    let serves = conditions.serving.or(conditions.ready).unwrap_or(true);
    // A reference by hand may lack what tells the pod from others: then the address stands for itself.
    let pod = endpoint.target_ref.and_then(|target| {
        let is_beside = target.namespace.is_none_or(|of_pod| of_pod == namespace);
        let uid = target.uid.filter(|uid| is_beside && target.kind.as_deref() == Some("Pod") && !uid.is_empty())?;
        Some((ObjectKey::new(namespace, target.name.as_deref()?), uid.into()))
    });
    let hints = endpoint.hints.unwrap_or_default();
    Some(SliceAddress {
        ip: endpoint.addresses.iter().find_map(|address| address.parse().ok())?,
        is_ready: serves && conditions.ready.unwrap_or(true) && !is_terminating,
        is_terminating,
        zone: endpoint.zone.as_deref().map(Into::into),
        node: endpoint.node_name.as_deref().map(Into::into),
        for_zones: hints.for_zones.into_iter().flatten().map(|zone| zone.name.as_str().into()).collect(),
        pod,
    })
}
