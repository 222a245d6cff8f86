//! SchedulingPolicies: which is in force, what is thought of the others, and what is told of that.

use serde_json::json;

use super::fixture::*;
use super::*;

const POLICY: SubjectKind = SubjectKind::SchedulingPolicy;

fn version(generation: i64, patch: serde_json::Value) -> Sight {
    let Sight::Policy(Observed::Put(key, mut kept)) = policy("p", 0, patch) else { unreachable!() };
    kept.identity.generation = generation;
    Sight::Policy(Observed::Put(key, kept))
}

#[test]
fn the_oldest_policy_counts_and_the_others_say_so() {
    let mut world = World::with([pool("chat", json!({})), policy("b", 2, json!({"fallbacks": 4}))]);
    assert_eq!(world.pool("chat").tuned.fallbacks, 4);
    assert_eq!(world.judged(POLICY, "b"), Some((Reason::Accepted, "in force for the pool default/chat")));
    let told = world.see([policy("z", 1, json!({"fallbacks": 1}))]);
    assert_eq!(world.pool("chat").tuned.fallbacks, 1);
    let conflict = "default/z is older and is in force for the pool default/chat";
    assert_eq!(world.judged(POLICY, "b"), Some((Reason::Conflicted, conflict)));
    let reasons: Vec<_> = told.notices.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(reasons, [NoticeReason::PolicyConflicted, NoticeReason::PolicyApplied]);
    assert_eq!(told.notices[0].1, format!("SchedulingPolicy b: {conflict}"));
    // Of two that are as old, by name; and a younger one that is wrong is in conflict, no more.
    let told = world.see([policy("a", 1, json!({"fallbacks": 3})), policy("b", 2, json!({"fallbacks": "many"}))]);
    assert_eq!(world.pool("chat").tuned.fallbacks, 3);
    assert!(told.notices.iter().all(|(reason, _)| *reason != NoticeReason::PolicyRejected), "{told:?}");
    world.see([
        gone(policy("a", 1, json!({}))),
        gone(policy("z", 1, json!({}))),
        policy("b", 2, json!({"fallbacks": 4})),
    ]);
    assert_eq!(world.pool("chat").tuned.fallbacks, 4);
    assert_eq!(world.judged(POLICY, "z"), None);
    let told = world.see([gone(policy("b", 2, json!({})))]);
    assert_eq!((world.pool("chat").tuned.fallbacks, told.notices), (pointsman_core::policy::DEFAULT_FALLBACKS, vec![]));
}

#[test]
fn a_version_that_is_wrong_waits_and_the_last_good_one_stays() {
    let listed = slice("s", json!([address("192.0.2.1", json!({}))]), json!({}));
    let good = json!({"fallbacks": 1, "service": {"name": "chat"}});
    let mut world = World::with([pool("chat", json!({})), pod("a", json!({})), listed, version(1, good.clone())]);
    let wrong = json!({"fallbacks": "many", "profile": {"picker": {"type": "max-skore"}}, "service": {"name": "chat"}});
    let told = world.see([version(2, wrong)]);
    assert_eq!(told.changed, [""; 0]);
    assert_eq!((world.pool("chat").tuned.fallbacks, world.addresses()), (1, vec!["192.0.2.1:8000".to_owned()]));
    let (reason, message) = world.judged(POLICY, "p").unwrap();
    assert_eq!(reason, Reason::Invalid);
    assert!(world.verdicts.values().all(|verdict| verdict.is_refusal()));
    assert!(message.contains("spec.fallbacks: ") && message.contains("spec.profile.picker.type: "), "{message}");
    let stays = "; its last good scheduling stays in force, with the members of the Service chat";
    assert!(message.ends_with(stays), "{message}");
    assert_eq!(told.notices, [(NoticeReason::PolicyRejected, format!("SchedulingPolicy p: {message}"))]);
    assert_eq!(world.verdicts.values().map(|verdict| verdict.generation).collect::<Vec<_>>(), [2]);
    // What else tunes the pool changes meanwhile, and nothing is told twice.
    let told = world.see([objective(ModelGroup::LlmD, "high", json!({"priority": 1}))]);
    assert_eq!((told.changed.len(), told.notices.len(), world.pool("chat").tuned.fallbacks), (1, 0, 1));
    // As it was before.
    let told = world.see([version(3, good)]);
    assert_eq!(told.changed, [""; 0]);
    assert_eq!(told.notices[0].0, NoticeReason::PolicyApplied);
    assert_eq!(world.judged(POLICY, "p").unwrap().0, Reason::Accepted);
    assert!(!world.verdicts.values().any(|verdict| verdict.is_refusal()));
}

