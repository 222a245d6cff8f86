//! What tunes a pool: policies, models, objectives and rewrites, compiled into one [`Policy`], and what is thought of
//! each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pointsman_core::config::{FieldPath, Problem, Problems, UnknownFields, validate};
use pointsman_core::facts::Model;
use pointsman_core::models::{ModelMatch, ModelRule, ModelRules, ModelTarget};
use pointsman_core::policy::Policy;
use pointsman_core::registry::Registry;
use serde_json::{Value, json};

use super::store::{Changed, Store};
use crate::api::{
    Criticality, InferenceModel, InferenceModelRewrite, InferenceObjective, ModelGroup, OfPool, PoolGroup,
    SchedulingPolicy, ServiceReference, UnsupportedPool,
};
use crate::facts::{Identity, Kept};
use crate::key::ObjectKey;
use crate::verdict::{Judgement, PoolId, Reason, Says, Subject, SubjectKind, Truth, Verdict, Verdicts};
use crate::watch::Observed;

/// Everything that tunes pools, as it was last seen.
#[derive(Debug, Default)]
pub(super) struct Tuning {
    pub(super) policies: Store<Kept<SchedulingPolicy>>,
    pub(super) models: Store<Kept<InferenceModel>>,
    pub(super) objectives: Grouped<InferenceObjective>,
    pub(super) rewrites: Grouped<InferenceModelRewrite>,
}

/// The objects of a kind that lives in two groups. Where the cluster has the kind in both, the newer group alone counts.
#[derive(Debug)]
pub(super) struct Grouped<T> {
    /// The groups in which the cluster has the kind, as far as is known; the newest comes first.
    groups: BTreeMap<ModelGroup, Store<Kept<T>>>,
}

/// That an object wants to tune one pool of its namespace.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    /// What the object is.
    pub(super) kind: SubjectKind,
    /// Which object.
    pub(super) identity: &'a Identity,
    /// The pool's name.
    pub(super) pool: &'a str,
    /// The pool's group, where it is a pool that the picker could serve.
    pub(super) group: Result<PoolGroup, UnsupportedPool>,
    /// The newer group of the object's kind, whose objects count in its place.
    pub(super) superseded_by: Option<ModelGroup>,
}

/// What became of all that tunes one pool.
#[derive(Debug)]
pub(super) struct Compiled {
    /// The pool's policy.
    pub(super) policy: Policy,
    /// What it is made of.
    pub(super) ingredients: Ingredients,
    /// The Service whose slices are the membership, where the oldest policy names one: that counts even while the
    /// policy's scheduling is refused, so that a replica that never saw a good version has the members of all others.
    pub(super) service: Option<ServiceReference>,
    /// The policy object in force; `None` where none is, or one that was never good.
    pub(super) source: Option<InForce>,
    /// What is thought of the objects.
    pub(super) verdicts: Verdicts,
}

/// All that decides what a policy is like: policies themselves cannot be compared.
#[derive(Debug, PartialEq)]
pub(super) struct Ingredients {
    /// What the policy object in force says; null where there is none.
    scheduling: Value,
    rules: Vec<ModelRule>,
    objectives: BTreeMap<Arc<str>, i32>,
}

/// The policy object that a pool is scheduled by, in the version that was good last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct InForce {
    /// Which object, and which version of it.
    pub(super) identity: Identity,
    /// How it schedules.
    scheduling: Value,
    /// What is wrong with a newer version of it, which therefore waits.
    pub(super) rejected: Option<String>,
}

impl<T> Default for Grouped<T> {
    fn default() -> Self {
        Self { groups: BTreeMap::new() }
    }
}

impl<T> Grouped<T> {
    /// The group whose objects count.
    fn newest(&self) -> Option<ModelGroup> {
        self.groups.keys().next().copied()
    }
}

impl<T: PartialEq> Grouped<T> {
    /// Takes in what was seen of one group, and says in which namespaces it makes a difference. A group of which
    /// something was seen is there until it is said to be absent.
    pub(super) fn apply(&mut self, group: ModelGroup, observed: Observed<Kept<T>>) -> BTreeSet<Arc<str>> {
        let former = self.newest();
        let is_absent = matches!(observed, Observed::Absent);
        let mut touched = namespaces(self.groups.entry(group).or_default().apply(observed));
        if is_absent {
            self.groups.remove(&group);
        }
        if self.newest() != former {
            let objects = self.groups.values().flat_map(Store::iter);
            touched.extend(objects.map(|(key, _)| Arc::clone(&key.namespace)));
        }
        touched
    }

