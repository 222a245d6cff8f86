//! The index: all that was seen of the cluster, and what it adds up to, a pool at a time. One task owns it; it does no
//! I/O and knows no clock, so that any sequence of observations can be replayed.
//!
//! **Invariants.**
//! - A pool's picture depends on the objects as they were last seen alone, never on the order in which they came: after
//!   any sequence of observations it is what an index that was told the last state at once would say. The one exception
//!   is a policy whose scheduling is refused: that of its last good version stays in force.
//! - An endpoint that did not change is the same `Arc` in every picture, so that what follows compares addresses.
//! - A pool that was made anew under an old name is another pool: nothing that belonged to the old one is left.

mod judging;
mod live_pool;
mod membership;
mod placement;
mod store;
#[cfg(test)]
mod tests;
mod tuning;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pointsman_core::endpoint::Endpoint;
use pointsman_core::policy::Policy;
use pointsman_core::registry::Registry;

use self::live_pool::LivePool;
use self::placement::Placements;
use self::store::{Changed, Store};
use self::tuning::Tuning;
use crate::api::{
    InferenceModel, InferenceModelRewrite, InferenceObjective, ModelGroup, PoolGroup, PoolSpec, SchedulingPolicy,
};
use crate::events::{Notice, Regarding};
use crate::facts::{Kept, PodFacts, SliceFacts};
use crate::key::ObjectKey;
use crate::verdict::{PoolId, Verdicts};
use crate::watch::Observed;

/// Which pools are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One.
    Pool(ObjectKey),
    /// All of a namespace.
    Namespace(Arc<str>),
    /// All of the cluster.
    Cluster,
}

/// Something that was seen of the cluster.
#[derive(Clone, Debug)]
pub enum Sight {
    /// Of InferencePools.
    Pool(PoolGroup, Observed<Kept<PoolSpec>>),
    /// Of Pods.
    Pod(Observed<PodFacts>),
    /// Of EndpointSlices.
    Slice(Observed<SliceFacts>),
    /// Of SchedulingPolicies.
    Policy(Observed<Kept<SchedulingPolicy>>),
    /// Of InferenceModels.
    Model(Observed<Kept<InferenceModel>>),
    /// Of InferenceObjectives.
    Objective(ModelGroup, Observed<Kept<InferenceObjective>>),
    /// Of InferenceModelRewrites.
    Rewrite(ModelGroup, Observed<Kept<InferenceModelRewrite>>),
}

/// What changed of one pool.
#[derive(Debug)]
pub enum PoolNews {
    /// It is there, and differs from what was told before.
    Is(Box<Picture>),
    /// It is gone. One of the same name that is told of later is another pool.
    Gone(ObjectKey),
}

/// What a pool adds up to. What did not change is left out; the first picture of a pool leaves nothing out.
#[derive(Debug)]
pub struct Picture {
    /// The object that it is of.
    pub object: Regarding,
    /// Its members, newest pods first.
    pub members: Option<Vec<Arc<Endpoint>>>,
    /// How it is scheduled.
    pub policy: Option<Policy>,
    /// The Service that its gateway finds the picker by, where it names one.
    pub picker: Option<ObjectKey>,
}

/// What sights added up to since the last time.
#[derive(Debug, Default)]
pub struct News {
    /// Pools, those that are gone first.
    pub pools: Vec<PoolNews>,
    /// What is thought of the objects, when that changed.
    pub verdicts: Option<Arc<Verdicts>>,
    /// What is to be told on the pools.
    pub notices: Vec<Notice>,
}

/// See the module.
#[derive(Debug)]
pub struct Index {
    scope: Scope,
    registry: Registry,
    pods: Store<PodFacts>,
    slices: Store<SliceFacts>,
    placements: Placements,
    objects: BTreeMap<PoolGroup, Store<Kept<PoolSpec>>>,
    tuning: Tuning,
    pools: BTreeMap<ObjectKey, LivePool>,
    /// Pools that went away since the last news.
    gone: Vec<ObjectKey>,
    /// Whether verdicts may differ from the last ones.
    is_judged_anew: bool,
    verdicts: Arc<Verdicts>,
    notices: Vec<Notice>,
}