#[test]
fn a_policy_that_was_never_good_leaves_the_defaults() {
    let mut world = World::with([pool("chat", json!({})), version(1, json!({"fallbacks": 99}))]);
    assert_eq!(world.pool("chat").tuned.fallbacks, pointsman_core::policy::DEFAULT_FALLBACKS);
    let (_, message) = world.judged(POLICY, "p").unwrap();
    assert!(
        message.starts_with("spec.fallbacks: 99 ") && message.ends_with("; the defaults are in force"),
        "{message}"
    );
    // One made anew under the name inherits nothing of the last good version.
    world.see([version(2, json!({"fallbacks": 1}))]);
    let Sight::Policy(Observed::Put(key, mut anew)) = version(1, json!({"fallbacks": 99})) else { unreachable!() };
    anew.identity.uid = "next".into();
    world.see([Sight::Policy(Observed::Put(key, anew))]);
    assert_eq!(world.pool("chat").tuned.fallbacks, pointsman_core::policy::DEFAULT_FALLBACKS);
}

#[test]
fn a_refused_policy_names_the_members_all_the_same_to_every_replica() {
    let slices = || {
        let of = |service: &str, ip: &str| {
            let labels = json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}});
            slice(service, json!([address(ip, json!({}))]), labels)
        };
        [pool("chat", json!({})), pod("a", json!({})), of("chat", "192.0.2.1"), of("second", "192.0.2.2")]
    };
    let mut running = World::with(slices());
    running.see([version(1, json!({"fallbacks": 1, "service": {"name": "chat"}}))]);
    for (generation, service, expected) in [
        (2, json!({"name": "chat"}), "192.0.2.1:8000"),
        (3, json!({"name": "second"}), "192.0.2.2:8000"),
        (4, json!(null), "10.0.0.1:8000"),
    ] {
        let refused = || version(generation, json!({"fallbacks": "many", "service": service}));
        running.see([refused()]);
        let mut restarted = World::with(slices());
        restarted.see([refused()]);
        for world in [&running, &restarted] {
            assert_eq!(world.addresses(), [expected], "{service}");
            let (reason, message) = world.judged(POLICY, "p").unwrap();
            let told = service["name"].as_str().map(|name| format!(", with the members of the Service {name}"));
            assert_eq!(reason, Reason::Invalid);
            assert!(message.ends_with(told.as_deref().unwrap_or("in force")), "{message}");
        }
        assert_eq!((running.pool("chat").tuned.fallbacks, restarted.pool("chat").tuned.fallbacks), (1, 2));
    }
}

#[test]
fn a_younger_policy_is_not_told_that_a_refused_one_is_in_force() {
    let mut world =
        World::with([pool("chat", json!({})), version(1, json!({"fallbacks": 99})), policy("young", 1, json!({}))]);
    let conflict = "default/p is older and counts, though its scheduling is refused, for the pool default/chat";
    assert_eq!(world.judged(POLICY, "young"), Some((Reason::Conflicted, conflict)));
    world.see([version(2, json!({"fallbacks": 1}))]);
    let conflict = "default/p is older and is in force for the pool default/chat";
    assert_eq!(world.judged(POLICY, "young"), Some((Reason::Conflicted, conflict)));
}

