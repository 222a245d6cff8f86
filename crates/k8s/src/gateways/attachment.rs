//! What routes are attached to, and what they may refer to.

use std::collections::BTreeSet;

use kube::api::ObjectMeta;

use super::Routing;
use crate::api::{Gateway, GatewayClass, HttpRoute, HttpRouteSpec};
use crate::key::ObjectKey;

/// What is kept of an HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteFacts {
    /// What its owner wants.
    pub spec: HttpRouteSpec,
    /// The Gateways that refuse it, as the followed controller says in its status.
    pub refused_by: BTreeSet<ObjectKey>,
}

impl RouteFacts {
    pub(super) fn of(meta: &ObjectMeta, route: HttpRoute, controller_name: &str) -> Self {
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        Self { refused_by: route.status.refused_by(namespace, controller_name), spec: route.spec }
    }

    /// Whether one of its rules sends requests to an InferencePool, or copies of them.
    pub(super) fn names_a_pool(&self, namespace: &str) -> bool {
        let mut rules = self.spec.rules.iter();
        rules.any(|rule| rule.pools(namespace).chain(rule.mirrored_pools(namespace)).next().is_some())
    }
}

/// The name of a Gateway's class.
pub(super) fn class_of(_: &ObjectMeta, gateway: Gateway) -> String {
    gateway.spec.gateway_class_name
}

/// Whether a class is served by a controller of that name.
pub(super) fn is_class_of(class: &GatewayClass, controller_name: &str) -> bool {
    class.spec.controller_name == controller_name
}

impl Routing {
    /// Whether a Gateway is there, and of a class of the followed controller.
    pub fn serves(&self, gateway: &ObjectKey) -> bool {
        let class = self.gateways.get(gateway).map(|class| ObjectKey::new("", class));
        class.is_some_and(|class| self.classes.get(&class) == Some(&true))
    }

    /// Whether HTTPRoutes of `namespace` may refer to that pool: it stands beside them, or a ReferenceGrant says so.
    pub fn lets_routes_of(&self, namespace: &str, pool: &ObjectKey) -> bool {
        let from = ObjectKey::new(&pool.namespace, "");
        let mut grants = self.grants.range(from..).take_while(|(key, _)| key.namespace == pool.namespace);
        *pool.namespace == *namespace || grants.any(|(_, grant)| grant.lets_routes_of(namespace, pool))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OURS: &str = "gateway.envoyproxy.io/gatewayclass-controller";

    #[test]
    fn a_gateway_is_served_while_it_is_there_and_its_class_is_ours() {
        let key = |name: &str| ObjectKey::new("infra", name);
        let gateway = |class: &str| serde_json::from_value(json!({"spec": {"gatewayClassName": class}})).unwrap();
        let class = |controller: &str| {
            let class = serde_json::from_value(json!({"spec": {"controllerName": controller}})).unwrap();
            is_class_of(&class, OURS)
        };
        let routing = Routing {
            gateways: [("a", "eg"), ("b", "istio"), ("c", "gone")]
                .map(|(name, of)| (key(name), class_of(&ObjectMeta::default(), gateway(of))))
                .into(),
            classes: [("eg", OURS), ("istio", "istio.io/gateway-controller")]
                .map(|(name, of)| (ObjectKey::new("", name), class(of)))
                .into(),
            ..Routing::default()
        };
        let served = ["a", "b", "c", "d"].map(|name| routing.serves(&key(name)));
        assert_eq!(served, [true, false, false, false]);
    }

    #[test]
    fn a_route_is_refused_by_a_gateway_of_which_no_listener_takes_it_and_only_as_its_controller_says() {
        let entry = |gateway: &str, section: &str, controller: &str, accepted: &str| {
            let condition = json!({
                "type": "Accepted", "status": accepted, "reason": "r", "message": "",
                "lastTransitionTime": "2020-01-01T00:00:00Z",
            });
            let parent = json!({"name": gateway, "sectionName": section});
            json!({"parentRef": parent, "controllerName": controller, "conditions": [condition]})
        };
        let route = json!({"status": {"parents": [
            entry("refuses", "http", OURS, "False"),
            entry("half", "http", OURS, "False"),
            entry("half", "https", OURS, "True"),
            entry("takes", "http", OURS, "True"),
            entry("theirs", "http", "example.com/other", "False"),
            {"parentRef": {"name": "silent"}, "controllerName": OURS},
        ]}});
        let meta = ObjectMeta { namespace: Some("team".into()), ..ObjectMeta::default() };
        let facts = RouteFacts::of(&meta, serde_json::from_value(route).unwrap(), OURS);
        assert_eq!(facts.refused_by, BTreeSet::from([ObjectKey::new("team", "refuses")]));
    }

    #[test]
    fn a_pool_of_another_namespace_needs_a_grant_there() {
        let grant = |from: &str, kind: &str, to: serde_json::Value| {
            let from = json!([{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": from}]);
            serde_json::from_value(json!({"from": from, "to": [to]})).unwrap()
        };
        let pools = |name: &str| json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name});
        let all = json!({"group": "inference.networking.k8s.io", "kind": "InferencePool"});
        let routing = Routing {
            grants: [
                (ObjectKey::new("models", "all"), grant("team", "HTTPRoute", all)),
                (ObjectKey::new("models", "one"), grant("guests", "HTTPRoute", pools("a"))),
                (ObjectKey::new("models", "grpc"), grant("calls", "GRPCRoute", pools("a"))),
                (
                    ObjectKey::new("models", "service"),
                    grant("svc", "HTTPRoute", json!({"group": "", "kind": "Service"})),
                ),
                (ObjectKey::new("other", "all"), grant("stray", "HTTPRoute", pools("a"))),
            ]
            .into(),
            ..Routing::default()
        };
        for (namespace, pool, is_let) in [
            ("models", "a", true),
            ("team", "a", true),
            ("team", "b", true),
            ("guests", "a", true),
            ("guests", "b", false),
            ("calls", "a", false),
            ("svc", "a", false),
            ("stray", "a", false),
        ] {
            assert_eq!(
                routing.lets_routes_of(namespace, &ObjectKey::new("models", pool)),
                is_let,
                "{namespace} {pool}"
            );
        }
    }
}
