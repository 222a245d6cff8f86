//! From what was seen of the cluster to what answers are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pointsman_envoy::bootstrap::{Peer, PeerAddress, PeerTls, Pem};
use pointsman_envoy::xds::EdsServer;
use pointsman_gateway::picture::{PickerRef, PickerState, Picture, Route, RuleShares, Settings};
use pointsman_gateway::service::Known;
use pointsman_k8s::api::{HttpRouteRule, HttpRouteSpec, PoolSpec};
use pointsman_k8s::gateways::Routing;
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::sync::Digests;
use pointsman_k8s::trust::MutualTrust;
use tokio::sync::watch;

use super::authorities::{Found, Wanted};
use super::verification::{config_maps, picker_tls};
use crate::serve::tls;

/// What of it is not seen in the cluster.
pub(super) struct KnownOptions {
    /// How Envoys and this server know each other; absent without TLS.
    pub(super) own: Option<Own>,
    /// Where Envoys reach EDS.
    pub(super) eds_address: PeerAddress,
    pub(super) cluster_domain: String,
    pub(super) max_streams: u32,
}

/// How Envoys and this server know each other.
pub(super) struct Own {
    /// The server's name in its certificate.
    pub(super) server_name: String,
    /// What both verify each other by, and what Envoys show.
    pub(super) trust: watch::Receiver<Option<Arc<MutualTrust>>>,
}

/// What was seen, and what was made of that very sight.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) routing: Arc<Routing>,
    pub(super) known: Arc<Known>,
}

/// Keeps what is known true: tells in `want` whose CAs are needed, in `digests` what every Gateway of ours depends on, in
/// `show` what is known now, and once in `first` where that stands.
pub(super) async fn keep(
    mut options: KnownOptions,
    mut routing: watch::Receiver<Option<Arc<Routing>>>,
    mut authorities: watch::Receiver<Found>,
    want: watch::Sender<Wanted>,
    digests: watch::Sender<Digests>,
    show: watch::Sender<Option<Seen>>,
    first: watch::Sender<Option<Arc<ArcSwap<Known>>>>,
) -> Infallible {
    let mut standing: Option<Arc<ArcSwap<Known>>> = None;
    loop {
        let (seen, found) = (routing.borrow_and_update().clone(), authorities.borrow_and_update().clone());
        if let Some(routing) = seen {
            let seen = &*routing;
            let wanted: Wanted = pickers(seen).flat_map(|picker| config_maps(&picker, seen)).collect();
            want.send_if_modified(|shown| std::mem::replace(shown, wanted.clone()) != wanted);
            if let Some(settings) = settings(&mut options) {
                let picture = picture(seen, &found, &options.cluster_domain);
                let told = digests_of(seen, &picture, &settings);
                let known = Arc::new(Known { picture, settings });
                show.send_replace(Some(Seen { routing: Arc::clone(&routing), known: Arc::clone(&known) }));
                match &standing {
                    Some(standing) => standing.store(known),
                    None => {
                        let made = Arc::new(ArcSwap::new(known));
                        first.send_replace(Some(Arc::clone(&made)));
                        standing = Some(made);
                    }
                }
                digests.send_if_modified(|shown| std::mem::replace(shown, told.clone()) != told);
            }
        }
        let trust = options.own.as_mut().map(|own| &mut own.trust);
        tokio::select! {
            Ok(()) = routing.changed() => {}
            Ok(()) = authorities.changed() => {}
            Ok(()) = tls::next(trust) => {}
            else => std::future::pending().await,
        }
    }
}

/// What is the same for all Gateways; `None` while Envoys and this server could not verify each other.
fn settings(options: &mut KnownOptions) -> Option<Settings> {
    let tls = match &mut options.own {
        None => None,
        Some(own) => {
            let trust = own.trust.borrow_and_update().clone()?;
            Some(PeerTls {
                ca: Pem::Inline(trust.authorities.clone()),
                server_name: own.server_name.clone(),
                client: Some((Pem::Inline(trust.chain.clone()), Pem::Inline(trust.key.clone()))),
            })
        }
    };
    Some(Settings { eds: EdsServer { address: options.eds_address.clone(), tls }, max_streams: options.max_streams })
}

