//! Which model serves which: rules that split a model's requests over others, and say how important they are.
//!
//! **Invariants.**
//! - The rule and its target are chosen inside the pick, from the policy of the snapshot in hand: the model that a request
//!   goes on with, the endpoints that have it and the prefix that it leaves behind are always of one policy.
//! - Rules speak of requests whose model was read. One that names no model, or whose body the gateway does not show
//!   before the pick, could not be rewritten, and no rule touches it.

use std::collections::HashMap;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::facts::{Facts, Model, RequestHeaders};
use crate::filters::LabelSelector;
use crate::policy::Policy;
use crate::scheduler::Request;

/// The rules of a pool, in order: the first that matches a request is the one that counts.
#[derive(Clone, Debug, Default)]
pub struct ModelRules {
    rules: Vec<ModelRule>,
    /// Places of the rules that name a model, by its name, in order.
    named: HashMap<Arc<str>, Vec<usize>>,
    /// Places of the rules that some request of any model may match, in order.
    generic: Vec<usize>,
    reads_headers: bool,
}

/// What becomes of some requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelRule {
    /// What explanations call it: its place in a configuration (`models[0]`), or the object of the cluster that it is
    /// made from.
    pub name: Arc<str>,
    /// Requests that fit any of these are its own; every request is where there is none.
    pub matches: Vec<ModelMatch>,
    /// What serves them, one drawn for each request; the asked model where there is none.
    pub targets: Vec<ModelTarget>,
    /// How important they are, where no objective says; more is more, and `None` is 0. An `InferenceModel` that is
    /// Critical, Standard or Sheddable has 1, 0 or -1.
    pub priority: Option<i32>,
}

/// What a request must have: all of this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelMatch {
    /// The model that it asks for; any where it is `None`.
    pub model: Option<Arc<str>>,
    /// Headers that it must have.
    pub headers: Vec<HeaderMatch>,
}

/// A header that a request must have, with exactly this value among its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Its name in lower case.
    pub name: Arc<str>,
    /// The value.
    pub value: Arc<str>,
}

/// One model that may serve a rule's requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelTarget {
    /// The model; the asked one where it is `None`.
    pub model: Option<Model>,
    /// Its share among the rule's targets. Where all of them have 0 they share alike; else 0 is none.
    pub weight: u32,
    /// The endpoints that have it; all where it is `None`.
    pub endpoints: Option<LabelSelector>,
}

/// What a policy makes of one request.
#[derive(Debug, Default)]
pub(crate) struct Route<'p> {
    /// The facts of the request as it is served; `None` where they are those it came with.
    pub(crate) facts: Option<Facts>,
    /// The rule that matched.
    pub(crate) rule: Option<&'p ModelRule>,
    /// The target that was drawn.
    target: Option<&'p ModelTarget>,
    /// Whether its model is another than the asked one.
    is_rewritten: bool,
}

impl Route<'_> {
    /// The model that the request is to name; `None` where it is the asked one.
    pub(crate) fn target(&self) -> Option<&Model> {
        self.target.filter(|_| self.is_rewritten)?.model.as_ref()
    }

    /// The endpoints that have the target, with the name of the rule that says so; `None` where all have it.
    pub(crate) fn selector(&self) -> Option<(&Arc<str>, &LabelSelector)> {
        Some((&self.rule?.name, self.target?.endpoints.as_ref()?))
    }
}

/// Finds the rule of a request, draws its target, and says what facts and priority it is served with.
pub(crate) fn route<'p>(policy: &'p Policy, request: Request<'_>, random: &mut SmallRng) -> Route<'p> {
    let facts = request.facts;
    if policy.models.rules.is_empty() && facts.objective.is_none() {
        return Route::default();
    }
    let rule = facts.model.as_ref().and_then(|model| policy.models.rule_for(&model.name, request.headers));
    let target = rule.and_then(|rule| rule.draw(random));
    let model = target.and_then(|target| target.model.as_ref()).filter(|model| facts.model.as_ref() != Some(model));
    let objective = facts.objective.as_ref().and_then(|name| policy.objectives.get(name));
    let priority = objective.copied().or(rule.and_then(|rule| rule.priority)).unwrap_or(0);
    let differs = model.is_some() || priority != facts.priority;
    Route { facts: differs.then(|| facts.served(model, priority)), rule, target, is_rewritten: model.is_some() }
}

impl ModelRules {
    /// Rules in their order.
    pub fn new(rules: Vec<ModelRule>) -> Self {
        let mut named: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        let mut generic = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let is_generic = rule.matches.is_empty() || rule.matches.iter().any(|entry| entry.model.is_none());
            if is_generic {
                generic.push(at);
                continue;
            }
            for model in rule.matches.iter().filter_map(|entry| entry.model.as_ref()) {
                let places = named.entry(model.clone()).or_default();
                if places.last() != Some(&at) {
                    places.push(at);
                }
            }
        }
        let reads_headers = rules.iter().flat_map(|rule| &rule.matches).any(|entry| !entry.headers.is_empty());
        Self { rules, named, generic, reads_headers }
    }

    /// The rules in their order.
    pub fn rules(&self) -> &[ModelRule] {
        &self.rules
    }

    /// Whether any rule asks for a header: only then need a request's headers be kept until it is picked.
    pub fn reads_headers(&self) -> bool {
        self.reads_headers
    }

    /// The first rule that a request for `model` fits.
    fn rule_for(&self, model: &str, headers: Option<&dyn RequestHeaders>) -> Option<&ModelRule> {
        let first = |places: &[usize]| places.iter().copied().find(|at| self.rules[*at].is_for(model, headers));
        let named = self.named.get(model).and_then(|places| first(places));
        let generic = first(&self.generic);
        let at = named.into_iter().chain(generic).min()?;
        self.rules.get(at)
    }
}

impl ModelRule {
    fn is_for(&self, model: &str, headers: Option<&dyn RequestHeaders>) -> bool {
        let has = |header: &HeaderMatch| headers.is_some_and(|headers| headers.has(&header.name, &header.value));
        let fits = |entry: &ModelMatch| {
            entry.model.as_ref().is_none_or(|wanted| **wanted == *model) && entry.headers.iter().all(has)
        };
        self.matches.is_empty() || self.matches.iter().any(fits)
    }

    /// One of the targets, at random by their weights.
    fn draw(&self, random: &mut SmallRng) -> Option<&ModelTarget> {
        if self.targets.len() < 2 {
            return self.targets.first();
        }
        let total: u64 = self.targets.iter().map(|target| u64::from(target.weight)).sum();
        if total == 0 {
            return self.targets.get(random.random_range(0..self.targets.len()));
        }
        let mut left = random.random_range(0..total);
        for target in &self.targets {
            match left.checked_sub(u64::from(target.weight)) {
                Some(rest) => left = rest,
                None => return Some(target),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
