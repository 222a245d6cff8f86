//! Pods that a pool's selector picks.

use serde_json::{Value, json};

use super::fixture::*;
use super::*;

const NOTHING: [&str; 0] = [];

fn zone(placed: Value) -> Sight {
    slice("s", json!([address_of("a", "10.0.0.1", placed)]), json!({}))
}

#[test]
fn a_pod_is_a_member_while_it_is_ready_and_has_an_address() {
    let not_ready = json!([{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]);
    let table: [(Value, &[&str]); 13] = [
        (json!({}), &["10.0.0.1:8000"]),
        (json!({"status": {"podIP": "fd00::1"}}), &["[fd00::1]:8000"]),
        (json!({"status": {"podIP": "10.0.0.2"}}), &["10.0.0.2:8000"]),
        (json!({"status": {"conditions": not_ready}}), &[]),
        (json!({"status": {"conditions": null}}), &[]),
        (json!({"status": {"podIP": null}}), &[]),
        (json!({"status": {"podIP": "nowhere"}}), &[]),
        (json!({"status": {"phase": "Succeeded"}}), &[]),
        (json!({"status": {"phase": "Failed"}}), &[]),
        (json!({"status": null}), &[]),
        (json!({"metadata": {"deletionTimestamp": at(9)}}), &[]),
        (json!({"metadata": {"labels": {"app": "other"}}}), &[]),
        (json!({"metadata": {"labels": null}}), &[]),
    ];
    for (patch, expected) in table {
        let mut world = World::with([pool("chat", json!({})), pod("a", patch.clone())]);
        assert_eq!(world.addresses(), expected, "new: {patch}");
        world.see([pod("a", json!({}))]);
        assert_eq!(world.addresses(), ["10.0.0.1:8000"], "mended: {patch}");
        world.see([pod("a", patch.clone())]);
        assert_eq!(world.addresses(), expected, "changed: {patch}");
        world.see([gone(pod("a", json!({})))]);
        assert_eq!(world.addresses(), NOTHING, "gone: {patch}");
    }
}

#[test]
fn a_pod_serves_on_those_of_the_target_ports_that_it_names() {
    let table: [(Value, &[u16]); 10] = [
        (json!({}), &[8000, 8001, 8002]),
        (json!({"llm-d.ai/active-ports": "8001"}), &[8001]),
        (json!({"inference.networking.k8s.io/active-ports": "8000, 8002"}), &[8000, 8002]),
        (json!({"llm-d.ai/active-ports": "8002,8000"}), &[8000, 8002]),
        (json!({"llm-d.ai/active-ports": "8000,8000"}), &[8000]),
        (json!({"llm-d.ai/active-ports": ""}), &[]),
        (json!({"llm-d.ai/active-ports": "9000"}), &[]),
        (json!({"llm-d.ai/active-ports": "all,,8001,-1,99999,8000-8002"}), &[8001]),
        (json!({"llm-d.ai/active-ports": "8000", "inference.networking.k8s.io/active-ports": "8001"}), &[8000]),
        (json!({"unrelated/active-ports": "8000"}), &[8000, 8001, 8002]),
    ];
    let ports = json!({"spec": {"targetPorts": [{"number": 8000}, {"number": 8001}, {"number": 8002}]}});
    for (annotations, expected) in table {
        let pod = pod("a", json!({"metadata": {"annotations": annotations}}));
        let world = World::with([pool("chat", ports.clone()), pod]);
        let found: Vec<u16> = world.pool("chat").members.iter().map(|endpoint| endpoint.address.port()).collect();
        assert_eq!(found, expected, "{annotations}");
        assert!(world.pool("chat").members.iter().all(|endpoint| endpoint.metrics_port == endpoint.address.port()));
    }
}

#[test]
fn a_pod_says_which_engine_it_runs() {
    let table = [
        (json!({}), None),
        (json!({"inference.networking.k8s.io/engine-type": "sglang"}), Some("sglang")),
        (json!({"llm-d.ai/engine-type": "vllm"}), Some("vllm")),
        (json!({"llm-d.ai/engine-type": "vllm", "inference.networking.k8s.io/engine-type": "sglang"}), Some("vllm")),
    ];
    for (labels, expected) in table {
        let world = World::with([pool("chat", json!({})), pod("a", json!({"metadata": {"labels": labels}}))]);
        assert_eq!(world.member().engine.as_deref(), expected, "{labels}");
    }
}

#[test]
fn what_an_endpoint_says_of_its_pod() {
    let world = World::with([pool("chat", json!({})), pod("a", json!({"metadata": {"labels": {"tier": "fast"}}}))]);
    let member = world.member();
    assert_eq!((&*member.uid, &*member.name, &*member.namespace), ("uid-a", "a", "default"));
    let labels: Vec<_> = member.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(labels, [("app", "chat"), ("tier", "fast")]);
}

#[test]
fn the_newer_of_two_pods_with_one_address_stands_first() {
    // The older one's node is lost, and nobody says that the pod is gone.
    let made = |second| json!({"metadata": {"creationTimestamp": at(second)}});
    for order in [[("old", 1), ("new", 2)], [("new", 2), ("old", 1)]] {
        let mut world = World::with([pool("chat", json!({}))]);
        order.iter().for_each(|(name, second)| _ = world.see([pod(name, made(*second))]));
        let members = &world.pool("chat").members;
        let names: Vec<_> = members.iter().map(|endpoint| &*endpoint.name).collect();
        assert_eq!(names, ["new", "old"]);
        assert!(!members[0].is_same_server(&members[1]), "the one inherits nothing of the other");
        world.see([gone(pod("old", json!({})))]);
        assert_eq!(&*world.member().uid, "uid-new");
    }
}

#[test]
fn a_pod_of_the_same_name_is_another_pod() {
    let next = || pod("a", json!({"metadata": {"uid": "next", "creationTimestamp": at(5)}}));
    // Whether its end was seen or not, and even within the second of its end.
    let in_a_second = || pod("a", json!({"metadata": {"uid": "next"}}));
    let first = || pod("a", json!({}));
    for sights in [vec![gone(first()), next()], vec![next()], vec![in_a_second()], vec![gone(first()), in_a_second()]] {
        let mut world = World::with([pool("chat", json!({})), first()]);
        let before = Arc::clone(world.member());
        world.see(sights);
        assert_eq!(&*world.member().uid, "next");
        assert!(!world.member().is_same_server(&before));
    }
}

#[test]
fn a_pod_that_is_back_before_the_news_is_the_same() {
    let mut world = World::with([pool("chat", json!({})), pod("a", json!({}))]);
    let unready = || pod("a", json!({"status": {"conditions": null}}));
    assert_eq!(world.see([unready(), pod("a", json!({}))]), Settled::default());
    assert_eq!(world.see([gone(unready()), pod("a", json!({}))]), Settled::default());
}

#[test]
fn a_list_takes_out_what_it_does_not_name() {
    let ip = |ip: &str| json!({"status": {"podIP": ip}});
    let mut world = World::with([pool("chat", json!({})), pod("a", ip("10.0.0.1")), pod("b", ip("10.0.0.2"))]);
    let Sight::Pod(Observed::Put(key, facts)) = pod("c", ip("10.0.0.3")) else { unreachable!() };
    let unreadable = vec![ObjectKey::new(NAMESPACE, "b")];
    world.see([Sight::Pod(Observed::All { objects: vec![(key, facts)], unreadable })]);
    assert_eq!(world.addresses(), ["10.0.0.2:8000", "10.0.0.3:8000"]);
    world.see([Sight::Pod(none())]);
    assert_eq!(world.addresses(), NOTHING);
}

#[test]
fn a_slice_adds_where_a_pod_is_and_takes_it_out_when_it_terminates() {
    let placed = |labels: Value| merged(json!({"app": "chat"}), labels);
    let hints = json!({"forZones": [{"name": "east"}, {"name": "west"}]});
    let table = [
        (json!({"zone": "east"}), placed(json!({"topology.kubernetes.io/zone": "east"}))),
        (json!({"nodeName": "n1"}), placed(json!({"kubernetes.io/hostname": "n1"}))),
        (
            json!({"hints": hints}),
            placed(json!({"for-zone.pointsman.dev/east": "true", "for-zone.pointsman.dev/west": "true"})),
        ),
        (json!({"conditions": {"terminating": true}}), Value::Null),
        // Of another pod that has the name, or had it.
        (json!({"zone": "east", "targetRef": {"uid": "earlier"}}), placed(json!({}))),
        (json!({"zone": "east", "targetRef": {"name": "other"}}), placed(json!({}))),
        (json!({"zone": "east", "targetRef": {"namespace": "elsewhere"}}), placed(json!({}))),
        (json!({"zone": "east", "targetRef": {"kind": "Node"}}), placed(json!({}))),
        (json!({"zone": "east", "targetRef": null}), placed(json!({}))),
    ];
    for (patch, expected) in table {
        let check = |world: &World, expected: &Value| {
            let labels = world.pool("chat").members.first().map(|endpoint| json!(endpoint.labels));
            assert_eq!(labels.unwrap_or_default(), *expected, "{patch}");
        };
        let mut world = World::with([pool("chat", json!({})), pod("a", json!({})), zone(patch.clone())]);
        check(&world, &expected);
        check(&World::with([zone(patch.clone()), pod("a", json!({})), pool("chat", json!({}))]), &expected);
        world.see([gone(zone(json!({})))]);
        check(&world, &placed(json!({})));
        world.see([zone(patch.clone())]);
        check(&world, &expected);
        world.see([slice("s", json!([]), json!({}))]);
        check(&world, &placed(json!({})));
    }
}

#[test]
fn several_slices_of_a_pod_say_it_together() {
    let of = |slice_name: &str, patches: &[Value]| {
        let addresses = patches.iter().map(|patch| address_of("a", "10.0.0.1", patch.clone())).collect();
        slice(slice_name, addresses, json!({}))
    };
    let mut world = World::with([pool("chat", json!({})), pod("a", json!({}))]);
    world.see([of("s1", &[json!({"zone": "east"})]), of("s2", &[json!({"zone": "west", "nodeName": "n2"})])]);
    let label = |world: &World, name: &str| world.member().labels.get(name).cloned();
    assert_eq!(label(&world, "topology.kubernetes.io/zone").as_deref(), Some("east"));
    assert_eq!(label(&world, "kubernetes.io/hostname").as_deref(), Some("n2"));
    world.see([gone(of("s1", &[]))]);
    assert_eq!(label(&world, "topology.kubernetes.io/zone").as_deref(), Some("west"));
    // Whoever says that it goes away is believed, be it the first or the last to speak of it.
    let (stays, goes) = (json!({}), json!({"conditions": {"terminating": true}}));
    for patches in [[stays.clone(), goes.clone()], [goes, stays]] {
        world.see([of("s2", &patches)]);
        assert_eq!(world.addresses(), NOTHING);
        world.see([of("s2", &[])]);
        assert_eq!(world.addresses(), ["10.0.0.1:8000"]);
    }
}

#[test]
fn what_a_pod_says_of_itself_outweighs_its_slice_and_its_node() {
    let own = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "own"}}, "spec": {"nodeName": "n1"}});
    let mut world = World::with([pool("chat", json!({})), pod("a", own)]);
    assert_eq!(world.member().labels["kubernetes.io/hostname"], "n1");
    world.see([zone(json!({"zone": "east"}))]);
    assert_eq!(world.member().labels["topology.kubernetes.io/zone"], "own");
}