/// What the Gateways of ours that routes with pools are attached to depend on.
fn digests_of(seen: &Routing, picture: &Picture, settings: &Settings) -> Digests {
    let parents = seen.routes.iter().flat_map(|(key, route)| gateways(key, &route.spec));
    let ours: BTreeSet<_> = parents.filter(|gateway| seen.serves(gateway)).collect();
    let digest = |gateway: ObjectKey| {
        let digest = picture.digest(&gateway.to_string(), settings);
        (gateway, digest)
    };
    ours.into_iter().map(digest).collect()
}

fn picture(seen: &Routing, found: &Found, cluster_domain: &str) -> Picture {
    let state = |picker: PickerRef| {
        let state = state(&picker, seen, found, cluster_domain)?;
        Some((picker, state))
    };
    let pickers: BTreeSet<_> = pickers(seen).collect();
    Picture {
        routes: seen.routes.iter().map(|(key, facts)| (key.to_string(), route(key, &facts.spec))).collect(),
        pools: seen.pools.iter().map(|(key, pool)| (key.to_string(), picker(key, &pool.object))).collect(),
        pickers: pickers.into_iter().filter_map(state).collect::<BTreeMap<_, _>>(),
    }
}

fn route(key: &ObjectKey, spec: &HttpRouteSpec) -> Route {
    let rules = spec.rules.iter().map(|rule| shares(key, rule));
    Route { gateways: gateways(key, spec).map(|gateway| gateway.to_string()).collect(), rules: rules.collect() }
}

/// The Gateways that a route is attached to.
pub(super) fn gateways(key: &ObjectKey, spec: &HttpRouteSpec) -> impl Iterator<Item = ObjectKey> {
    spec.parent_refs.iter().filter_map(|parent| parent.gateway(&key.namespace))
}

fn shares(route: &ObjectKey, rule: &HttpRouteRule) -> RuleShares {
    let mut shares = RuleShares::default();
    for backend in &rule.backend_refs {
        match (backend.weight.unwrap_or(1), backend.pool(&route.namespace)) {
            (0, _) => {}
            (weight, Some(pool)) => shares.pools.push((pool.to_string(), weight)),
            (weight, None) => shares.others = shares.others.saturating_add(weight),
        }
    }
    shares
}

/// The Service that a pool names as its picker, where it names one.
pub(super) fn picker(key: &ObjectKey, pool: &PoolSpec) -> Option<PickerRef> {
    let picker = pool.picker.as_ref()?;
    let name = picker.service()?.to_owned();
    Some(PickerRef { namespace: key.namespace.to_string(), name, port: picker.port? })
}

/// The pickers of all pools that routes of our Gateways name: other pools are others' business.
fn pickers(seen: &Routing) -> impl Iterator<Item = PickerRef> + '_ {
    let ours =
        seen.routes.iter().filter(|(key, route)| gateways(key, &route.spec).any(|gateway| seen.serves(&gateway)));
    let named = ours.flat_map(|(key, route)| {
        let backends = route.spec.rules.iter().flat_map(|rule| &rule.backend_refs);
        backends.filter_map(|backend| backend.pool(&key.namespace))
    });
    let named: BTreeSet<_> = named.collect();
    named.into_iter().filter_map(|key| picker(&key, &seen.pools.get(&key)?.object))
}

