//! Pools that come, change, go and come again.

use serde_json::json;

use super::fixture::*;
use super::*;

#[test]
fn a_changed_selector_or_port_changes_the_members_at_once() {
    let other = || pod("b", json!({"metadata": {"labels": {"app": "other"}}, "status": {"podIP": "10.0.0.2"}}));
    let mut world = World::with([pool("chat", json!({})), pod("a", json!({})), other()]);
    world.see([pool("chat", json!({"spec": {"targetPorts": [{"number": 9000}, {"number": 8000}]}}))]);
    assert_eq!(world.addresses(), ["10.0.0.1:9000", "10.0.0.1:8000"]);
    world.see([pool("chat", json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}}))]);
    assert_eq!(world.addresses(), ["10.0.0.2:8000"]);
    world.see([pool("chat", json!({"spec": {"selector": {"matchLabels": null}}}))]);
    assert_eq!(world.addresses(), [""; 0], "an empty selector selects nothing");
}

#[test]
fn a_changed_picker_alone_is_told_alone() {
    let mut world = World::with([pool("chat", json!({})), pod("a", json!({}))]);
    let picker = |world: &World| world.pool("chat").picker.as_ref().map(ToString::to_string);
    assert_eq!(picker(&world).as_deref(), Some("default/picker"));
    let told = world.see([pool("chat", json!({"spec": {"endpointPickerRef": {"name": "second"}}}))]);
    assert_eq!(told.changed, ["chat"]);
    assert_eq!(picker(&world).as_deref(), Some("default/second"));
    for no_service in [json!(null), json!({"kind": "Function"}), json!({"group": "example.com"})] {
        world.see([pool("chat", json!({"spec": {"endpointPickerRef": no_service}}))]);
        assert_eq!(picker(&world), None);
        world.see([pool("chat", json!({}))]);
    }
    // What no picture shows is no news.
    let unseen =
        json!({"spec": {"appProtocol": "kubernetes.io/h2c", "endpointPickerRef": {"failureMode": "FailOpen"}}});
    world.index.see(pool("chat", unseen));
    assert!(world.index.pools.values().all(|pool| !pool.is_misplaced), "thousands of members stay where they are");
    assert_eq!(world.settle(), Settled::default());
}

#[test]
fn a_pool_that_was_made_anew_is_another_pool() {
    let anew = || pool("chat", json!({"metadata": {"uid": "next"}}));
    // Whether its end was seen or not.
    for sights in [vec![gone(pool("chat", json!({}))), anew()], vec![anew()]] {
        let mut world = World::with([pool("chat", json!({})), pod("a", json!({}))]);
        let told = world.see(sights);
        assert_eq!((told.gone, told.changed), (vec!["chat".to_owned()], vec!["chat".to_owned()]));
        assert_eq!(world.addresses(), ["10.0.0.1:8000"]);
    }
    let mut world = World::with([pool("chat", json!({})), pod("a", json!({}))]);
    assert_eq!(world.see([Sight::Pool(STABLE, none())]).gone, ["chat"]);
    assert_eq!(world.see([anew()]).changed, ["chat"]);
}

#[test]
fn a_pool_that_nobody_was_told_of_does_not_go() {
    let mut world = World::new();
    let anew = pool("chat", json!({"metadata": {"uid": "next"}}));
    assert_eq!(world.see([pool("chat", json!({})), gone(pool("chat", json!({})))]), Settled::default());
    assert_eq!(world.see([pool("chat", json!({})), anew]).gone, [""; 0]);
    let third = pool("chat", json!({"metadata": {"uid": "third"}}));
    let fourth = pool("chat", json!({"metadata": {"uid": "fourth"}}));
    assert_eq!(world.see([third, fourth, gone(pool("chat", json!({})))]).gone, ["chat"]);
}

#[test]
fn of_one_name_in_both_groups_the_stable_one_counts() {
    let mut world = World::with([old_pool("chat", json!({})), pod("a", json!({}))]);
    assert_eq!(world.addresses(), ["10.0.0.1:8100"]);
    let told = world.see([pool("chat", json!({}))]);
    assert_eq!((told.gone, told.changed), (vec!["chat".to_owned()], vec!["chat".to_owned()]));
    assert_eq!(world.addresses(), ["10.0.0.1:8000"]);
    assert_eq!(world.see([old_pool("chat", json!({"spec": {"targetPortNumber": 9}}))]), Settled::default());
    assert_eq!(world.see([gone(old_pool("chat", json!({}))), old_pool("chat", json!({}))]), Settled::default());
    let told = world.see([gone(pool("chat", json!({})))]);
    assert_eq!((told.gone, told.changed), (vec!["chat".to_owned()], vec!["chat".to_owned()]));
    assert_eq!(world.addresses(), ["10.0.0.1:8100"]);
    assert_eq!(world.see([gone(old_pool("chat", json!({})))]).gone, ["chat"]);
}

#[test]
fn pools_beyond_the_scope_are_not_there() {
    let mut world = World::of(Scope::Pool(ObjectKey::new(NAMESPACE, "chat")));
    let elsewhere = pool("chat", json!({"metadata": {"namespace": "elsewhere"}}));
    assert_eq!(world.see([pool("other", json!({})), elsewhere]), Settled::default());
    assert_eq!(world.see([pool("chat", json!({}))]).changed, ["chat"]);
    assert_eq!(world.index.pools(), 1);
    let mut world = World::new();
    assert_eq!(world.see([pool("chat", json!({"metadata": {"namespace": "elsewhere"}}))]), Settled::default());
    assert_eq!(world.see([pool("chat", json!({})), pool("other", json!({}))]).changed, ["chat", "other"]);
}

#[test]
fn pods_of_another_namespace_are_no_members() {
    let world = World::with([pool("chat", json!({})), pod("a", json!({"metadata": {"namespace": "elsewhere"}}))]);
    assert_eq!(world.addresses(), [""; 0]);
}

#[test]
fn a_change_concerns_its_own_pool_alone() {
    let of_other = |ip: &str| pod("o", json!({"metadata": {"labels": {"app": "other"}}, "status": {"podIP": ip}}));
    let mut world =
        World::with([pool("chat", json!({})), pool("other", json!({})), pod("a", json!({})), of_other("10.0.0.9")]);
    assert_eq!(world.see([of_other("10.0.0.8")]).changed, ["other"]);
    assert_eq!(world.see([policy("p", 0, json!({"fallbacks": 1}))]).changed, ["chat"]);
    assert_eq!(world.see([objective(ModelGroup::LlmD, "high", json!({"priority": 3}))]).changed, ["chat"]);
}
