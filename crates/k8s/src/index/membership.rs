//! Who is in a pool: pods that its selector picks, or what the EndpointSlices of a Service list.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use pointsman_core::endpoint::Endpoint;

use super::live_pool::LivePool;
use super::placement::{Placement, Placements};
use super::store::Store;
use crate::api::{PoolSpec, ServiceReference};
use crate::facts::{PodFacts, SliceFacts};
use crate::key::ObjectKey;

/// What names a member within its pool, newest first: of two with one address, the pod that was made last has it. A
/// server that is no pod that is known is named by its UID, in no namespace, and is the oldest.
pub(super) type MemberKey = (Reverse<Option<Timestamp>>, ObjectKey);

/// The key of a pod.
pub(super) fn key(pod: &ObjectKey, facts: &PodFacts) -> MemberKey {
    (Reverse(facts.created), pod.clone())
}

/// All members of a pool, from all that is known.
pub(super) fn of_pool(
    pool: &LivePool,
    pods: &Store<PodFacts>,
    slices: &Store<SliceFacts>,
    placements: &Placements,
) -> BTreeMap<MemberKey, Vec<Endpoint>> {
    let namespace = &pool.object.identity.key.namespace;
    if let Some(service) = &pool.service {
        return of_service(namespace, service, slices, pods);
    }
    let spec = &pool.object.object;
    let place =
        |(name, pod): (&ObjectKey, &PodFacts)| (key(name, pod), of_pod(spec, name, pod, placements.of(name, &pod.uid)));
    pods.of_namespace(namespace).map(place).collect()
}

/// The endpoints of a pod in a pool that selects its members by labels; none when it is no member.
pub(super) fn of_pod(spec: &PoolSpec, key: &ObjectKey, pod: &PodFacts, placement: Placement) -> Vec<Endpoint> {
    let Some(ip) = pod.ip.filter(|_| pod.is_ready && !placement.is_terminating && spec.selects(&pod.labels)) else {
        return Vec::new();
    };
    let is_active = |port: &u16| pod.active_ports.as_ref().is_none_or(|active| active.contains(port));
    let ports = spec.target_ports.iter().copied().filter(is_active);
    let server = Server { uid: &pod.uid, name: &key.name, namespace: &key.namespace, pod: Some(pod), placement };
    server.endpoints(ip, ports)
}

/// The endpoints that the slices of a Service list.
fn of_service(
    namespace: &Arc<str>,
    service: &ServiceReference,
    slices: &Store<SliceFacts>,
    pods: &Store<PodFacts>,
) -> BTreeMap<MemberKey, Vec<Endpoint>> {
    let of_service = slices.of_namespace(namespace).filter(|(_, slice)| is_of(slice, service));
    let addresses =
        of_service.flat_map(|(key, slice)| slice.addresses.iter().map(move |address| (key, slice, address)));
    let mut listed: Vec<_> = addresses.filter(|(_, _, address)| address.is_ready).collect();
    // A pod with an address of each family is one server, and is dialled at that of IPv4. Apart from that the order
    // decides nothing, but it is the same every time.
    listed.sort_by_key(|(key, _, address)| (address.ip.is_ipv6(), *key));
    let mut members: BTreeMap<MemberKey, Vec<Endpoint>> = BTreeMap::new();
    for (_, slice, address) in listed {
        let ip: Arc<str> = address.ip.to_string().into();
        let (uid, name) = match &address.pod {
            Some((pod, uid)) => (Arc::clone(uid), &pod.name),
            None => (format!("{namespace}/{}/{ip}", service.name).into(), &ip),
        };
        let pod = address.pod.as_ref().and_then(|(key, uid)| Some((key, pods.get(key).filter(|pod| pod.uid == *uid)?)));
        let member = match pod {
            Some((name, pod)) => key(name, pod),
            None => (Reverse(None), ObjectKey { namespace: "".into(), name: Arc::clone(&uid) }),
        };
        let server =
            Server { uid: &uid, name, namespace, pod: pod.map(|(_, pod)| pod), placement: Placement::of(address) };
        let known = members.entry(member).or_default();
        let ports = slice.ports.iter().filter(|port| is_meant(service.port.as_ref(), port)).map(|(_, number)| *number);
        let ports: Vec<u16> = ports.filter(|port| known.iter().all(|known| known.address.port() != *port)).collect();
        known.extend(server.endpoints(address.ip, ports.into_iter()));
    }
    members
}

/// Whether a slice of the service's namespace lists the pod of that name for it.
pub(super) fn lists(slices: &Store<SliceFacts>, service: &ServiceReference, pod: &ObjectKey) -> bool {
    let mut addresses = slices
        .of_namespace(&pod.namespace)
        .filter(|(_, slice)| is_of(slice, service))
        .flat_map(|(_, slice)| &slice.addresses);
    addresses.any(|address| address.pod.as_ref().is_some_and(|(listed, _)| listed == pod))
}

/// Whether a slice, in the service's namespace, is one of the service's.
pub(super) fn is_of(slice: &SliceFacts, service: &ServiceReference) -> bool {
    slice.service.as_deref() == Some(&service.name)
}

/// Whether a slice's port is the one that serves the model; all are where none is named.
fn is_meant(wanted: Option<&IntOrString>, (name, number): &(Arc<str>, u16)) -> bool {
    match wanted {
        None => true,
        Some(IntOrString::Int(wanted)) => *wanted == i32::from(*number),
        Some(IntOrString::String(wanted)) => **wanted == **name,
    }
}

/// What the endpoints of one server have in common.
struct Server<'a> {
    uid: &'a Arc<str>,
    name: &'a Arc<str>,
    namespace: &'a Arc<str>,
    pod: Option<&'a PodFacts>,
    placement: Placement,
}

impl Server<'_> {
    fn endpoints(mut self, ip: IpAddr, ports: impl Iterator<Item = u16>) -> Vec<Endpoint> {
        let node = self.pod.and_then(|pod| pod.node.as_deref());
        self.placement.node = self.placement.node.or_else(|| node.map(Into::into));
        let labels = self.placement.label(self.pod.map(|pod| pod.labels.clone()).unwrap_or_default());
        let endpoint = |port| Endpoint {
            uid: Arc::clone(self.uid),
            name: Arc::clone(self.name),
            namespace: Arc::clone(self.namespace),
            address: SocketAddr::new(ip, port),
            metrics_port: port,
            engine: self.pod.and_then(|pod| pod.engine.clone()),
            labels: labels.clone(),
            is_cordoned: self.pod.is_some_and(|pod| pod.cordon.is_some()),
        };
        ports.map(endpoint).collect()
    }
}
