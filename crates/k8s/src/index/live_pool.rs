//! A pool that is there: its members, what was told of them, and what is to be told.

use std::collections::BTreeMap;
use std::sync::Arc;

use pointsman_core::endpoint::Endpoint;
use pointsman_core::policy::Policy;

use super::Picture;
use super::membership::MemberKey;
use super::tuning::{Compiled, InForce, Ingredients};
use crate::api::{PoolGroup, PoolSpec, ServiceReference};
use crate::events::{Notice, NoticeReason, Regarding};
use crate::facts::{Identity, Kept, PodFacts};
use crate::key::ObjectKey;
use crate::verdict::{Reason, Says, Verdicts};

/// See the module.
#[derive(Debug)]
pub(super) struct LivePool {
    pub(super) group: PoolGroup,
    pub(super) object: Kept<PoolSpec>,
    /// The Service whose slices are the membership, instead of the selector.
    pub(super) service: Option<ServiceReference>,
    /// The policy object in force.
    pub(super) source: Option<InForce>,
    /// What is thought of the objects that tune it.
    pub(super) verdicts: Verdicts,
    /// Whether nothing was told of it yet.
    pub(super) is_new: bool,
    /// Whether something changed that may tune it.
    pub(super) is_tuned_anew: bool,
    /// Whether all of its members are to be placed anew.
    pub(super) is_misplaced: bool,
    /// What the policy that was told last is made of; `None` before the first.
    ingredients: Option<Ingredients>,
    members: BTreeMap<MemberKey, Vec<Arc<Endpoint>>>,
    /// What the members that changed since were when that was last told.
    told: BTreeMap<MemberKey, Vec<Arc<Endpoint>>>,
    told_picker: Option<ObjectKey>,
    /// Whether it had endpoints that take requests when that was last told; `None` before the first time.
    had_endpoints: Option<bool>,
}

impl LivePool {
    pub(super) fn new(group: PoolGroup, object: Kept<PoolSpec>) -> Self {
        Self {
            group,
            object,
            service: None,
            source: None,
            verdicts: Verdicts::new(),
            is_new: true,
            is_tuned_anew: true,
            is_misplaced: true,
            ingredients: None,
            members: BTreeMap::new(),
            told: BTreeMap::new(),
            told_picker: None,
            had_endpoints: None,
        }
    }

    /// Whether it is this very object.
    pub(super) fn is_of(&self, group: PoolGroup, identity: &Identity) -> bool {
        self.group == group && self.object.identity.uid == identity.uid
    }

    /// Whether a new picture of it may differ from the last.
    pub(super) fn may_have_changed(&self) -> bool {
        let is_touched = self.is_new || self.is_tuned_anew || self.is_misplaced || !self.told.is_empty();
        is_touched || self.picker() != self.told_picker
    }

    /// Whether it is in the namespace of `key`.
    pub(super) fn is_beside(&self, key: &ObjectKey) -> bool {
        self.object.identity.key.namespace == key.namespace
    }

    /// Takes over what tunes it; returns the policy where that is another than was told.
    pub(super) fn tune(&mut self, compiled: Compiled) -> Option<Policy> {
        let Compiled { policy, ingredients, service, source, verdicts } = compiled;
        self.is_misplaced |= self.service != service;
        (self.service, self.source, self.verdicts) = (service, source, verdicts);
        let is_other = self.ingredients.as_ref() != Some(&ingredients);
        self.ingredients = Some(ingredients);
        is_other.then_some(policy)
    }

    /// Makes these a member's endpoints.
    pub(super) fn set(&mut self, key: MemberKey, endpoints: Vec<Endpoint>) {
        let present = self.members.get(&key).map(Vec::as_slice).unwrap_or_default();
        if present.iter().map(|endpoint| &**endpoint).eq(&endpoints) {
            return;
        }
        let told = self.told.entry(key.clone()).or_insert_with(|| present.to_vec());
        // One that is again as it was told is the same again.
        let kept = |new: Endpoint| match told.iter().chain(present).find(|known| ***known == new) {
            Some(same) => Arc::clone(same),
            None => Arc::new(new),
        };
        let endpoints: Vec<_> = endpoints.into_iter().map(kept).collect();
        if endpoints.is_empty() {
            self.members.remove(&key);
        } else {
            self.members.insert(key, endpoints);
        }
    }

    /// Makes these all of its members.
    pub(super) fn set_all(&mut self, members: BTreeMap<MemberKey, Vec<Endpoint>>) {
        let gone: Vec<_> = self.members.keys().filter(|key| !members.contains_key(*key)).cloned().collect();
        gone.into_iter().for_each(|key| self.set(key, Vec::new()));
        members.into_iter().for_each(|(key, endpoints)| self.set(key, endpoints));
    }