    /// The objects that count, oldest first, each with the group that it is of.
    fn oldest_first(&self, is_of: impl Fn(&Kept<T>) -> bool) -> impl Iterator<Item = (ModelGroup, &Kept<T>)> {
        let newest = self.groups.iter().next().map(|(group, store)| (*group, oldest_first(store, is_of)));
        newest.into_iter().flat_map(|(group, objects)| objects.into_iter().map(move |kept| (group, kept)))
    }
}

impl<T: OfPool + PartialEq> Grouped<T> {
    /// What all objects want, those included that do not count.
    fn claims(&self, kind: fn(ModelGroup) -> SubjectKind) -> impl Iterator<Item = Claim<'_>> {
        self.groups.iter().flat_map(move |(group, store)| {
            let superseded_by = self.newest().filter(|newest| newest != group);
            store.iter().map(move |(_, kept)| Claim::of(kind(*group), kept, superseded_by))
        })
    }
}

impl<'a> Claim<'a> {
    fn of<T: OfPool>(kind: SubjectKind, kept: &'a Kept<T>, superseded_by: Option<ModelGroup>) -> Self {
        let reference = kept.object.pool_ref();
        let (pool, group) = (&*reference.name, reference.group(T::DEFAULT_GROUP));
        Self { kind, identity: &kept.identity, pool, group, superseded_by }
    }
}

/// Where something changed.
pub(super) fn namespaces<T>(changed: Vec<Changed<T>>) -> BTreeSet<Arc<str>> {
    changed.into_iter().map(|changed| changed.key.namespace).collect()
}

fn oldest_first<T: PartialEq>(store: &Store<Kept<T>>, is_of: impl Fn(&Kept<T>) -> bool) -> Vec<&Kept<T>> {
    let mut found: Vec<_> = store.iter().map(|(_, kept)| kept).filter(|kept| is_of(kept)).collect();
    found.sort_by(|a, b| a.identity.cmp(&b.identity));
    found
}