#[test]
fn a_cordoned_pod_stays_a_member_and_is_told_of() {
    let cordoned = |why: &str| pod("a", json!({"metadata": {"annotations": {"pointsman.dev/cordon": why}}}));
    let mut world = World::with([pool("chat", json!({})), pool("other", json!({})), pod("a", json!({}))]);
    let table = [
        (cordoned("looks wrong"), true, vec![NoticeReason::Cordoned, NoticeReason::NoReadyEndpoints]),
        (cordoned("looks wrong"), true, vec![]),
        (cordoned("still does"), true, vec![NoticeReason::Cordoned]),
        (pod("a", json!({})), false, vec![NoticeReason::Uncordoned, NoticeReason::EndpointsReady]),
        (cordoned(""), true, vec![NoticeReason::Cordoned, NoticeReason::NoReadyEndpoints]),
        // Another pod of the name was never cordoned.
        (pod("a", json!({"metadata": {"uid": "next"}})), false, vec![NoticeReason::EndpointsReady]),
    ];
    for (sight, is_cordoned, notices) in table {
        let told = world.see([sight]);
        assert_eq!(world.member().is_cordoned, is_cordoned);
        assert_eq!(told.notices.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(), notices, "{told:?}");
    }
    let why = &world.see([cordoned("looks wrong")]).notices[0].1;
    assert_eq!(why, "pod a takes no new requests: looks wrong");
}

