//! Rules for models: what they match, what serves them, and what must not stand beside each other.

use serde::Deserialize;
use serde_json::Value;

use super::super::UnknownFields;
use super::super::problem::{FieldPath, shortened};
use super::super::spec::{HeaderMatchSpec, ModelMatchSpec, ModelRuleSpec, ModelTargetSpec};
use super::Resolver;
use crate::control_headers::{CONTROLS, DESTINATIONS};
use crate::facts::Model;
use crate::filters::LabelSelector;
use crate::models::{HeaderMatch, ModelMatch, ModelRule, ModelRules, ModelTarget};

impl Resolver<'_> {
    pub(super) fn models(&mut self, specs: Vec<Option<ModelRuleSpec>>, path: &FieldPath) -> ModelRules {
        let mut rules = Vec::with_capacity(specs.len());
        for (at, spec) in specs.into_iter().enumerate() {
            let Some(spec) = spec else { continue };
            rules.extend(self.rule(spec, at, &path.item(at)));
        }
        ModelRules::new(rules)
    }

    fn rule(&mut self, spec: ModelRuleSpec, at: usize, path: &FieldPath) -> Option<ModelRule> {
        if spec.targets.is_empty() && spec.priority.is_none() && !self.problems.any_under(path) {
            self.problems.add(path.clone(), "`targets` or `priority` is needed: the rule says nothing");
        }
        let is_for_all = spec.matches.is_empty();
        let matches = self.matches(spec.matches, &path.member("matches"));
        // A rule of which nothing that it matches is understood is for none, and by no means for all.
        if matches.is_empty() && !is_for_all {
            return None;
        }
        let targets = self.targets(spec.targets, &path.member("targets"));
        Some(ModelRule { name: format!("models[{at}]").into(), matches, targets, priority: spec.priority })
    }

    fn matches(&mut self, specs: Vec<Option<ModelMatchSpec>>, path: &FieldPath) -> Vec<ModelMatch> {
        let mut matches = Vec::with_capacity(specs.len());
        for (at, spec) in specs.into_iter().enumerate() {
            let path = path.item(at);
            // What a newer version asks for beside this would make the entry narrower: without it, it would match too much.
            let is_ignored = matches!(&*self.unknown, UnknownFields::Tolerate(ignored) if ignored.any_under(&path));
            let Some(spec) = spec.filter(|_| !is_ignored) else { continue };
            let headers = self.headers(spec.headers, &path.member("headers"));
            matches.push(ModelMatch { model: spec.model.map(Into::into), headers });
        }
        matches
    }

    fn headers(&mut self, specs: Vec<Option<HeaderMatchSpec>>, path: &FieldPath) -> Vec<HeaderMatch> {
        let mut headers: Vec<HeaderMatch> = Vec::with_capacity(specs.len());
        for (at, spec) in specs.into_iter().enumerate() {
            let Some(spec) = spec else { continue };
            let path = path.item(at).member("name");
            let name = spec.name.to_ascii_lowercase();
            if DESTINATIONS.contains(&name.as_str()) || CONTROLS.contains(&name.as_str()) {
                let message = format!("{name} steers gateway and picker: what clients say in it is dropped");
                self.problems.add(path, message);
            } else if headers.iter().any(|header| *header.name == *name) {
                self.problems.add(path, format!("{:?} is asked for twice in one entry", shortened(&name)));
            } else {
                headers.push(HeaderMatch { name: name.into(), value: spec.value.into() });
            }
        }
        headers
    }

    fn targets(&mut self, specs: Vec<Option<ModelTargetSpec>>, path: &FieldPath) -> Vec<ModelTarget> {
        let weighted = specs.iter().flatten().filter(|spec| spec.weight.is_some()).count();
        if weighted != 0 && weighted != specs.len() && !self.problems.any_under(path) {
            let message = format!("{weighted} of {} have a weight: give one to all of them, or to none", specs.len());
            self.problems.add(path.clone(), message);
        }
        let mut targets = Vec::with_capacity(specs.len());
        for (at, spec) in specs.into_iter().enumerate() {
            let Some(spec) = spec else { continue };
            let endpoints = spec.endpoint_selector.and_then(|selector| {
                let path = path.item(at).member("endpointSelector");
                self.selector(selector, &path)
            });
            let model = spec.model.map(|model| Model::new(&model));
            targets.push(ModelTarget { model, weight: spec.weight.unwrap_or(0), endpoints });
        }
        targets
    }

    fn selector(&mut self, selector: Value, path: &FieldPath) -> Option<LabelSelector> {
        if self.problems.any_under(path) {
            return None;
        }
        match LabelSelector::deserialize(selector) {
            Ok(selector) => {
                if let Err(refused) = selector.validate() {
                    self.problems.add(path.join(&refused.field), refused.message);
                }
                Some(selector)
            }
            Err(error) => {
                self.problems.add(path.clone(), error.to_string());
                None
            }
        }
    }
}
