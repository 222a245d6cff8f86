use super::*;
use pointsman_k8s::api::PoolGroup;

fn object(uid: &str) -> Regarding {
    Regarding::pool(PoolGroup::Stable, ObjectKey::new("ns", "chat"), uid.into())
}

fn unheard(slots: impl IntoIterator<Item = u32>) -> Vec<Unheard> {
    let one = |slot| Unheard {
        id: EndpointId { slot, generation: 0 },
        name: format!("gpu-{slot}").into(),
        error: "refused".into(),
    };
    slots.into_iter().map(one).collect()
}

#[test]
fn each_pool_is_told_who_leads_once() {
    let mut notices = OwnNotices::new("picker-0", HaMode::ActiveActive);
    assert_eq!(notices.know(object("a")), None, "it does not lead yet");
    assert_eq!(notices.holds(false), []);
    let told = notices.holds(true);
    assert_eq!((told.len(), told[0].reason), (1, NoticeReason::BecameLeader));
    assert!(told[0].message.starts_with("picker-0 writes statuses"), "{}", told[0].message);
    assert_eq!(notices.holds(true), []);
    assert_eq!(notices.know(object("a")), None);
    // Recreated, it is an object that was not told.
    assert!(notices.know(object("b")).is_some());
    notices.holds(false);
    notices.forget(&ObjectKey::new("ns", "chat"));
    assert_eq!(notices.holds(true), []);
}

#[test]
fn failing_scrapes_are_told_when_they_get_worse() {
    let mut known = Known { object: object("a"), told: HashSet::new() };
    assert_eq!(known.scrapes(&[], 5), None);
    let told = known.scrapes(&unheard([1]), 5).expect("one fails");
    assert_eq!(told.reason, NoticeReason::ScrapeFailing);
    assert!(told.message.starts_with("1 of 5 endpoints") && told.message.ends_with("gpu-1: refused"), "{told:?}");
    assert_eq!(known.scrapes(&unheard([1]), 5), None);
    let told = known.scrapes(&unheard(1..=5), 5).expect("more fail");
    assert!(told.message.ends_with("gpu-3: refused; and 2 more"), "{told:?}");
    assert_eq!(known.scrapes(&unheard([2]), 5), None, "it got better");
    assert!(known.scrapes(&unheard([1, 2]), 5).is_some(), "it got worse again");
}
