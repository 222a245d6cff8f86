//! What the watches tell: everything that Envoy Gateway's hooks do not show.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_envoy::bootstrap::{Peer, PeerAddress, PeerTls};
use pointsman_envoy::xds::EdsServer;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// An InferencePool or another object, as `namespace/name`.
pub type ObjectName = String;

/// The cluster as the watches see it. A value: whoever watches replaces it as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// The HTTPRoutes that name pools.
    pub routes: BTreeMap<ObjectName, Route>,
    /// Where pools name their pickers; a pool that names none is here with `None`.
    pub pools: BTreeMap<ObjectName, Option<PickerRef>>,
    /// Where pickers are; one that nobody could look for yet is not here.
    pub pickers: BTreeMap<PickerRef, PickerState>,
}

/// An HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The Gateways that it is attached to.
    pub gateways: BTreeSet<ObjectName>,
    /// What its rules' backends are worth, in the rules' order.
    pub rules: Vec<RuleShares>,
}

/// Who gets which share of a rule's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuleShares {
    /// The pools, in the order of the backendRefs; those of weight 0 are left out.
    pub pools: Vec<(ObjectName, u32)>,
    /// All that are no pools, together.
    pub others: u32,
}

/// The Service that a pool names as its picker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PickerRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
}

/// What is the same for all Gateways.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Envoy gets endpoints from.
    pub eds: EdsServer,
    /// Requests that Envoy holds open at once, per cluster.
    pub max_streams: u32,
}

/// Whether a picker can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PickerState {
    /// There.
    Found(Peer),
    /// Nowhere, and why.
    Missing(String),
}

impl PickerRef {
    /// The name of its cluster.
    pub fn cluster(&self) -> String {
        format!("pointsman/picker/{}/{}/{}", self.namespace, self.name, self.port)
    }

    /// How it is called by whoever asks it.
    pub fn authority(&self) -> String {
        format!("{}.{}.svc:{}", self.name, self.namespace, self.port)
    }
}

impl Picture {
    /// Everything here that an answer about this Gateway depends on, as a short text. Two replicas that see the same say
    /// the same.
    pub fn digest(&self, gateway: &str, settings: &Settings) -> String {
        let routes = self.routes.iter().filter(|(_, route)| route.gateways.contains(gateway));
        let routes: Vec<_> = routes.map(|(name, route)| (name, &route.rules)).collect();
        let named = routes.iter().flat_map(|(_, rules)| rules.iter()).flat_map(|rule| &rule.pools);
        let pools: BTreeMap<_, _> = named.map(|(pool, _)| (pool, self.pools.get(pool))).collect();
        let asked: BTreeSet<_> = pools.values().flatten().filter_map(|picker| picker.as_ref()).collect();
        let pickers: Vec<_> = asked.into_iter().map(|picker| (picker, self.told_of(picker))).collect();
        let eds = told_of(&[&settings.eds.address], settings.eds.tls.as_ref());
        let told = serde_json::to_vec(&(routes, pools, pickers, eds, settings.max_streams)).unwrap_or_default();
        format!("{:016x}", xxh3_64(&told))
    }

    fn told_of(&self, picker: &PickerRef) -> String {
        match self.pickers.get(picker) {
            Some(PickerState::Found(peer)) => told_of(&peer.addresses.iter().collect::<Vec<_>>(), peer.tls.as_ref()),
            Some(PickerState::Missing(_)) | None => "missing".to_owned(),
        }
    }
}

/// A peer, the certificates that are believed and shown among it. A key is told by its certificate.
fn told_of(addresses: &[&PeerAddress], tls: Option<&PeerTls>) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let shown = |tls: &PeerTls| tls.client.as_ref().map(|(certificate, _)| certificate.text().to_owned());
    let tls = tls.map(|tls| (tls.ca.text(), tls.server_name.as_str(), shown(tls)));
    format!("{addresses:?} {tls:?}")
}

#[cfg(test)]
mod tests {
    use pointsman_envoy::bootstrap::Pem;

    use super::*;

    fn picker(ca: &str) -> PickerState {
        let tls = PeerTls { ca: Pem::Inline(ca.into()), server_name: "epp.default.svc".into(), client: None };
        PickerState::Found(Peer { addresses: vec!["epp.default.svc:9002".parse().unwrap()], tls: Some(tls) })
    }

    fn picture() -> Picture {
        let named = PickerRef { namespace: "default".into(), name: "epp".into(), port: 9002 };
        let route = |gateway: &str| Route {
            gateways: [gateway.to_owned()].into(),
            rules: vec![RuleShares { pools: vec![("default/a".into(), 1)], others: 0 }],
        };
        Picture {
            routes: [("default/one".into(), route("default/g")), ("default/two".into(), route("default/h"))].into(),
            pools: [("default/a".into(), Some(named.clone())), ("default/b".into(), None)].into(),
            pickers: [(named, picker("CA"))].into(),
        }
    }

    fn settings(ca: &str) -> Settings {
        shown(ca, "certificate", "key")
    }

    fn shown(ca: &str, certificate: &str, key: &str) -> Settings {
        let client = Some((Pem::Inline(certificate.into()), Pem::Inline(key.into())));
        let tls = PeerTls { ca: Pem::Inline(ca.into()), server_name: "gateway".into(), client };
        Settings { eds: EdsServer { address: "gateway:9004".parse().unwrap(), tls: Some(tls) }, max_streams: 1 }
    }

    #[test]
    fn a_digest_changes_with_what_its_gateway_depends_on_and_nothing_else() {
        let digest = picture().digest("default/g", &settings("CA"));
        assert_eq!(picture().digest("default/g", &settings("CA")), digest);
        assert_ne!(picture().digest("default/g", &settings("the next CA")), digest);
        assert_ne!(picture().digest("default/g", &shown("CA", "the next certificate", "key")), digest);
        assert_eq!(picture().digest("default/g", &shown("CA", "certificate", "another key")), digest);
        let changed = |change: fn(&mut Picture)| {
            let mut picture = picture();
            change(&mut picture);
            picture.digest("default/g", &settings("CA")) != digest
        };
        assert!(changed(|picture| picture.routes.get_mut("default/one").unwrap().rules[0].others = 1));
        assert!(changed(|picture| *picture.pools.get_mut("default/a").unwrap() = None));
        assert!(changed(|picture| *picture.pickers.values_mut().next().unwrap() = picker("the next CA")));
        assert!(changed(|picture| picture.pickers.clear()));
        assert!(!changed(|picture| _ = picture.routes.remove("default/two")));
        assert!(!changed(|picture| _ = picture.pools.remove("default/b")));
    }
}
