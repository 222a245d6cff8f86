//! What is thought of every object that a served pool's owner wrote. What counts is judged with its pool; what does not
//! count is judged here, so that no status goes on saying what was true once.
//!
//! What names a pool beyond the scope is not ours to judge: another process may serve that.

use std::sync::Arc;

use super::Index;
use super::tuning::Claim;
use crate::key::ObjectKey;
use crate::verdict::{Judgement, PoolId, Reason, Says, Subject, SubjectKind, Verdict, Verdicts};

impl Index {
    /// What is thought of every object.
    pub(super) fn judge(&self) -> Verdicts {
        let mut verdicts = Verdicts::new();
        for (key, kept) in self.tuning.policies.iter() {
            let missing = |(group, name): (_, &str)| {
                let pool = PoolId { group, key: ObjectKey::new(&key.namespace, name) };
                self.missing(&pool).map(|judgement| (pool, vec![judgement]))
            };
            let targets = kept.object.spec.target_refs.iter().filter_map(|target| target.pool());
            let says = Says::Ancestors(targets.filter_map(missing).collect());
            let subject = Subject { kind: SubjectKind::SchedulingPolicy, key: key.clone() };
            verdicts.insert(subject, Verdict::on(&kept.identity, says));
        }
        for claim in self.tuning.claims() {
            if let Some(judgement) = self.objection(&claim) {
                let subject = Subject { kind: claim.kind, key: claim.identity.key.clone() };
                verdicts.insert(subject, Verdict::on(claim.identity, Says::Conditions(vec![judgement])));
            }
        }
        for pool in self.pools.values() {
            add(&mut verdicts, &pool.verdicts);
        }
        verdicts
    }

    /// Why an object counts for no pool; `None` where it does, or is not ours to judge.
    fn objection(&self, claim: &Claim<'_>) -> Option<Judgement> {
        let key = ObjectKey::new(&claim.identity.key.namespace, claim.pool);
        let unsupported = |message| Judgement::refused(Reason::Unsupported, message);
        match (&claim.group, claim.superseded_by) {
            _ if !self.scope.includes(&key) => None,
            (_, Some(newer)) => {
                let newer = newer.as_str();
                Some(unsupported(format!("the cluster has this kind in {newer} too, and what is there counts instead")))
            }
            (Err(error), None) => Some(unsupported(error.to_string())),
            (Ok(group), None) => self.missing(&PoolId { group: *group, key }),
        }
    }

    /// Why a pool of the scope is not served; `None` where it is, or is beyond the scope.
    fn missing(&self, PoolId { group, key }: &PoolId) -> Option<Judgement> {
        let served = self.pools.get(key);
        if served.is_some_and(|pool| pool.group == *group) || !self.scope.includes(key) {
            return None;
        }
        let is_there = self.objects.get(group).is_some_and(|store| store.get(key).is_some());
        let message = match served.filter(|_| is_there) {
            Some(served) => format!("the InferencePool {key} in {} counts instead", served.group.as_str()),
            None => format!("there is no InferencePool {key} in {}", group.as_str()),
        };
        Some(Judgement::refused(Reason::TargetNotFound, message))
    }
}

/// Adds what is thought with regard to one pool.
fn add(verdicts: &mut Verdicts, of_pool: &Verdicts) {
    for (subject, verdict) in of_pool {
        match (verdicts.get_mut(subject).map(Arc::make_mut), &verdict.says) {
            (Some(Verdict { says: Says::Ancestors(all), .. }), Says::Ancestors(one)) => {
                all.extend(one.iter().map(|(pool, judgements)| (pool.clone(), judgements.clone())));
            }
            _ => _ = verdicts.insert(subject.clone(), Arc::clone(verdict)),
        }
    }
}