/// Where a picker is, or what is in the way; `None` while nobody could look.
fn state(picker: &PickerRef, seen: &Routing, found: &Found, cluster_domain: &str) -> Option<PickerState> {
    let missing = |why: String| Some(PickerState::Missing(why));
    let PickerRef { namespace, name, port } = picker;
    let service = ObjectKey::new(namespace, name);
    let Some(facts) = seen.services.get(&service) else {
        return missing(format!("there is no Service {service}: create it, or name the picker's"));
    };
    if facts.is_external_name {
        return missing(format!("the Service {service} is an ExternalName: name one with a selector"));
    }
    let Some(dialled) = facts.dialled(*port) else {
        let ports: Vec<_> = facts.ports.keys().map(ToString::to_string).collect();
        let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
        return missing(format!("the Service {service} has no port {port}: it has {ports}"));
    };
    let tls = match picker_tls(picker, seen, found) {
        Ok(tls) => tls?,
        Err(why) => return missing(why),
    };
    let address = PeerAddress { host: format!("{name}.{namespace}.svc.{cluster_domain}"), port: dialled };
    Some(PickerState::Found(Peer { addresses: vec![address], tls: Some(tls) }))
}

#[cfg(test)]
mod tests {
    use pointsman_k8s::api::{FailureMode, PickerRef as PoolPicker};
    use pointsman_k8s::facts::{Identity, Kept};
    use pointsman_k8s::gateways::{RouteFacts, ServiceFacts};
    use serde_json::json;

    use super::*;

