//! Pools whose membership is a Service, because their policy names one.

use serde_json::{Value, json};

use super::fixture::*;
use super::*;

/// The policy, its `spec.service` being that.
fn of_service(service: Value) -> Sight {
    policy("p", 0, json!({"service": service}))
}

/// A pool of the Service `chat`.
fn world(sights: impl IntoIterator<Item = Sight>) -> World {
    let policy = of_service(json!({"name": "chat"}));
    World::with([pool("chat", json!({})), policy].into_iter().chain(sights))
}

/// Slices written by hand: two servers outside of the cluster, and one that is not ready.
fn by_hand() -> Sight {
    let ports = json!([{"name": "http", "port": 8000}, {"name": "spare", "port": 8001}, {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "any"}]);
    let addresses = json!([
        address("192.0.2.2", json!({"zone": "east"})),
        {"addresses": ["192.0.2.1"]},
        address("192.0.2.3", json!({"conditions": {"ready": false}})),
        {"addresses": ["a.example.com"]},
    ]);
    slice("by-hand", addresses, json!({"ports": ports}))
}

#[test]
fn servers_outside_of_the_cluster_are_members_by_the_slices_that_list_them() {
    let table: [(Value, &[&str]); 6] = [
        (json!({"name": "chat"}), &["192.0.2.1:8000", "192.0.2.1:8001", "192.0.2.2:8000", "192.0.2.2:8001"]),
        (json!({"name": "chat", "port": "http"}), &["192.0.2.1:8000", "192.0.2.2:8000"]),
        (json!({"name": "chat", "port": 8001}), &["192.0.2.1:8001", "192.0.2.2:8001"]),
        (json!({"name": "chat", "port": "grpc"}), &[]),
        (json!({"name": "chat", "port": 70000}), &[]),
        (json!({"name": "other"}), &[]),
    ];
    for (service, expected) in table {
        let mut world = World::with([pool("chat", json!({})), pod("a", json!({})), by_hand()]);
        assert_eq!(world.addresses(), ["10.0.0.1:8000"], "no policy names a Service");
        world.see([of_service(service.clone())]);
        assert_eq!(world.addresses(), expected, "{service}");
        world.see([gone(of_service(json!(null)))]);
        assert_eq!(world.addresses(), ["10.0.0.1:8000"], "back to the selector");
    }
}

#[test]
fn who_such_a_server_is() {
    let world = world([by_hand()]);
    let members = &world.pool("chat").members;
    let [first, _, third, _] = &**members else { panic!("{members:?}") };
    assert_eq!((&*first.name, &*first.uid, &*first.namespace), ("192.0.2.1", "default/chat/192.0.2.1", "default"));
    assert!(first.labels.is_empty());
    assert_eq!(third.labels["topology.kubernetes.io/zone"], "east");
    let ids: BTreeSet<_> = members.iter().map(|endpoint| (&endpoint.uid, endpoint.address.port())).collect();
    assert_eq!(ids.len(), members.len(), "each is one by itself");
}

#[test]
fn addresses_come_and_go_with_their_slices() {
    let of = |ips: &[&str]| ips.iter().map(|ip| address(ip, json!({}))).collect::<Value>();
    let mut world = world([slice("s1", of(&["192.0.2.1"]), json!({}))]);
    let first = Arc::clone(world.member());
    world.see([slice("s2", of(&["192.0.2.2", "192.0.2.1"]), json!({}))]);
    assert_eq!(world.addresses(), ["192.0.2.1:8000", "192.0.2.2:8000"], "an address that two slices list is one");
    assert!(Arc::ptr_eq(&first, &world.pool("chat").members[0]));
    world.see([gone(slice("s1", json!([]), json!({})))]);
    assert_eq!(world.addresses(), ["192.0.2.1:8000", "192.0.2.2:8000"]);
    world.see([slice("s2", of(&["192.0.2.2"]), json!({}))]);
    assert_eq!(world.addresses(), ["192.0.2.2:8000"]);
    let moved = json!({"metadata": {"labels": {"kubernetes.io/service-name": "other"}}});
    world.see([slice("s2", of(&["192.0.2.2"]), moved)]);
    assert_eq!(world.addresses(), [""; 0]);
    world.see([slice("s2", of(&["192.0.2.2"]), json!({}))]);
    world.see([slice("s2", json!([address("192.0.2.2", json!({"conditions": {"terminating": true}}))]), json!({}))]);
    assert_eq!(world.addresses(), [""; 0]);
}