#[test]
fn fields_that_this_version_does_not_know_are_passed_over_and_named() {
    let world = World::with([pool("chat", json!({})), policy("p", 0, json!({"fallbacks": 1, "teleport": true}))]);
    assert_eq!(world.pool("chat").tuned.fallbacks, 1);
    let (reason, message) = world.judged(POLICY, "p").unwrap();
    assert_eq!(reason, Reason::UnknownFields);
    assert!(message.starts_with("in force, but this picker does not know: spec.teleport: "), "{message}");
}

#[test]
fn a_policy_is_told_which_of_its_pools_are_not_there() {
    let both = json!({"targetRefs": [target("chat"), target("missing")]});
    let mut world = World::with([pool("chat", json!({})), policy("p", 0, both)]);
    let says = |world: &World| match &world.verdicts.values().next().unwrap().says {
        Says::Ancestors(pools) => {
            pools.iter().map(|(pool, j)| (pool.key.name.to_string(), j[0].reason)).collect::<Vec<_>>()
        }
        says => panic!("{says:?}"),
    };
    assert_eq!(says(&world), [("chat".into(), Reason::Accepted), ("missing".into(), Reason::TargetNotFound)]);
    world.see([pool("missing", json!({}))]);
    assert_eq!(says(&world), [("chat".into(), Reason::Accepted), ("missing".into(), Reason::Accepted)]);
    world.see([gone(pool("chat", json!({})))]);
    assert_eq!(says(&world), [("chat".into(), Reason::TargetNotFound), ("missing".into(), Reason::Accepted)]);
    // What it targets no longer is left out, and what is beyond the scope is not ours to judge.
    world.see([policy("p", 0, json!({"targetRefs": []}))]);
    assert_eq!(says(&world), []);
    let mut world = World::of(Scope::Pool(ObjectKey::new(NAMESPACE, "chat")));
    world.see([pool("chat", json!({})), policy("p", 0, json!({"targetRefs": [target("chat"), target("missing")]}))]);
    assert_eq!(says(&world), [("chat".into(), Reason::Accepted)]);
}

#[test]
fn a_policy_is_for_the_pool_of_the_group_that_it_names() {
    let mut world = World::with([old_pool("chat", json!({})), policy("p", 0, json!({"fallbacks": 1}))]);
    assert_eq!(world.judged(POLICY, "p").unwrap().0, Reason::TargetNotFound);
    assert_eq!(world.pool("chat").tuned.fallbacks, 2);
    let old = json!({"group": EXPERIMENTAL.as_str(), "kind": "InferencePool", "name": "chat"});
    let for_old = json!({"fallbacks": 1, "targetRefs": [old]});
    world.see([policy("p", 0, for_old)]);
    assert_eq!(world.judged(POLICY, "p").unwrap().0, Reason::Accepted);
    // There is one in its group still, but another counts.
    world.see([pool("chat", json!({}))]);
    let (reason, message) = world.judged(POLICY, "p").unwrap();
    assert_eq!(reason, Reason::TargetNotFound);
    assert!(message.contains("inference.networking.k8s.io counts"), "{message}");
    for target in [
        json!({"group": "example.com", "kind": "InferencePool", "name": "chat"}),
        json!({"group": STABLE.as_str(), "kind": "Service", "name": "chat"}),
    ] {
        world.see([policy("p", 0, json!({"targetRefs": [target]}))]);
        assert_eq!(world.judged(POLICY, "p"), None);
    }
}

#[test]
fn policies_of_another_namespace_are_nobodys() {
    let Sight::Policy(Observed::Put(_, mut kept)) = policy("p", 0, json!({"fallbacks": 1})) else { unreachable!() };
    kept.identity.key = ObjectKey::new("elsewhere", "p");
    let world = World::with([pool("chat", json!({})), Sight::Policy(Observed::Put(kept.identity.key.clone(), kept))]);
    assert_eq!(world.pool("chat").tuned.fallbacks, 2);
}