impl Tuning {
    /// What all objects want that tune one pool each.
    pub(super) fn claims(&self) -> impl Iterator<Item = Claim<'_>> {
        let models = self.models.iter().map(|(_, kept)| Claim::of(SubjectKind::InferenceModel, kept, None));
        let objectives = self.objectives.claims(SubjectKind::InferenceObjective);
        models.chain(objectives).chain(self.rewrites.claims(SubjectKind::InferenceModelRewrite))
    }

    /// Compiles what tunes a pool. `before` is what was in force: a policy whose newer version is refused goes on as it
    /// was.
    pub(super) fn compile(&self, pool: &PoolId, before: Option<&InForce>, registry: &Registry) -> Compiled {
        let mut verdicts = Verdicts::new();
        let (mut policy, service, source) = self.policy(pool, before, registry, &mut verdicts);
        let mut rules = policy.models.rules().to_vec();
        rules.extend(self.rewrites(pool, &mut verdicts));
        rules.extend(self.models(pool, &mut verdicts));
        policy.objectives = self.objectives(pool, &mut verdicts);
        let scheduling = source.as_ref().map(|source| &source.scheduling).filter(|written| **written != json!({}));
        let ingredients = Ingredients {
            scheduling: scheduling.cloned().unwrap_or_default(),
            rules: rules.clone(),
            objectives: policy.objectives.clone(),
        };
        policy.models = ModelRules::new(rules);
        Compiled { policy, ingredients, service, source, verdicts }
    }

    /// The oldest policy that targets the pool; the others are told so.
    fn policy(
        &self,
        pool: &PoolId,
        before: Option<&InForce>,
        registry: &Registry,
        verdicts: &mut Verdicts,
    ) -> (Policy, Option<ServiceReference>, Option<InForce>) {
        let targets = |kept: &Kept<SchedulingPolicy>| {
            is_beside(&kept.identity, pool) && kept.object.spec.targets(pool.group, &pool.key.name)
        };
        let mut candidates = oldest_first(&self.policies, targets).into_iter();
        let Some(oldest) = candidates.next() else {
            return (Policy::default(), None, None);
        };
        let (judgement, policy, source) = schedule(oldest, pool, before, registry);
        let is_in_force = judgement.status == Truth::True;
        judge(verdicts, SubjectKind::SchedulingPolicy, &oldest.identity, pool, judgement);
        for younger in candidates {
            let stands = if is_in_force { "is in force" } else { "counts, though its scheduling is refused," };
            let message = format!("{} is older and {stands} for the pool {}", oldest.identity.key, pool.key);
            let judgement = Judgement::refused(Reason::Conflicted, message);
            judge(verdicts, SubjectKind::SchedulingPolicy, &younger.identity, pool, judgement);
        }
        (policy, oldest.object.spec.service.clone(), source)
    }

    /// The rules of the pool's rewrites: those that name a model before those that do not, then the oldest object's, then
    /// in their order.
    fn rewrites(&self, pool: &PoolId, verdicts: &mut Verdicts) -> Vec<ModelRule> {
        let (mut exact, mut generic) = (Vec::new(), Vec::new());
        for (group, kept) in self.rewrites.oldest_first(|kept| is_of(kept, pool)) {
            let mut unread = Vec::new();
            for (at, rule) in kept.object.spec.rules.iter().enumerate() {
                let (known, unknown): (Vec<_>, Vec<_>) = rule.matches.iter().partition(|entry| entry.model.is_exact());
                if !unknown.is_empty() {
                    unread.push(format!("spec.rules[{at}].matches"));
                }
                // A rule all of whose matches are unknown would otherwise catch every request.
                if known.is_empty() && !rule.matches.is_empty() {
                    continue;
                }
                let target = |target: &crate::api::RewriteTarget| ModelTarget {
                    model: Some(Model::new(&target.model_rewrite)),
                    weight: weight(target.weight),
                    endpoints: None,
                };
                let place = if known.is_empty() { &mut generic } else { &mut exact };
                place.push(ModelRule {
                    name: format!("InferenceModelRewrite {} rules[{at}]", kept.identity.key).into(),
                    matches: known.into_iter().map(|entry| of_model(&entry.model.value)).collect(),
                    targets: rule.targets.iter().map(target).collect(),
                    priority: None,
                });
            }
            let judgement = if unread.is_empty() {
                Judgement::accepted(format!("in force for the pool {}", pool.key))
            } else {
                let message = format!("{}: this picker knows matches of the type Exact alone", unread.join(", "));
                Judgement::refused(Reason::Unsupported, message)
            };
            judge(verdicts, SubjectKind::InferenceModelRewrite(group), &kept.identity, pool, judgement);
        }
        exact.extend(generic);
        exact
    }

    /// The rules of the pool's InferenceModels; of two with one model name the older counts.
    fn models(&self, pool: &PoolId, verdicts: &mut Verdicts) -> Vec<ModelRule> {
        let mut named: BTreeMap<&str, &ObjectKey> = BTreeMap::new();
        let mut rules = Vec::new();
        for kept in oldest_first(&self.models, |kept| is_of(kept, pool)) {
            let spec = &kept.object.spec;
            let judgement = match named.get(&*spec.model_name) {
                Some(first) => {
                    let message = format!("spec.modelName: {first} is older and has the same model name");
                    Judgement::refused(Reason::ModelNameInUse, message)
                }
                None => {
                    named.insert(&spec.model_name, &kept.identity.key);
                    rules.push(rule_of(kept));
                    Judgement::accepted(format!("in force for the pool {}", pool.key))
                }
            };
            judge(verdicts, SubjectKind::InferenceModel, &kept.identity, pool, judgement);
        }
        rules
    }

    /// The priorities of the pool's objectives, by name.
    fn objectives(&self, pool: &PoolId, verdicts: &mut Verdicts) -> BTreeMap<Arc<str>, i32> {
        let mut priorities = BTreeMap::new();
        for (group, kept) in self.objectives.oldest_first(|kept| is_of(kept, pool)) {
            priorities.insert(Arc::clone(&kept.identity.key.name), kept.object.priority());
            let judgement = Judgement::accepted(format!("in force for the pool {}", pool.key));
            judge(verdicts, SubjectKind::InferenceObjective(group), &kept.identity, pool, judgement);
        }
        priorities
    }
}