impl News {
    /// Whether there is nothing in them.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.verdicts.is_none() && self.notices.is_empty()
    }
}

impl Scope {
    /// Whether the pool of that name is served.
    pub fn includes(&self, pool: &ObjectKey) -> bool {
        match self {
            Self::Pool(key) => key == pool,
            Self::Namespace(namespace) => *namespace == pool.namespace,
            Self::Cluster => true,
        }
    }
}

impl Index {
    /// An index that has seen nothing.
    pub fn new(scope: Scope, registry: Registry) -> Self {
        Self {
            scope,
            registry,
            pods: Store::default(),
            slices: Store::default(),
            placements: Placements::default(),
            objects: PoolGroup::ALL.into_iter().map(|group| (group, Store::default())).collect(),
            tuning: Tuning::default(),
            pools: BTreeMap::new(),
            gone: Vec::new(),
            is_judged_anew: true,
            verdicts: Arc::default(),
            notices: Vec::new(),
        }
    }

    /// How many pools there are.
    pub fn pools(&self) -> usize {
        self.pools.len()
    }

    /// Takes in what was seen.
    pub fn see(&mut self, sight: Sight) {
        match sight {
            Sight::Pod(observed) => {
                for Changed { key, former } in self.pods.apply(observed) {
                    self.pod_changed(&key, former.as_ref());
                }
            }
            Sight::Slice(observed) => {
                for Changed { key, former } in self.slices.apply(observed) {
                    self.slice_changed(&key, former.as_ref());
                }
            }
            Sight::Pool(group, observed) => {
                let store = self.objects.entry(group).or_default();
                for changed in store.apply(observed) {
                    self.pool_changed(&changed.key);
                }
            }
            Sight::Policy(observed) => {
                let touched = tuning::namespaces(self.tuning.policies.apply(observed));
                self.tuning_changed(&touched);
            }
            Sight::Model(observed) => {
                let touched = tuning::namespaces(self.tuning.models.apply(observed));
                self.tuning_changed(&touched);
            }
            Sight::Objective(group, observed) => {
                let touched = self.tuning.objectives.apply(group, observed);
                self.tuning_changed(&touched);
            }
            Sight::Rewrite(group, observed) => {
                let touched = self.tuning.rewrites.apply(group, observed);
                self.tuning_changed(&touched);
            }
        }
    }

    /// What all that was seen since the last time changed.
    pub fn news(&mut self) -> News {
        let mut news = News::default();
        news.pools.extend(std::mem::take(&mut self.gone).into_iter().map(PoolNews::Gone));
        let changed: Vec<ObjectKey> =
            self.pools.iter().filter(|(_, pool)| pool.may_have_changed()).map(|(key, _)| key.clone()).collect();
        for key in changed {
            news.pools.extend(self.picture(&key).map(|picture| PoolNews::Is(Box::new(picture))));
        }
        if std::mem::take(&mut self.is_judged_anew) {
            let mut verdicts = self.judge();
            if verdicts != *self.verdicts {
                for (subject, verdict) in &mut verdicts {
                    let same = self.verdicts.get(subject).filter(|known| *known == verdict);
                    same.into_iter().for_each(|same| verdict.clone_from(same));
                }
                self.verdicts = Arc::new(verdicts);
                news.verdicts = Some(Arc::clone(&self.verdicts));
            }
        }
        news.notices = std::mem::take(&mut self.notices);
        news
    }

    fn pod_changed(&mut self, key: &ObjectKey, former: Option<&PodFacts>) {
        let cordon = |pod: Option<&PodFacts>| pod.and_then(|pod| pod.cordon.clone());
        let present = self.pods.get(key);
        if let Some(pod) = present.filter(|_| cordon(former) != cordon(present)) {
            for pool in self.pools.values().filter(|pool| pool.is_beside(key)) {
                let is_member = match &pool.service {
                    Some(service) => membership::lists(&self.slices, service, key),
                    None => pool.object.object.selects(&pod.labels),
                };
                let notice = is_member.then(|| pool.cordon_notice(key, former, pod));
                self.notices.extend(notice.flatten());
            }
        }
        self.place_pod(key, former);
    }

