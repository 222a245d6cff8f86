//! InferenceModels, rewrites and objectives: what becomes of them in a pool's policy.

use pointsman_core::models::ModelRule;
use serde_json::json;

use super::fixture::*;
use super::*;

const LLMD: ModelGroup = ModelGroup::LlmD;
const OLD: ModelGroup = ModelGroup::Experimental;

/// A rule as tests compare it: its name, the model that it is for, its targets with their weights, its priority.
type Rule = (String, String, Vec<(String, u32)>, Option<i32>);

/// The rules of the pool `chat`: what is matched, by which rule, and each target with its weight.
fn rules(sights: impl IntoIterator<Item = Sight>) -> Vec<Rule> {
    let mut index = World::new().index;
    sights.into_iter().for_each(|sight| index.see(sight));
    let policy = index.news().pools.into_iter().find_map(|news| match news {
        PoolNews::Is(picture) => picture.policy,
        PoolNews::Gone(_) => None,
    });
    let described = |rule: &ModelRule| {
        let names = rule.matches.iter().map(|entry| entry.model.as_deref().unwrap_or("*"));
        let target = |target: &pointsman_core::models::ModelTarget| {
            (target.model.as_ref().map_or("*", |model| &*model.name).to_owned(), target.weight)
        };
        let targets = rule.targets.iter().map(target).collect();
        (names.collect::<Vec<_>>().join("|"), rule.name.to_string(), targets, rule.priority)
    };
    policy.unwrap().models.rules().iter().map(described).collect()
}

#[test]
fn a_model_says_who_answers_for_a_name_and_how_important_that_is() {
    let table = [
        (json!({}), 0, vec![]),
        (json!({"criticality": "Critical"}), 1, vec![]),
        (json!({"criticality": "Standard"}), 0, vec![]),
        (json!({"criticality": "Sheddable"}), -1, vec![]),
        (json!({"criticality": "Whatever"}), 0, vec![]),
        (json!({"targetModels": [{"name": "v1"}]}), 0, vec![("v1", 0)]),
        (
            json!({"targetModels": [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]}),
            0,
            vec![("v1", 90), ("v2", 10)],
        ),
        // The API server lets none of these through.
        (json!({"targetModels": [{"name": "v1", "weight": 1}, {"name": "v2"}]}), 0, vec![("v1", 1), ("v2", 0)]),
        (
            json!({"targetModels": [{"name": "v1", "weight": -1}, {"name": "v2", "weight": 5_000_000_000_u64}]}),
            0,
            vec![("v1", 0), ("v2", 0)],
        ),
    ];
    for (patch, priority, targets) in table {
        let found = rules([old_pool("chat", json!({})), model("gpt", 0, patch.clone())]);
        let targets = targets.into_iter().map(|(name, weight)| (name.to_owned(), weight)).collect();
        assert_eq!(found, [("gpt".into(), "InferenceModel default/gpt".into(), targets, Some(priority))], "{patch}");
    }
}

#[test]
fn of_two_models_with_one_name_the_older_counts() {
    let named = |name, second| model(name, second, json!({"modelName": "gpt", "targetModels": [{"name": name}]}));
    let mut world = World::with([old_pool("chat", json!({})), named("b", 1), named("a", 2)]);
    let judged = |world: &World, name| {
        world.judged(SubjectKind::InferenceModel, name).map(|(reason, message)| (reason, message.to_owned()))
    };
    assert_eq!(world.pool("chat").tuned.rules.len(), 1);
    assert_eq!(judged(&world, "b").unwrap().0, Reason::Accepted);
    let message = "spec.modelName: default/b is older and has the same model name".to_owned();
    assert_eq!(judged(&world, "a"), Some((Reason::ModelNameInUse, message)));
    world.see([gone(named("b", 1))]);
    assert_eq!((judged(&world, "a").unwrap().0, judged(&world, "b")), (Reason::Accepted, None));
    // In another pool the name is free, once that is there.
    let of_other = model("c", 3, json!({"modelName": "gpt", "poolRef": {"name": "other"}}));
    world.see([of_other]);
    assert_eq!(judged(&world, "c").unwrap().0, Reason::TargetNotFound);
    world.see([old_pool("other", json!({}))]);
    assert_eq!(judged(&world, "c").unwrap().0, Reason::Accepted);
}