    fn seen() -> Routing {
        let key = |name: &str| ObjectKey::new("default", name);
        let unweighted = ["c", "d", "e", "f", "g"].map(
            |name| json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name, "weight": 0}),
        );
        let route: HttpRouteSpec = serde_json::from_value(json!({
            "parentRefs": [{"name": "g"}, {"name": "h", "namespace": "infra"}, {"kind": "Service", "name": "mesh"}],
            "rules": [
                {"backendRefs": [{"name": "svc"}]},
                {"backendRefs": [
                    {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "a", "weight": 9},
                    {"name": "svc", "weight": 2},
                    {"name": "other"},
                    {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "b", "weight": 0},
                    {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "c", "namespace": "team"},
                ]},
                {"backendRefs": unweighted},
            ],
        }))
        .unwrap();
        let picker = |name: &str| PoolPicker {
            group: String::new(),
            kind: "Service".into(),
            name: name.into(),
            port: Some(9002),
            failure_mode: FailureMode::FailOpen,
        };
        let pool = |name: &str, picker: Option<PoolPicker>| {
            let identity = Identity { created: None, key: key(name), uid: name.into(), generation: 1 };
            (key(name), Kept { identity, object: PoolSpec { picker, ..PoolSpec::default() } })
        };
        let service =
            |port: u16| ServiceFacts { is_headless: true, ports: [(port, Some(9102))].into(), ..Default::default() };
        Routing {
            routes: [(key("chat"), RouteFacts { spec: route, ..RouteFacts::default() })].into(),
            pools: [
                pool("a", Some(picker("epp"))),
                pool("b", Some(picker("portless"))),
                pool("c", Some(picker("untrusted"))),
                pool("d", Some(picker("gone"))),
                pool("e", None),
                pool("f", Some(picker("unread"))),
                pool("g", Some(picker("outside"))),
            ]
            .into(),
            services: [
                (key("epp"), service(9002)),
                (key("portless"), service(80)),
                (key("untrusted"), service(9002)),
                (key("unread"), service(9002)),
                (key("outside"), ServiceFacts { is_external_name: true, ..service(9002) }),
            ]
            .into(),
            gateways: [(key("g"), "eg".to_owned()), (ObjectKey::new("infra", "h"), "other".to_owned())].into(),
            classes: [(ObjectKey::new("", "eg"), true), (ObjectKey::new("", "other"), false)].into(),
            ..Routing::default()
        }
    }

    #[test]
    fn routes_become_shares_and_services_become_pickers_or_what_is_in_the_way() {
        let key = |name: &str| ObjectKey::new("default", name);
        let found = Found::from([(key("epp-ca"), Some("CA".to_owned())), (key("untrusted-ca"), None)]);
        let picture = picture(&seen(), &found, "cluster.local");
        let route = &picture.routes["default/chat"];
        assert_eq!(route.gateways.iter().collect::<Vec<_>>(), ["default/g", "infra/h"]);
        let shares = RuleShares { pools: vec![("default/a".into(), 9), ("team/c".into(), 1)], others: 3 };
        let others = RuleShares { pools: vec![], others: 1 };
        assert_eq!(route.rules, [others, shares, RuleShares::default()]);
        assert_eq!(picture.pools["default/e"], None);
        let told: Vec<_> = picture
            .pickers
            .iter()
            .map(|(picker, state)| match state {
                PickerState::Found(peer) => format!("{}: {}", picker.name, peer.addresses[0]),
                PickerState::Missing(why) => format!("{}: {}", picker.name, why.split(':').next().unwrap_or_default()),
            })
            .collect();
        assert_eq!(
            told,
            [
                "epp: epp.default.svc.cluster.local:9102",
                "gone: there is no Service default/gone",
                "outside: the Service default/outside is an ExternalName",
                "portless: the Service default/portless has no port 9002",
                "untrusted: there is no ConfigMap default/untrusted-ca with the CA to verify it by",
            ],
            "the CA of one could not be looked for yet"
        );
    }

    #[tokio::test]
    async fn nothing_is_told_before_envoys_and_we_can_verify_each_other_and_then_every_gateway_has_a_digest() {
        let trust = |chain: &str| {
            let (authorities, key) = ("CA".to_owned(), "key".to_owned());
            Some(Arc::new(MutualTrust { authorities, chain: chain.to_owned(), key }))
        };
        let (tell, told) = watch::channel(None);
        let options = KnownOptions {
            own: Some(Own { server_name: "pointsman-gateway.pointsman.svc".into(), trust: told }),
            eds_address: "pointsman-gateway:9004".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            max_streams: 1,
        };
        let (_find, authorities) = watch::channel(Found::default());
        let (want, mut wanted) = watch::channel(Wanted::default());
        let (digest, mut digests) = watch::channel(Digests::default());
        let (first, known) = watch::channel(None);
        let (tell_seen, shown) = watch::channel(None);
        let (show, routing) = watch::channel(Some(Arc::new(seen())));
        tokio::spawn(keep(options, routing, authorities, want, digest, tell_seen, first));
        let config_maps = wanted.wait_for(|wanted| !wanted.is_empty()).await.unwrap().clone();
        let names: Vec<_> = config_maps.iter().map(|config_map| &*config_map.name).collect();
        assert_eq!(names, ["epp-ca", "gone-ca", "outside-ca", "portless-ca", "unread-ca", "untrusted-ca"]);
        assert!(known.borrow().is_none() && shown.borrow().is_none());
        tell.send_replace(trust("certificate"));
        let told = digests.wait_for(|digests| !digests.is_empty()).await.unwrap().clone();
        assert_eq!(told.keys().map(ToString::to_string).collect::<Vec<_>>(), ["default/g"], "infra/h is another's");
        assert!(Arc::ptr_eq(&shown.borrow().clone().unwrap().known, &known.borrow().clone().unwrap().load_full()));
        let standing = known.borrow().clone().unwrap();
        let tls = || standing.load().settings.eds.tls.clone().unwrap();
        assert_eq!((tls().server_name.as_str(), tls().ca.text()), ("pointsman-gateway.pointsman.svc", "CA"));
        tell.send_replace(trust("the next certificate"));
        let next = digests.wait_for(|digests| *digests != told).await.unwrap().clone();
        assert_eq!(next.len(), 1);
        let client = tls().client.map(|(certificate, key)| (certificate.text().to_owned(), key.text().to_owned()));
        assert_eq!(client, Some(("the next certificate".to_owned(), "key".to_owned())));
        show.send_replace(Some(Arc::new(Routing { gateways: BTreeMap::new(), ..seen() })));
        digests.wait_for(Digests::is_empty).await.unwrap();
    }
}