#[test]
fn the_pods_behind_the_addresses_say_the_rest() {
    let engine = json!({"metadata": {"labels": {"llm-d.ai/engine-type": "vllm"}, "annotations": {"pointsman.dev/cordon": "no"}}});
    let listed = || slice("s", json!([address_of("a", "10.0.0.1", json!({"zone": "east"}))]), json!({}));
    // Whichever is seen first; the pod's own selector, ports and readiness are the Service's matter.
    let not_selected = merged(engine, json!({"metadata": {"labels": {"app": "other"}}, "status": null}));
    for is_pod_first in [true, false] {
        let mut sights = [listed(), pod("a", not_selected.clone())];
        if is_pod_first {
            sights.reverse();
        }
        let mut world = world(sights);
        let member = world.member();
        assert_eq!((&*member.uid, &*member.name, member.engine.as_deref()), ("uid-a", "a", Some("vllm")));
        assert_eq!((&*member.labels["app"], &*member.labels["topology.kubernetes.io/zone"]), ("other", "east"));
        assert!(member.is_cordoned);
        let told = world.see([pod("a", json!({}))]);
        let reasons: Vec<_> = told.notices.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(reasons, [NoticeReason::Uncordoned, NoticeReason::EndpointsReady]);
        assert!(!world.member().is_cordoned);
        world.see([gone(pod("a", json!({})))]);
        assert_eq!(world.addresses(), ["10.0.0.1:8000"], "the slice lists it still");
        assert!(!world.member().labels.contains_key("app"));
    }
}

#[test]
fn only_the_pods_of_the_service_are_told_of() {
    let cordoned = |name: &str| pod(name, json!({"metadata": {"annotations": {"pointsman.dev/cordon": ""}}}));
    let mut world =
        world([slice("s", json!([address_of("a", "10.0.0.1", json!({}))]), json!({})), pod("a", json!({}))]);
    world.see([pod("b", json!({"status": {"podIP": "10.0.0.2"}}))]);
    assert_eq!(world.see([cordoned("b")]).notices, [], "it is selected, but no member");
    assert_eq!(world.see([cordoned("a")]).notices.len(), 2);
}

#[test]
fn a_pod_with_an_address_of_each_family_is_one_endpoint() {
    let v4 = || slice("z", json!([address_of("a", "10.0.0.1", json!({}))]), json!({}));
    let v6 = || slice("a", json!([address_of("a", "fd00::1", json!({}))]), json!({"addressType": "IPv6"}));
    for sights in [[v4(), v6()], [v6(), v4()]] {
        assert_eq!(world(sights).addresses(), ["10.0.0.1:8000"]);
    }
    assert_eq!(world([v6()]).addresses(), ["[fd00::1]:8000"]);
}

#[test]
fn servers_whose_pods_are_not_told_apart_are_told_apart() {
    // By hand, and copied from somewhere: without a UID, or of another namespace.
    let vague =
        |ip: &str, patch: Value| address(ip, json!({"targetRef": merged(json!({"kind": "Pod", "name": "a"}), patch)}));
    let addresses = json!([
        vague("192.0.2.1", json!({})),
        vague("192.0.2.2", json!({})),
        vague("192.0.2.3", json!({"uid": "u", "namespace": "elsewhere"})),
    ]);
    let world = world([slice("s", addresses, json!({}))]);
    let uids: Vec<_> = world.pool("chat").members.iter().map(|endpoint| &*endpoint.uid).collect();
    assert_eq!(uids, ["default/chat/192.0.2.1", "default/chat/192.0.2.2", "default/chat/192.0.2.3"]);
}

#[test]
fn of_two_pods_with_one_address_the_newer_stands_first() {
    let made = |second| json!({"metadata": {"creationTimestamp": at(second)}});
    let listed = json!([address_of("old", "10.0.0.1", json!({})), address_of("new", "10.0.0.1", json!({}))]);
    let world = world([slice("s", listed, json!({})), pod("old", made(1)), pod("new", made(2))]);
    let names: Vec<_> = world.pool("chat").members.iter().map(|endpoint| &*endpoint.name).collect();
    assert_eq!(names, ["new", "old"]);
}

#[test]
fn an_endpoint_is_the_same_however_it_became_a_member() {
    let listed = slice("s", json!([address_of("a", "10.0.0.1", json!({}))]), json!({}));
    let mut world = World::with([pool("chat", json!({})), pod("a", json!({})), listed]);
    // The world checks that it is the same, and that nothing else is told than the policy that is named now.
    let told = world.see([of_service(json!({"name": "chat"}))]);
    assert_eq!(told.changed, [""; 0]);
}