    fn slice_changed(&mut self, key: &ObjectKey, former: Option<&SliceFacts>) {
        let present = self.slices.get(key);
        for pod in self.placements.apply(key, former, present) {
            self.place_pod(&pod, None);
        }
        for pool in self.pools.values_mut().filter(|pool| pool.is_beside(key)) {
            let mut versions = former.into_iter().chain(self.slices.get(key));
            let service = pool.service.as_ref();
            pool.is_misplaced |= service.is_some_and(|service| versions.any(|slice| membership::is_of(slice, service)));
        }
    }

    /// Puts a pod where it belongs in every pool. `former` is what the pod was, or an earlier one of its name, where it
    /// may have been placed otherwise.
    fn place_pod(&mut self, key: &ObjectKey, former: Option<&PodFacts>) {
        let present = self.pods.get(key);
        let placement = present.map(|pod| self.placements.of(key, &pod.uid)).unwrap_or_default();
        for pool in self.pools.values_mut().filter(|pool| pool.is_beside(key) && !pool.is_misplaced) {
            if let Some(service) = &pool.service {
                // Its members take their labels and their cordon from the pods behind their addresses.
                pool.is_misplaced = membership::lists(&self.slices, service, key);
                continue;
            }
            if let Some(former) = former.filter(|former| present.is_none_or(|pod| pod.created != former.created)) {
                pool.set(membership::key(key, former), Vec::new());
            }
            if let Some(pod) = present {
                let endpoints = membership::of_pod(&pool.object.object, key, pod, placement.clone());
                pool.set(membership::key(key, pod), endpoints);
            }
        }
    }

    /// A pool's object came, changed or went, in either group. Where both have one of a name, that of the stable group
    /// counts.
    fn pool_changed(&mut self, key: &ObjectKey) {
        if !self.scope.includes(key) {
            return;
        }
        self.is_judged_anew = true;
        let of_group = |group| Some((group, self.objects.get(&group)?.get(key)?.clone()));
        let present = PoolGroup::ALL.into_iter().find_map(of_group);
        let is_the_same =
            |live: &LivePool| present.as_ref().is_some_and(|(group, object)| live.is_of(*group, &object.identity));
        if self.pools.get(key).is_some_and(|live| !is_the_same(live)) {
            let left = self.pools.remove(key);
            // Nobody knows of one that came and went between two news.
            self.gone.extend(left.filter(|left| !left.is_new).map(|_| key.clone()));
        }
        let Some((group, object)) = present else { return };
        let pool = self.pools.entry(key.clone()).or_insert_with(|| LivePool::new(group, object.clone()));
        pool.is_misplaced |= !pool.object.object.has_members_of(&object.object);
        pool.object = object;
    }

    /// What tunes the pools of these namespaces changed.
    fn tuning_changed(&mut self, namespaces: &BTreeSet<Arc<str>>) {
        self.is_judged_anew |= !namespaces.is_empty();
        for (key, pool) in &mut self.pools {
            pool.is_tuned_anew |= namespaces.contains(&key.namespace);
        }
    }

    /// A pool's picture, as far as it changed.
    fn picture(&mut self, key: &ObjectKey) -> Option<Picture> {
        let pool = self.pools.get_mut(key)?;
        let mut policy = None;
        if std::mem::take(&mut pool.is_tuned_anew) {
            let id = PoolId { group: pool.group, key: key.clone() };
            let compiled = self.tuning.compile(&id, pool.source.as_ref(), &self.registry);
            self.notices.extend(pool.policy_notices(compiled.source.as_ref(), &compiled.verdicts));
            self.is_judged_anew = true;
            policy = pool.tune(compiled);
        }
        if std::mem::take(&mut pool.is_misplaced) {
            let members = membership::of_pool(pool, &self.pods, &self.slices, &self.placements);
            pool.set_all(members);
        }
        let (picture, notice) = pool.picture(policy);
        self.notices.extend(notice);
        picture
    }
}
