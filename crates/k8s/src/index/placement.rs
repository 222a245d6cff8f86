//! Where EndpointSlices say that pods are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::facts::{SliceAddress, SliceFacts};
use crate::key::ObjectKey;

/// Where a pod is, and whether it is going away.
///
/// What a slice says of `ready` and `serving` is left out: the slice's controller takes both from the pod's own condition
/// Ready, which is watched too and is there first. So a pool that selects its pods believes the pod, and `serving: false`
/// on a hand-written slice keeps no such pod out. That it is going away is believed of whoever says so, since nothing
/// undoes it. A pool whose membership is a Service has the slices alone to go by, and follows both conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) is_terminating: bool,
    pub(super) zone: Option<Arc<str>>,
    pub(super) node: Option<Arc<str>>,
    /// The zones whose traffic it is meant for.
    pub(super) for_zones: Vec<Arc<str>>,
}

/// What each slice says of each pod, by the pod's name and UID.
#[derive(Debug, Default)]
pub(super) struct Placements(HashMap<PodId, BTreeMap<ObjectKey, Placement>>);

type PodId = (ObjectKey, Arc<str>);

/// The labels that a placement adds where the pod has none of the name, so that filters can select by it.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const NODE_LABEL: &str = "kubernetes.io/hostname";
const FOR_ZONE_PREFIX: &str = "for-zone.pointsman.dev/";

impl Placement {
    /// What one address of a slice says.
    pub(super) fn of(address: &SliceAddress) -> Self {
        Self {
            is_terminating: address.is_terminating,
            zone: address.zone.clone(),
            node: address.node.clone(),
            for_zones: address.for_zones.clone(),
        }
    }

    /// What both say: whoever says that it goes away is believed, and the first zone and node.
    fn and(mut self, other: &Self) -> Self {
        self.is_terminating |= other.is_terminating;
        self.zone = self.zone.or_else(|| other.zone.clone());
        self.node = self.node.or_else(|| other.node.clone());
        self.for_zones.extend(other.for_zones.iter().cloned());
        self
    }

    /// The labels of a pod with what the placement adds.
    pub(super) fn label(&self, mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
        for (name, value) in [(ZONE_LABEL, &self.zone), (NODE_LABEL, &self.node)] {
            if let Some(value) = value {
                labels.entry(name.into()).or_insert_with(|| (**value).into());
            }
        }
        for zone in &self.for_zones {
            labels.insert(format!("{FOR_ZONE_PREFIX}{zone}"), "true".into());
        }
        labels
    }
}

impl Placements {
    /// Takes in that a slice changed, and returns the names of the pods of which it says something else than before.
    pub(super) fn apply(
        &mut self,
        slice: &ObjectKey,
        former: Option<&SliceFacts>,
        present: Option<&SliceFacts>,
    ) -> BTreeSet<ObjectKey> {
        let (before, now) = (said(former), said(present));
        let mut moved = BTreeSet::new();
        for pod in before.keys().filter(|pod| !now.contains_key(*pod)) {
            if let Some(placements) = self.0.get_mut(*pod) {
                placements.remove(slice);
                if placements.is_empty() {
                    self.0.remove(*pod);
                }
            }
            moved.insert(pod.0.clone());
        }
        for (pod, placement) in now {
            if before.get(pod) != Some(&placement) {
                self.0.entry(pod.clone()).or_default().insert(slice.clone(), placement);
                moved.insert(pod.0.clone());
            }
        }
        moved
    }

    /// What all slices say of a pod together.
    pub(super) fn of(&self, pod: &ObjectKey, uid: &Arc<str>) -> Placement {
        let said = self.0.get(&(pod.clone(), Arc::clone(uid)));
        said.into_iter().flat_map(BTreeMap::values).fold(Placement::default(), Placement::and)
    }
}

/// What a slice says of pods.
fn said(slice: Option<&SliceFacts>) -> BTreeMap<&PodId, Placement> {
    let mut said: BTreeMap<&PodId, Placement> = BTreeMap::new();
    for address in slice.into_iter().flat_map(|slice| &slice.addresses) {
        if let Some(pod) = &address.pod {
            let former = said.remove(pod).unwrap_or_default();
            said.insert(pod, former.and(&Placement::of(address)));
        }
    }
    said
}
