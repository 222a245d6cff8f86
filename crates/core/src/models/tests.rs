//! Claims about rules for models, up to what a pick makes of them.

use std::time::Duration;

use rand::SeedableRng;
use serde_json::json;

use super::*;
use crate::config::{FieldPath, UnknownFields, validate};
use crate::decision::{Decision, Picked};
use crate::endpoint::Endpoint;
use crate::explanation::{Explanation, Fate};
use crate::load::{Adapters, Load};
use crate::pool::tests::{PoolFixture, endpoint};
use crate::prefix::PrefixBlock;
use crate::reason::Reason;
use crate::registry::Registry;

/// Headers that a request has.
#[derive(Debug)]
struct Has(&'static [(&'static str, &'static str)]);

impl RequestHeaders for Has {
    fn has(&self, name: &str, value: &str) -> bool {
        self.0.contains(&(name, value))
    }
}

fn policy(models: serde_json::Value) -> Policy {
    let raw = json!({"models": models, "profile": {"scorers": [{"type": "prefix-cache-scorer"}]}});
    validate(&raw, &Registry::default(), &FieldPath::default(), &mut UnknownFields::Refuse).unwrap()
}

fn asks(model: &str) -> Facts {
    Facts { model: Some(Model::new(model)), ..Facts::default() }
}

/// A prompt of `len` blocks as it is hashed for a model.
fn prompt(model: &str, len: u32) -> Facts {
    let model = Model::new(model);
    let block = |n: u32| PrefixBlock { hash: 1000 + u64::from(n), tokens: 64 * n }.for_other_model(0, model.hash);
    Facts { prefix: (1..=len).map(block).collect(), model: Some(model), ..Facts::default() }
}

fn request<'a>(facts: &'a Facts, headers: &'a Has) -> Request<'a> {
    Request { facts, subset: &None, headers: Some(headers) }
}

fn random() -> SmallRng {
    SmallRng::seed_from_u64(5)
}

fn picked(fixture: &PoolFixture, facts: &Facts) -> Picked {
    match fixture.pick(facts, None) {
        Decision::Picked(picked) => picked,
        Decision::Nothing(reason) => panic!("nothing picked: {reason}"),
    }
}

fn newest(fixture: &PoolFixture) -> Explanation {
    fixture.pool.explanations(1, None).remove(0)
}

/// A pool of which the endpoints from `from` on have the label `version: v3`.
fn labelled(len: usize, from: usize, policy: Policy) -> PoolFixture {
    let mut fixture = PoolFixture::new(0, policy);
    let label = |row: usize| match row < from {
        true => endpoint(row),
        false => Endpoint { labels: [("version".into(), "v3".into())].into(), ..endpoint(row) },
    };
    fixture.writer.set_members((0..len).map(label));
    fixture.writer.publish();
    fixture
}

#[test]
fn the_first_rule_that_fits_counts() {
    let policy = policy(json!([
        {"matches": [{"model": "chat", "headers": [{"name": "X-Beta", "value": "1"}, {"name": "x-team", "value": "a"}]}],
         "targets": [{"model": "both"}]},
        {"matches": [{"model": "chat"}, {"model": "talk"}], "targets": [{"model": "chat-v2"}]},
        {"matches": [{"headers": [{"name": "x-beta", "value": "1"}]}, {"model": "old"}], "targets": [{"model": "beta"}]},
        {"matches": [{"model": "same"}], "targets": [{"model": "same"}]},
        {"matches": [{"model": "left-alone"}], "targets": [{}]},
        {"targets": [{"model": "rest"}]},
        {"matches": [{"model": "late"}], "targets": [{"model": "never"}]},
    ]));
    assert!(policy.models.reads_headers());
    for (model, headers, target, rule) in [
        ("chat", &[][..], Some("chat-v2"), 1),
        ("talk", &[], Some("chat-v2"), 1),
        ("chat", &[("x-beta", "1")], Some("chat-v2"), 1),
        ("chat", &[("x-beta", "1"), ("x-team", "a")], Some("both"), 0),
        ("chat", &[("x-beta", "1"), ("x-team", "b")], Some("chat-v2"), 1),
        ("talk", &[("x-beta", "1"), ("x-team", "a")], Some("chat-v2"), 1),
        ("any", &[("x-beta", "1")], Some("beta"), 2),
        ("any", &[("x-beta", "2")], Some("rest"), 5),
        ("old", &[], Some("beta"), 2),
        ("same", &[], None, 3),
        ("same", &[("x-beta", "1")], Some("beta"), 2),
        ("left-alone", &[], None, 4),
        ("late", &[], Some("rest"), 5),
        ("Chat", &[], Some("rest"), 5),
    ] {
        let (facts, headers) = (asks(model), Has(headers));
        let route = route(&policy, request(&facts, &headers), &mut random());
        assert_eq!(route.target().map(|model| &*model.name), target, "{model} {headers:?}");
        assert_eq!(&*route.rule.unwrap().name, format!("models[{rule}]"), "{model} {headers:?}");
        assert_eq!(route.facts.is_some(), target.is_some(), "nothing is copied where nothing changes");
    }
}

#[test]
fn a_request_whose_model_or_headers_were_not_read_is_not_touched_by_what_asks_for_them() {
    let all = policy(json!([{"targets": [{"model": "x", "endpointSelector": {"matchLabels": {"a": "b"}}}]}]));
    let route_of_none = route(&all, request(&Facts::default(), &Has(&[])), &mut random());
    assert!(route_of_none.target().is_none() && route_of_none.rule.is_none() && route_of_none.selector().is_none());
    let header = json!([{"matches": [{"headers": [{"name": "x", "value": "1"}]}], "targets": [{"model": "x"}]}]);
    let (policy, facts) = (policy(header), asks("chat"));
    let request = Request { facts: &facts, subset: &None, headers: None };
    assert!(route(&policy, request, &mut random()).rule.is_none());
}

#[test]
fn targets_are_drawn_by_their_weights_and_alike_without() {
    let targets = |weights: &[u32]| {
        let target = |(at, weight): (usize, &u32)| ModelTarget {
            model: Some(Model::new(&at.to_string())),
            weight: *weight,
            endpoints: None,
        };
        weights.iter().enumerate().map(target).collect::<Vec<_>>()
    };
    const DRAWS: u32 = 20_000;
    for (weights, shares) in [
        (&[90, 10][..], &[0.9, 0.1][..]),
        (&[0, 0, 0, 0], &[0.25; 4]),
        (&[1_000_000, 0, 1_000_000], &[0.5, 0.0, 0.5]),
        (&[7], &[1.0]),
        (&[0], &[1.0]),
        (&[u32::MAX; 3], &[1.0 / 3.0; 3]),
    ] {
        let rule = ModelRule { targets: targets(weights), ..ModelRule::default() };
        let (mut random, mut drawn) = (random(), vec![0_u32; weights.len()]);
        for _ in 0..DRAWS {
            let target = rule.draw(&mut random).unwrap().model.as_ref().unwrap();
            drawn[target.name.parse::<usize>().unwrap()] += 1;
        }
        for (drawn, share) in drawn.iter().zip(shares) {
            let expected = f64::from(DRAWS) * share;
            // Four standard deviations of a binomial.
            let tolerance = 4.0 * (expected * (1.0 - share)).sqrt();
            assert!((f64::from(*drawn) - expected).abs() <= tolerance, "{weights:?}: {drawn} for {expected}");
        }
    }
    assert!(ModelRule::default().draw(&mut random()).is_none());
}

#[test]
fn an_objective_goes_before_the_rule_and_the_rule_before_nothing() {
    let mut policy = policy(json!([
        {"matches": [{"model": "critical"}], "priority": 7},
        {"matches": [{"model": "plain"}], "targets": [{"model": "other"}]},
    ]));
    policy.objectives = [("urgent".into(), 100), ("idle".into(), -1), ("zero".into(), 0)].into();
    let fixture = PoolFixture::new(1, policy);
    for (model, objective, priority) in [
        (Some("critical"), None, 7),
        (Some("critical"), Some("urgent"), 100),
        (Some("critical"), Some("zero"), 0),
        (Some("critical"), Some("unknown"), 7),
        (Some("plain"), None, 0),
        (Some("plain"), Some("idle"), -1),
        (Some("none-of-them"), Some("urgent"), 100),
        (Some("none-of-them"), Some("unknown"), 0),
        (None, Some("idle"), -1),
        (None, None, 0),
    ] {
        let facts = Facts { model: model.map(Model::new), objective: objective.map(Into::into), ..Facts::default() };
        drop(picked(&fixture, &facts));
        let why = newest(&fixture);
        assert_eq!((why.priority, why.objective.as_deref()), (priority, objective), "{model:?} {objective:?}");
        let policy = &fixture.pool.snapshot().policy;
        let route = route(policy, Request { facts: &facts, subset: &None, headers: None }, &mut random());
        let seen = route.facts.as_ref().unwrap_or(&facts).priority;
        assert_eq!(seen, priority, "scorers see it: {model:?} {objective:?}");
    }
}

#[test]
fn the_served_model_decides_who_holds_the_prefix() {
    let models = json!([
        {"matches": [{"model": "chat"}, {"model": "alias"}], "targets": [{"model": "chat-v2"}]},
        {"matches": [{"model": "other"}], "targets": [{"model": "chat-v3"}]},
    ]);
    let fixture = PoolFixture::new(3, policy(models));
    let mut first = picked(&fixture, &prompt("chat", 20));
    assert_eq!(first.model.as_ref().map(|model| &*model.name), Some("chat-v2"));
    let home = first.decode.choices[0].endpoint.address;
    first.flight.response_began();
    drop(first);
    for (asked, matched) in [("chat", 1280), ("alias", 1280), ("chat-v2", 1280), ("other", 0), ("chat-v3", 0)] {
        let picked = picked(&fixture, &prompt(asked, 20));
        assert_eq!(picked.matched_tokens, matched, "{asked}");
        assert!(matched == 0 || picked.decode.choices[0].endpoint.address == home, "{asked}");
    }
}

#[test]
fn a_prediction_for_the_served_model_is_taken_back_as_it_was_made() {
    let models = json!([{"matches": [{"model": "chat"}], "targets": [{"model": "chat-v2"}]}]);
    let fixture = PoolFixture::new(1, policy(models));
    drop(picked(&fixture, &prompt("chat", 20)));
    assert_eq!(picked(&fixture, &prompt("chat-v2", 20)).matched_tokens, 0);
}

#[test]
fn the_served_model_is_the_adapter_that_is_looked_for() {
    let models = json!([{"matches": [{"model": "chat"}], "targets": [{"model": "lora-b"}]}]);
    let raw = json!({"models": models, "profile": {"scorers": [{"type": "lora-affinity-scorer"}]}});
    let policy = validate(&raw, &Registry::default(), &FieldPath::default(), &mut UnknownFields::Refuse).unwrap();
    let mut fixture = PoolFixture::new(3, policy);
    for (row, adapter) in ["lora-a", "lora-b", "chat"].into_iter().enumerate() {
        let adapters = Some(Arc::new(Adapters::new(1, [adapter], [])));
        fixture.report_load(row, Load { adapters, ..Load::default() });
    }
    fixture.advance(Duration::from_millis(1));
    assert_eq!(&*picked(&fixture, &asks("chat")).decode.choices[0].endpoint.name, "b0");
    assert_eq!(&*picked(&fixture, &asks("lora-a")).decode.choices[0].endpoint.name, "a0");
}

#[test]
fn a_targets_endpoints_are_the_only_candidates_and_none_of_them_is_a_reason() {
    let models = json!([{
        "matches": [{"model": "chat"}],
        "targets": [{"model": "chat-v3", "endpointSelector": {"matchLabels": {"version": "v3"}}}],
    }]);
    let fixture = labelled(5, 3, policy(models.clone()));
    for _ in 0..20 {
        let picked = picked(&fixture, &asks("chat"));
        let names: Vec<_> = picked.decode.choices.iter().map(|choice| &*choice.endpoint.name).collect();
        assert!(names.iter().all(|name| ["d0", "e0"].contains(name)) && names.len() == 2, "{names:?}");
    }
    let why = newest(&fixture);
    assert_eq!((why.model.as_deref(), why.target_model.as_deref()), (Some("chat"), Some("chat-v3")));
    assert_eq!(why.model_rule.as_deref(), Some("models[0]"));
    let left_out = why.rows.iter().filter(|row| row.fate == Fate::FilteredOut("models[0]".into())).count();
    assert_eq!(left_out, 3);
    assert_eq!(
        picked(&fixture, &asks("chat-v3")).decode.choices.len(),
        3,
        "asked by its own name it is any endpoint's"
    );
    assert_eq!((newest(&fixture).target_model, newest(&fixture).model_rule), (None, None));

    let fixture = labelled(5, 5, policy(models));
    let decision = fixture.pick(&asks("chat"), None);
    assert!(matches!(decision, Decision::Nothing(Reason::FilteredOut)), "{decision:?}");
    assert_eq!(newest(&fixture).target_model.as_deref(), Some("chat-v3"));
}

#[test]
fn a_pool_splits_as_its_policy_of_the_moment_says() {
    let split = |weights: [u32; 2]| {
        let [a, b] = weights;
        policy(json!([{"targets": [{"model": "a", "weight": a}, {"model": "b", "weight": b}]}]))
    };
    let mut fixture = PoolFixture::new(1, split([90, 10]));
    let count = |fixture: &PoolFixture| {
        (0..2_000).filter(|_| picked(fixture, &asks("chat")).model.is_some_and(|model| &*model.name == "a")).count()
    };
    let first = count(&fixture);
    assert!((1_740..1_860).contains(&first), "{first}");
    fixture.writer.set_policy(Arc::new(split([1, 999_999])));
    fixture.writer.publish();
    let then = count(&fixture);
    assert!(then < 5, "{then}");
}