#[test]
fn a_rewrite_that_names_a_model_comes_before_one_for_all_and_an_older_one_before_a_younger() {
    let exact = |model: &str, target: &str| json!({"matches": [{"model": {"value": model}}], "targets": [{"modelRewrite": target}]});
    let generic = |target: &str| json!({"targets": [{"modelRewrite": target}]});
    let found = rules([
        pool("chat", json!({})),
        rewrite(LLMD, "a-young", 2, json!([generic("g2"), exact("m", "y1"), exact("n", "y2")])),
        rewrite(LLMD, "old", 1, json!([exact("m", "o1"), generic("g1"), exact("m", "o2")])),
        rewrite(LLMD, "b-young", 2, json!([exact("m", "z1")])),
        policy("p", 9, json!({"models": [{"matches": [{"model": "own"}], "targets": [{"model": "first"}]}]})),
    ]);
    let targets: Vec<_> = found
        .iter()
        .map(|(matches, name, targets, priority)| {
            assert_eq!(*priority, None);
            (&**matches, &**name, &*targets[0].0)
        })
        .collect();
    assert_eq!(
        targets,
        [
            ("own", "models[0]", "first"),
            ("m", "InferenceModelRewrite default/old rules[0]", "o1"),
            ("m", "InferenceModelRewrite default/old rules[2]", "o2"),
            ("m", "InferenceModelRewrite default/a-young rules[1]", "y1"),
            ("n", "InferenceModelRewrite default/a-young rules[2]", "y2"),
            ("m", "InferenceModelRewrite default/b-young rules[0]", "z1"),
            ("", "InferenceModelRewrite default/old rules[1]", "g1"),
            ("", "InferenceModelRewrite default/a-young rules[0]", "g2"),
        ]
    );
}

#[test]
fn a_match_that_is_not_known_catches_nothing() {
    let of = |kinds: &[&str]| {
        let matches: Vec<_> =
            kinds.iter().map(|kind| json!({"model": {"type": kind, "value": format!("{kind}-value")}})).collect();
        json!([{"matches": matches, "targets": [{"modelRewrite": "t"}]}])
    };
    let table = [
        (of(&["Exact"]), vec!["Exact-value"], None),
        (of(&["Prefix"]), vec![], Some("spec.rules[0].matches: this picker knows matches of the type Exact alone")),
        (
            of(&["Prefix", "Exact"]),
            vec!["Exact-value"],
            Some("spec.rules[0].matches: this picker knows matches of the type Exact alone"),
        ),
    ];
    for (written, expected, complaint) in table {
        let sights = || [pool("chat", json!({})), rewrite(LLMD, "r", 0, written.clone())];
        assert_eq!(rules(sights()).into_iter().map(|rule| rule.0).collect::<Vec<_>>(), expected, "{written}");
        let world = World::with(sights());
        let (reason, message) = world.judged(SubjectKind::InferenceModelRewrite(LLMD), "r").unwrap();
        match complaint {
            None => assert_eq!(reason, Reason::Accepted),
            Some(complaint) => assert_eq!((reason, message), (Reason::Unsupported, complaint)),
        }
    }
}

#[test]
fn targets_of_a_rewrite_keep_their_weights() {
    let table = [
        (json!([{"modelRewrite": "a"}, {"modelRewrite": "b"}]), [("a", 0), ("b", 0)]),
        (json!([{"modelRewrite": "a", "weight": 3}, {"modelRewrite": "b"}]), [("a", 3), ("b", 0)]),
        (json!([{"modelRewrite": "a", "weight": 3}, {"modelRewrite": "b", "weight": 1}]), [("a", 3), ("b", 1)]),
    ];
    for (targets, expected) in table {
        let found = rules([pool("chat", json!({})), rewrite(LLMD, "r", 0, json!([{"targets": targets}]))]);
        assert_eq!(found[0].2, expected.map(|(name, weight)| (name.to_owned(), weight)));
    }
}

#[test]
fn an_objective_gives_its_name_a_priority() {
    let beyond = i64::from(i32::MAX) + 1;
    let mut world = World::with([
        pool("chat", json!({})),
        objective(LLMD, "high", json!({"priority": 10})),
        objective(LLMD, "low", json!({"priority": -5})),
        objective(LLMD, "unset", json!({})),
        objective(LLMD, "beyond", json!({"priority": beyond})),
        objective(LLMD, "of-other", json!({"priority": 1, "poolRef": {"name": "other"}})),
        objective(LLMD, "of-old", json!({"priority": 1, "poolRef": {"group": EXPERIMENTAL.as_str()}})),
    ]);
    let found: Vec<_> =
        world.pool("chat").tuned.objectives.iter().map(|(name, priority)| (&**name, *priority)).collect();
    assert_eq!(found, [("beyond", i32::MAX), ("high", 10), ("low", -5), ("unset", 0)]);
    assert_eq!(world.judged(SubjectKind::InferenceObjective(LLMD), "high").unwrap().0, Reason::Accepted);
    for (name, missing) in [
        ("of-other", "there is no InferencePool default/other in inference.networking.k8s.io"),
        ("of-old", "there is no InferencePool default/chat in inference.networking.x-k8s.io"),
    ] {
        let judged = world.judged(SubjectKind::InferenceObjective(LLMD), name);
        assert_eq!(judged, Some((Reason::TargetNotFound, missing)));
    }
    world.see([gone(objective(LLMD, "high", json!({})))]);
    assert_eq!(world.judged(SubjectKind::InferenceObjective(LLMD), "high"), None);
}