/// How the oldest policy of a pool schedules it, and what is thought of that: as it says, or else as its last good
/// version said, or else by the defaults.
fn schedule(
    oldest: &Kept<SchedulingPolicy>,
    pool: &PoolId,
    before: Option<&InForce>,
    registry: &Registry,
) -> (Judgement, Policy, Option<InForce>) {
    let spec = &oldest.object.spec;
    let problems = match read(&spec.scheduling, registry) {
        Ok((policy, unknown)) => {
            let judgement = if unknown.is_empty() {
                Judgement::accepted(format!("in force for the pool {}", pool.key))
            } else {
                let message = format!("in force, but this picker does not know: {unknown}");
                Judgement { reason: Reason::UnknownFields, ..Judgement::accepted(message) }
            };
            let (identity, scheduling) = (oldest.identity.clone(), spec.scheduling.clone());
            return (judgement, policy, Some(InForce { identity, scheduling, rejected: None }));
        }
        Err(problems) => problems,
    };
    let last = before.filter(|before| before.identity.uid == oldest.identity.uid);
    let last = last.and_then(|last| Some((read(&last.scheduling, registry).ok()?.0, last.clone())));
    let stays = if last.is_some() { "its last good scheduling stays in force" } else { "the defaults are in force" };
    let members = spec.service.as_ref().map(|service| format!(", with the members of the Service {}", service.name));
    let message = format!("{problems}; {stays}{}", members.unwrap_or_default());
    let (policy, source) = match last {
        Some((policy, last)) => (policy, Some(InForce { rejected: Some(problems), ..last })),
        None => (Policy::default(), None),
    };
    (Judgement::refused(Reason::Invalid, message), policy, source)
}

/// An InferenceModel's rule.
fn rule_of(kept: &Kept<InferenceModel>) -> ModelRule {
    let spec = &kept.object.spec;
    let target = |target: &crate::api::TargetModel| ModelTarget {
        model: Some(Model::new(&target.name)),
        weight: weight(target.weight),
        endpoints: None,
    };
    ModelRule {
        name: format!("InferenceModel {}", kept.identity.key).into(),
        matches: vec![of_model(&spec.model_name)],
        targets: spec.target_models.iter().map(target).collect(),
        priority: Some(match kept.object.criticality() {
            Criticality::Critical => 1,
            Criticality::Standard => 0,
            Criticality::Sheddable => -1,
        }),
    }
}

/// Reads a policy's scheduling: the policy, and what this version does not know of it; or all that is wrong with it.
fn read(scheduling: &Value, registry: &Registry) -> Result<(Policy, String), String> {
    let path = FieldPath::default().member("spec");
    let mut unknown = UnknownFields::Tolerate(Problems::default());
    let policy = validate(scheduling, registry, &path, &mut unknown).map_err(|problems| told(&problems))?;
    let unknown = match unknown {
        UnknownFields::Tolerate(problems) => told(&problems.into_vec()),
        UnknownFields::Refuse => String::new(),
    };
    Ok((policy, unknown))
}

fn told(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Whether an object wants to tune that pool.
fn is_of<T: OfPool>(kept: &Kept<T>, pool: &PoolId) -> bool {
    is_beside(&kept.identity, pool) && kept.object.pool() == Ok((pool.group, &*pool.key.name))
}

fn is_beside(identity: &Identity, pool: &PoolId) -> bool {
    identity.key.namespace == pool.key.namespace
}

fn of_model(name: &str) -> ModelMatch {
    ModelMatch { model: Some(name.into()), headers: Vec::new() }
}

/// A weight as it is written; none is 0, which is none where others have one.
fn weight(written: Option<i64>) -> u32 {
    written.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0)
}

/// Notes what is thought of an object with regard to a pool.
fn judge(verdicts: &mut Verdicts, kind: SubjectKind, identity: &Identity, pool: &PoolId, judgement: Judgement) {
    let says = match kind {
        SubjectKind::SchedulingPolicy => Says::Ancestors(BTreeMap::from([(pool.clone(), vec![judgement])])),
        _ => Says::Conditions(vec![judgement]),
    };
    verdicts.insert(Subject { kind, key: identity.key.clone() }, Verdict::on(identity, says));
}
