//! What the extension server reads of a cluster beside the pools' members: the routes that name pools, the pools
//! themselves, the Services that their pickers are behind, how those are verified, and which Gateways are ours.

mod attachment;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{Instant, sleep_until};

pub use attachment::RouteFacts;
use attachment::{class_of, is_class_of};

use crate::api::{
    DatedTlsPolicy, GatewayClass, HttpRoute, InferencePool, PoolSpec, ReferenceGrant, ReferenceGrantSpec,
};
use crate::facts::{Kept, keep_pool};
use crate::key::ObjectKey;
use crate::watch::{Observed, Told, WatchState, watch};

/// What was seen, on its way.
const SIGHTS: usize = 1024;
/// How long changes are gathered before they are shown together.
const GATHER: Duration = Duration::from_millis(5);

/// All that was seen. Replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// The routes that name pools.
    pub routes: BTreeMap<ObjectKey, RouteFacts>,
    /// The pools.
    pub pools: BTreeMap<ObjectKey, Kept<PoolSpec>>,
    /// All Services.
    pub services: BTreeMap<ObjectKey, ServiceFacts>,
    /// The BackendTLSPolicies.
    pub tls_policies: BTreeMap<ObjectKey, DatedTlsPolicy>,
    /// All Gateways, each with the name of its class.
    pub gateways: BTreeMap<ObjectKey, String>,
    /// All GatewayClasses, under an empty namespace: whether each is of the followed controller.
    pub classes: BTreeMap<ObjectKey, bool>,
    /// All ReferenceGrants.
    pub grants: BTreeMap<ObjectKey, ReferenceGrantSpec>,
}

/// What is kept of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Whether its name stands for its pods' addresses, which are dialled at their own ports.
    pub is_headless: bool,
    /// Whether its name stands for another one, maybe outside of the cluster.
    pub is_external_name: bool,
    /// Its ports; each with the pods' port behind it, where that is a number.
    pub ports: BTreeMap<u16, Option<u16>>,
    /// The names of those ports that have one.
    pub port_names: BTreeMap<u16, String>,
}

/// One thing that was seen.
enum Sight {
    Route(Observed<RouteFacts>),
    Pool(Observed<Kept<PoolSpec>>),
    Service(Observed<ServiceFacts>),
    TlsPolicy(Observed<DatedTlsPolicy>),
    Gateway(Observed<String>),
    Class(Observed<bool>),
    Grant(Observed<ReferenceGrantSpec>),
    /// A kind was listed, or is not to be.
    Known(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Route,
    Pool,
    Service,
    TlsPolicy,
    Gateway,
    Class,
    Grant,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Route, Self::Pool, Self::Service, Self::TlsPolicy, Self::Gateway, Self::Class, Self::Grant];
}

impl ServiceFacts {
    /// The port that is dialled for one of the Service's; `None` where it has no such port.
    pub fn dialled(&self, port: u16) -> Option<u16> {
        let target = self.ports.get(&port)?;
        Some(if self.is_headless { target.unwrap_or(port) } else { port })
    }

    fn of(_: &ObjectMeta, service: Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default();
        let named = |port: &ServicePort| Some((u16::try_from(port.port).ok()?, port.name.clone()?));
        let port_names = ports.iter().filter_map(named).collect();
        let ports = ports.into_iter().filter_map(|port| {
            let target = match port.target_port {
                None => u16::try_from(port.port).ok(),
                Some(IntOrString::Int(number)) => u16::try_from(number).ok(),
                Some(IntOrString::String(_)) => None,
            };
            Some((u16::try_from(port.port).ok()?, target))
        });
        Self {
            is_headless: spec.cluster_ip.as_deref() == Some("None"),
            is_external_name: spec.type_.as_deref() == Some("ExternalName"),
            ports: ports.collect(),
            port_names,
        }
    }
}

impl Routing {
    fn see(&mut self, sight: Sight) {
        match sight {
            Sight::Route(observed) => {
                apply(&mut self.routes, observed);
                self.routes.retain(|key, route| route.names_a_pool(&key.namespace));
            }
            Sight::Pool(observed) => apply(&mut self.pools, observed),
            Sight::Service(observed) => apply(&mut self.services, observed),
            Sight::TlsPolicy(observed) => apply(&mut self.tls_policies, observed),
            Sight::Gateway(observed) => apply(&mut self.gateways, observed),
            Sight::Class(observed) => apply(&mut self.classes, observed),
            Sight::Grant(observed) => apply(&mut self.grants, observed),
            Sight::Known(_) => {}
        }
    }
}