#[test]
fn what_was_cordoned_before_the_pool_was_told_is_nothing_new() {
    let cordoned = || pod("a", json!({"metadata": {"annotations": {"pointsman.dev/cordon": ""}}}));
    for sights in [[pool("chat", json!({})), cordoned()], [cordoned(), pool("chat", json!({}))]] {
        let reasons: Vec<_> = World::new().see(sights).notices.into_iter().map(|(reason, _)| reason).collect();
        assert_eq!(reasons, [NoticeReason::NoReadyEndpoints]);
    }
}

#[test]
fn endpoints_that_come_and_go_are_told_of_once() {
    let mut world = World::new();
    let reasons = |told: Settled| told.notices.into_iter().map(|(reason, _)| reason).collect::<Vec<_>>();
    assert_eq!(reasons(world.see([pool("chat", json!({}))])), [NoticeReason::NoReadyEndpoints]);
    assert_eq!(reasons(world.see([pod("b", json!({"status": null}))])), []);
    assert_eq!(reasons(world.see([pod("a", json!({}))])), [NoticeReason::EndpointsReady]);
    assert_eq!(reasons(world.see([pod("b", json!({}))])), []);
    assert_eq!(
        reasons(world.see([gone(pod("a", json!({}))), gone(pod("b", json!({})))])),
        [NoticeReason::NoReadyEndpoints]
    );
}