#[test]
fn where_a_kind_is_in_both_groups_the_newer_alone_counts() {
    let generic = |target: &str| json!([{"targets": [{"modelRewrite": target}]}]);
    let mut world = World::with([
        pool("chat", json!({})),
        objective(OLD, "high", json!({"priority": 1})),
        rewrite(OLD, "r", 0, generic("old")),
    ]);
    let objectives = |world: &World| world.pool("chat").tuned.objectives.values().copied().collect::<Vec<_>>();
    assert_eq!((objectives(&world), world.pool("chat").tuned.rules.len()), (vec![1], 1));
    // As soon as the newer one's CRD is there, even with nothing in it.
    world.see([Sight::Objective(LLMD, none())]);
    assert_eq!((objectives(&world), world.pool("chat").tuned.rules.len()), (vec![], 1));
    let superseded = "the cluster has this kind in llm-d.ai too, and what is there counts instead";
    let judged = world.judged(SubjectKind::InferenceObjective(OLD), "high");
    assert_eq!(judged, Some((Reason::Unsupported, superseded)));
    assert_eq!(world.judged(SubjectKind::InferenceModelRewrite(OLD), "r").unwrap().0, Reason::Accepted);
    world.see([Sight::Rewrite(LLMD, none()), objective(LLMD, "high", json!({"priority": 2}))]);
    assert_eq!((objectives(&world), world.pool("chat").tuned.rules.len()), (vec![2], 0));
    assert_eq!(
        world.see([objective(OLD, "high", json!({"priority": 3})), rewrite(OLD, "r", 0, generic("x"))]),
        Settled::default()
    );
}

/// One object of each kind that belongs to one pool, for a pool that `pool_ref` changes.
fn of_each_kind(pool_ref: serde_json::Value) -> [(SubjectKind, Sight); 3] {
    let stable = merged(json!({"group": STABLE.as_str(), "kind": "InferencePool", "name": "chat"}), pool_ref);
    let Sight::Rewrite(group, Observed::Put(key, mut kept)) = rewrite(LLMD, "o", 0, json!([])) else { unreachable!() };
    kept.object.spec.pool_ref = serde_json::from_value(stable.clone()).unwrap();
    [
        (SubjectKind::InferenceModel, model("o", 0, json!({"poolRef": stable}))),
        (SubjectKind::InferenceObjective(LLMD), objective(LLMD, "o", json!({"poolRef": stable}))),
        (SubjectKind::InferenceModelRewrite(LLMD), Sight::Rewrite(group, Observed::Put(key, kept))),
    ]
}

#[test]
fn what_no_longer_has_its_pool_says_so() {
    for at in 0..3 {
        let of = |pool: &str| of_each_kind(json!({"name": pool}))[at].clone();
        let (kind, sight) = of("chat");
        let mut world = World::with([pool("chat", json!({})), sight]);
        let judged = |world: &World| world.judged(kind, "o").map(|(reason, message)| (reason, message.to_owned()));
        let missing = |pool: &str| {
            let message = format!("there is no InferencePool default/{pool} in inference.networking.k8s.io");
            Some((Reason::TargetNotFound, message))
        };
        assert_eq!(judged(&world).unwrap().0, Reason::Accepted);
        world.see([gone(pool("chat", json!({})))]);
        assert_eq!(judged(&world), missing("chat"));
        world.see([old_pool("chat", json!({}))]);
        assert_eq!(judged(&world), missing("chat"), "a pool of the other group is another pool");
        world.see([pool("chat", json!({}))]);
        assert_eq!(judged(&world).unwrap().0, Reason::Accepted);
        world.see([of("other").1]);
        assert_eq!(judged(&world), missing("other"));
        world.see([gone(of("other").1)]);
        assert_eq!(judged(&world), None);
        // What is beyond the scope is not ours to judge.
        let mut world = World::of(Scope::Pool(ObjectKey::new(NAMESPACE, "chat")));
        world.see([of("other").1]);
        assert_eq!(judged(&world), None);
        world.see([of("chat").1]);
        assert_eq!(judged(&world), missing("chat"));
    }
}

#[test]
fn what_names_no_pool_is_refused_by_the_name_of_what_it_names() {
    for (pool_ref, expected) in [
        (
            json!({"group": EXPERIMENTAL.as_str(), "kind": "InferencePoolImport"}),
            "spec.poolRef.kind: InferencePoolImport is not supported: name an InferencePool",
        ),
        (json!({"kind": "Service"}), "spec.poolRef.kind: Service is not supported: name an InferencePool"),
        (
            json!({"group": "example.com"}),
            "spec.poolRef.group: there are no InferencePools in \"example.com\": name one of \
             inference.networking.k8s.io or inference.networking.x-k8s.io",
        ),
    ] {
        for (kind, sight) in of_each_kind(pool_ref) {
            let world = World::with([pool("chat", json!({})), sight]);
            assert_eq!(world.judged(kind, "o"), Some((Reason::Unsupported, expected)));
        }
    }
}