/// Follows a cluster for ever, on behalf of the Gateways of the controller of that name, and shows what there is once
/// every kind was listed. A kind whose CRD is absent is known to have no objects.
pub async fn follow(
    client: Client,
    controller_name: Arc<str>,
    show: channel::Sender<Option<Arc<Routing>>>,
) -> Infallible {
    let (tell, mut told) = mpsc::channel(SIGHTS);
    let controller = Arc::clone(&controller_name);
    let keep_route = move |meta: &ObjectMeta, route: HttpRoute| RouteFacts::of(meta, route, &controller);
    let keep_class = move |_: &ObjectMeta, class: GatewayClass| is_class_of(&class, &controller_name);
    let keep_grant = |_: &ObjectMeta, grant: ReferenceGrant| grant.spec;
    let watches = [
        relay(Api::all(client.clone()), Kind::Route, keep_route, Sight::Route, tell.clone()),
        relay(Api::all(client.clone()), Kind::Pool, keep_pool::<InferencePool>, Sight::Pool, tell.clone()),
        relay(Api::all(client.clone()), Kind::Service, ServiceFacts::of, Sight::Service, tell.clone()),
        relay(Api::all(client.clone()), Kind::TlsPolicy, DatedTlsPolicy::of, Sight::TlsPolicy, tell.clone()),
        relay(Api::all(client.clone()), Kind::Gateway, class_of, Sight::Gateway, tell.clone()),
        relay(Api::all(client.clone()), Kind::Class, keep_class, Sight::Class, tell.clone()),
        relay(Api::all(client), Kind::Grant, keep_grant, Sight::Grant, tell),
    ];
    let mut watches = select_all(watches);
    let (mut routing, mut unknown) = (Routing::default(), Kind::ALL.to_vec());
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            (never, _, _) = &mut watches => match never {},
            Some(sight) = told.recv() => {
                if let Sight::Known(kind) = sight {
                    unknown.retain(|unknown| *unknown != kind);
                }
                routing.see(sight);
                due.get_or_insert_with(|| Instant::now() + GATHER);
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && unknown.is_empty() => {
                due = None;
                show.send_if_modified(|shown| {
                    let is_news = shown.as_deref() != Some(&routing);
                    if is_news {
                        *shown = Some(Arc::new(routing.clone()));
                    }
                    is_news
                });
            }
        }
    }
}

fn relay<K, T>(
    api: Api<DeserializeGuard<K>>,
    kind: Kind,
    keep: impl Fn(&ObjectMeta, K) -> T + Send + 'static,
    sight: fn(Observed<T>) -> Sight,
    tell: mpsc::Sender<Sight>,
) -> BoxFuture<'static, Infallible>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    T: Send + 'static,
{
    let take = move |told| {
        let sight = match told {
            Told::Saw(observed) => Some(sight(observed)),
            Told::Stands(state) => {
                match &state {
                    WatchState::Forbidden(message) => tracing::error!(
                        ?kind,
                        message,
                        "not allowed to watch, and not ready without: `pointsman roles --gateway` grants it"
                    ),
                    WatchState::Failing(message) => {
                        tracing::warn!(?kind, message, "the watch failed; the last state counts meanwhile");
                    }
                    WatchState::Absent => {
                        tracing::info!(?kind, "the CRD is not installed; looking for it now and then")
                    }
                    WatchState::Starting | WatchState::Synced => tracing::info!(?kind, "watched"),
                }
                matches!(state, WatchState::Synced | WatchState::Absent).then_some(Sight::Known(kind))
            }
        };
        let tell = tell.clone();
        async move {
            if let Some(sight) = sight {
                // Nobody takes it only when the task is gone.
                _ = tell.send(sight).await;
            }
        }
        .boxed()
    };
    watch(api, None, keep, take).boxed()
}