    /// Its picture as far as it differs from the last, and the notice that goes with it.
    pub(super) fn picture(&mut self, policy: Option<Policy>) -> (Option<Picture>, Option<Notice>) {
        let is_new = std::mem::take(&mut self.is_new);
        let told = std::mem::take(&mut self.told);
        let is_other = |(key, told): (&MemberKey, &Vec<Arc<Endpoint>>)| {
            let present = self.members.get(key).map(Vec::as_slice).unwrap_or_default();
            present.len() != told.len() || present.iter().zip(told).any(|(present, told)| !Arc::ptr_eq(present, told))
        };
        let are_others = is_new || told.iter().any(is_other);
        let members: Option<Vec<_>> = are_others.then(|| self.members.values().flatten().cloned().collect());
        let notice = members.as_ref().and_then(|members| self.endpoints_notice(members));
        let picker = self.picker();
        let is_news = members.is_some() || policy.is_some() || picker != self.told_picker;
        self.told_picker.clone_from(&picker);
        let picture = Picture { object: self.regarding(), members, policy, picker };
        (is_news.then_some(picture), notice)
    }

    /// The Service that its gateway finds the picker by.
    fn picker(&self) -> Option<ObjectKey> {
        let name = self.object.object.picker.as_ref()?.service()?;
        Some(ObjectKey { namespace: Arc::clone(&self.object.identity.key.namespace), name: name.into() })
    }

    fn notice(&self, reason: NoticeReason, message: String) -> Notice {
        Notice { regarding: self.regarding(), reason, message }
    }

    fn regarding(&self) -> Regarding {
        let identity = &self.object.identity;
        Regarding::pool(self.group, identity.key.clone(), Arc::clone(&identity.uid))
    }

    /// What is to be told when the pool's endpoints came or went, all of them.
    fn endpoints_notice(&mut self, members: &[Arc<Endpoint>]) -> Option<Notice> {
        let has_endpoints = members.iter().any(|endpoint| !endpoint.is_cordoned);
        let had = self.had_endpoints.replace(has_endpoints);
        match (had, has_endpoints) {
            (None | Some(true), false) => {
                let message = "no endpoint takes requests: is a pod ready that the pool selects, and not cordoned?";
                Some(self.notice(NoticeReason::NoReadyEndpoints, message.into()))
            }
            (Some(false), true) => {
                Some(self.notice(NoticeReason::EndpointsReady, "endpoints take requests again".into()))
            }
            _ => None,
        }
    }

    /// What is to be told when another policy, or another version of it, came into force, was refused, or stands back
    /// behind an older one.
    pub(super) fn policy_notices(&self, source: Option<&InForce>, verdicts: &Verdicts) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut is_refused = false;
        for (subject, verdict) in verdicts {
            let Says::Ancestors(ancestors) = &verdict.says else { continue };
            let is_news = self.verdicts.get(subject) != Some(verdict);
            for judgement in ancestors.values().flatten() {
                let reason = match judgement.reason {
                    Reason::Invalid => NoticeReason::PolicyRejected,
                    Reason::Conflicted => NoticeReason::PolicyConflicted,
                    _ => continue,
                };
                is_refused |= judgement.reason == Reason::Invalid;
                if is_news {
                    let message = format!("SchedulingPolicy {}: {}", subject.key.name, judgement.message);
                    notices.push(self.notice(reason, message));
                }
            }
        }
        if let Some(source) = source.filter(|source| !is_refused && self.source.as_ref() != Some(*source)) {
            let (name, generation) = (&source.identity.key.name, source.identity.generation);
            let message = format!("SchedulingPolicy {name} is in force (generation {generation})");
            notices.push(self.notice(NoticeReason::PolicyApplied, message));
        }
        notices
    }

    /// What is to be told when a member was cordoned or uncordoned. How things were before the pool was told of is
    /// nothing new, and neither is a pod that comes uncordoned.
    pub(super) fn cordon_notice(&self, key: &ObjectKey, former: Option<&PodFacts>, pod: &PodFacts) -> Option<Notice> {
        let was_cordoned = former.filter(|former| former.uid == pod.uid).is_some_and(|former| former.cordon.is_some());
        let (reason, message) = match &pod.cordon {
            _ if self.is_new => return None,
            Some(why) => (NoticeReason::Cordoned, format!("pod {} takes no new requests: {why}", key.name)),
            None if was_cordoned => (NoticeReason::Uncordoned, format!("pod {} takes requests again", key.name)),
            None => return None,
        };
        Some(self.notice(reason, message))
    }
}