/// Takes in what was seen of one kind; what cannot be read stays as it was.
fn apply<T>(objects: &mut BTreeMap<ObjectKey, T>, observed: Observed<T>) {
    match observed {
        Observed::Put(key, object) => _ = objects.insert(key, object),
        Observed::Gone(key) => _ = objects.remove(&key),
        Observed::Absent => objects.clear(),
        Observed::All { objects: all, unreadable } => {
            let mut fresh: BTreeMap<_, _> = all.into_iter().collect();
            for key in unreadable {
                if let Some(known) = objects.remove(&key) {
                    fresh.insert(key, known);
                }
            }
            *objects = fresh;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::BackendTlsPolicy;

    fn route(backend: serde_json::Value) -> RouteFacts {
        let spec = json!({"parentRefs": [{"name": "g"}], "rules": [{"backendRefs": [backend]}]});
        RouteFacts { spec: serde_json::from_value(spec).unwrap(), ..RouteFacts::default() }
    }

    #[test]
    fn routes_without_pools_are_forgotten_and_unreadable_ones_stay() {
        let pool = || json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "a"});
        let mirror =
            |to| json!({"name": "svc", "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": to}}]});
        let key = |name| ObjectKey::new("default", name);
        let mut routing = Routing::default();
        let objects = vec![
            (key("a"), route(pool())),
            (key("b"), route(json!({"name": "svc"}))),
            (key("c"), route(pool())),
            (key("d"), route(mirror(pool()))),
            (key("e"), route(mirror(json!({"name": "svc"})))),
        ];
        routing.see(Sight::Route(Observed::All { objects, unreadable: Vec::new() }));
        assert_eq!(routing.routes.keys().cloned().collect::<Vec<_>>(), [key("a"), key("c"), key("d")]);
        routing.see(Sight::Route(Observed::All { objects: Vec::new(), unreadable: vec![key("c"), key("f")] }));
        assert_eq!(routing.routes.keys().cloned().collect::<Vec<_>>(), [key("c")]);
        routing.see(Sight::Route(Observed::Put(key("c"), route(json!({"name": "svc"})))));
        assert!(routing.routes.is_empty());
    }

    #[test]
    fn a_headless_service_is_dialled_at_its_pods_port() {
        let service = |ip: &str, target: serde_json::Value| {
            let spec = json!({"clusterIP": ip, "ports": [{"port": 9002, "targetPort": target}]});
            let service: Service = serde_json::from_value(json!({"spec": spec})).unwrap();
            ServiceFacts::of(&ObjectMeta::default(), service).dialled(9002)
        };
        assert_eq!(service("None", json!(9102)), Some(9102));
        assert_eq!(service("None", json!("grpc")), Some(9002));
        assert_eq!(service("10.0.0.1", json!(9102)), Some(9002));
        assert_eq!(ServiceFacts::default().dialled(9002), None);
    }

    #[test]
    fn a_policys_section_is_the_name_of_a_services_port() {
        let ports = json!([{"name": "grpc", "port": 9002}, {"port": 80}, {"name": "none", "port": -1}]);
        let service: Service = serde_json::from_value(json!({"spec": {"ports": ports}})).unwrap();
        let facts = ServiceFacts::of(&ObjectMeta::default(), service);
        assert_eq!(facts.port_names, [(9002, "grpc".to_owned())].into());
        let policy = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "epp", "sectionName": "grpc"}],
                "validation": {
                    "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}],
                    "hostname": "epp.example.org",
                },
            },
            "status": {"ancestors": []},
        }));
        let policy: BackendTlsPolicy = policy.unwrap();
        let kept = DatedTlsPolicy::of(&policy.metadata.clone(), policy);
        let mut routing = Routing::default();
        routing.see(Sight::TlsPolicy(Observed::Put(ObjectKey::new("default", "p"), kept.clone())));
        assert!(kept.created.is_some() && kept.spec.target_refs[0].is_service("epp"));
        assert_eq!(kept.spec.target_refs[0].section_name.as_ref(), facts.port_names.get(&9002));
        assert_eq!(routing.tls_policies.len(), 1);
        // Where the CRD was taken away there are no policies.
        routing.see(Sight::TlsPolicy(Observed::Absent));
        assert!(routing.tls_policies.is_empty());
    }
}
