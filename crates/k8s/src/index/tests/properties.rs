//! Whatever is seen, in whatever order and told whenever: what was told adds up to what an index tells that sees the
//! last state at once. That no news are told twice or for nothing, and that what did not change stays the same, is for
//! [`World`] to see.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixture::*;
use super::*;

/// Of each kind there may be so many objects.
const NAMES: [&str; 3] = ["chat", "other", "third"];
/// Objects differ by what this number is divided into.
type Variant = u16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Pod,
    Slice,
    Pool,
    OldPool,
    Policy,
    Model,
    Objective(ModelGroup),
    Rewrite(ModelGroup),
}

#[derive(Clone, Debug)]
enum Step {
    Put(Of, usize, Variant),
    Gone(Of, usize),
    All {
        of: Of,
        objects: BTreeMap<usize, Variant>,
        unreadable: BTreeSet<usize>,
    },
    /// The kind was uninstalled.
    Absent(Of),
    News,
}

/// What a cluster holds, as far as it was seen.
#[derive(Debug, Default)]
struct Model(BTreeMap<Of, BTreeMap<usize, Variant>>);

impl Model {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Put(of, name, variant) => _ = self.0.entry(*of).or_default().insert(*name, *variant),
            Step::Gone(of, name) => _ = self.0.entry(*of).or_default().remove(name),
            Step::All { of, objects, unreadable } => {
                let known = self.0.entry(*of).or_default();
                known.retain(|name, _| unreadable.contains(name));
                known.extend(objects);
            }
            Step::Absent(of) => _ = self.0.remove(of),
            Step::News => {}
        }
    }

    /// An index that is told all of it at once.
    fn world(&self) -> World {
        let mut world = World::new();
        let lists = self
            .0
            .iter()
            .map(|(of, objects)| sight(&Step::All { of: *of, objects: objects.clone(), unreadable: BTreeSet::new() }));
        world.see(lists.flatten());
        world
    }
}

/// One of several, and what is left of the variant for other choices.
fn choose<T: Clone>(variant: &mut Variant, choices: &[T]) -> T {
    let count = choices.len() as Variant;
    let chosen = choices[usize::from(*variant % count)].clone();
    *variant /= count;
    chosen
}

/// An object as it would be put.
fn object(of: Of, name: usize, variant: Variant) -> Sight {
    let name = NAMES[name];
    let rest = &mut variant.clone();
    let mut meta = json!({"generation": variant});
    let (uid, second) = choose(rest, &[("", 1), ("-anew", 1), ("-late", 2)]);
    meta["uid"] = json!(format!("uid-{name}{uid}"));
    match of {
        Of::Pod => {
            meta["creationTimestamp"] = json!(at(second));
            meta["labels"] = json!({"app": choose(rest, &["chat", "other"])});
            meta["annotations"] = choose(rest, &[json!({}), json!({"pointsman.dev/cordon": "why"})]);
            let ready = choose(rest, &["True", "False"]);
            let ip = choose(rest, &["10.0.0.1", "10.0.0.2", "fd00::1"]);
            pod(
                name,
                json!({"metadata": meta, "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}}),
            )
        }
        Of::Slice => {
            meta["labels"] = json!({"kubernetes.io/service-name": choose(rest, &["chat", "other"])});
            let addresses = [
                address_of("chat", "10.0.0.1", json!({"zone": "east"})),
                address_of("chat", "10.0.0.2", json!({"conditions": {"terminating": true}})),
                address_of("chat", "fd00::1", json!({"targetRef": {"uid": "uid-chat-anew"}})),
                address_of("other", "10.0.0.1", json!({"nodeName": "n1"})),
                address_of("third", "10.0.0.3", json!({"targetRef": {"uid": "uid-chat"}})),
                address("10.0.0.2", json!({})),
            ];
            let listed = addresses.into_iter().filter(|_| choose(rest, &[true, false])).collect();
            let ports = choose(
                rest,
                &[
                    json!([{"name": "http", "port": 8000}]),
                    json!([{"name": "http", "port": 9000}, {"name": "x", "port": 8000}]),
                ],
            );
            slice(name, listed, json!({"metadata": meta, "ports": ports}))
        }
        Of::Pool => {
            let labels = json!({"app": choose(rest, &["chat", "other"])});
            let ports =
                choose(rest, &[json!([{"number": 8000}]), json!([{"number": 8000}, {"number": 9000}]), json!([])]);
            let picker = choose(rest, &[json!({"name": "a"}), json!({"name": "b"}), Value::Null]);
            let spec = json!({"selector": {"matchLabels": labels}, "targetPorts": ports, "endpointPickerRef": picker});
            pool(name, json!({"metadata": meta, "spec": spec}))
        }
        Of::OldPool => {
            let spec = json!({"selector": {"app": choose(rest, &["chat", "other"])}});
            old_pool(name, json!({"metadata": meta, "spec": spec}))
        }
        Of::Policy => {
            let old = json!({"group": EXPERIMENTAL.as_str(), "kind": "InferencePool", "name": "chat"});
            let targets = [target("chat"), target("other"), old].into_iter().filter(|_| choose(rest, &[true, false]));
            let mut spec = json!({"targetRefs": targets.collect::<Value>()});
            spec["service"] = choose(
                rest,
                &[
                    Value::Null,
                    json!({"name": "chat"}),
                    json!({"name": "chat", "port": 8000}),
                    json!({"name": "other"}),
                ],
            );
            let scheduling = [
                json!({}),
                json!({"fallbacks": 1}),
                json!({"fallbacks": 3}),
                json!({"fallbacks": "many"}),
                json!({"fallbacks": 4, "odd": 1}),
            ];
            let Sight::Policy(observed) = policy(name, second, merged(spec, choose(rest, &scheduling))) else {
                unreachable!()
            };
            Sight::Policy(identified(observed, &meta))
        }
        Of::Model => {
            let spec = json!({"modelName": choose(rest, &["gpt", "llama"]), "criticality": choose(rest, &["Critical", "Standard"])});
            let Sight::Model(observed) = model(name, second, spec) else { unreachable!() };
            Sight::Model(identified(observed, &meta))
        }
        Of::Objective(group) => {
            let spec =
                json!({"priority": choose(rest, &[1, 2]), "poolRef": {"name": choose(rest, &["chat", "other"])}});
            let Sight::Objective(group, observed) = objective(group, name, spec) else { unreachable!() };
            Sight::Objective(group, identified(observed, &meta))
        }
        Of::Rewrite(group) => {
            let kind = choose(rest, &["Exact", "Prefix"]);
            let matches = choose(rest, &[json!([{"model": {"type": kind, "value": "gpt"}}]), json!([])]);
            let rules = json!([{"matches": matches, "targets": [{"modelRewrite": name}]}]);
            let Sight::Rewrite(group, observed) = rewrite(group, name, second, rules) else { unreachable!() };
            Sight::Rewrite(group, identified(observed, &meta))
        }
    }
}

fn identified<T>(observed: Observed<Kept<T>>, meta: &Value) -> Observed<Kept<T>> {
    match observed {
        Observed::Put(key, mut kept) => {
            kept.identity.uid = meta["uid"].as_str().unwrap().into();
            kept.identity.generation = meta["generation"].as_i64().unwrap();
            Observed::Put(key, kept)
        }
        other => other,
    }
}

/// What a watch tells of a step.
fn sight(step: &Step) -> Option<Sight> {
    fn all<T>(objects: Vec<Observed<T>>, unreadable: Vec<ObjectKey>) -> Observed<T> {
        let read = |observed| match observed {
            Observed::Put(key, object) => Some((key, object)),
            _ => None,
        };
        Observed::All { objects: objects.into_iter().filter_map(read).collect(), unreadable }
    }
    /// The sights of one kind as one list.
    macro_rules! list {
        ($sights:expr, $unreadable:expr, $kind:ident $(($group:expr))?) => {{
            let observed = $sights.into_iter().map(|sight| match sight {
                Sight::$kind($(list!(@ $group),)? observed) => observed,
                sight => panic!("{sight:?}"),
            });
            Sight::$kind($($group,)? all(observed.collect(), $unreadable))
        }};
        (@ $group:expr) => { _ };
    }
    Some(match step {
        Step::News => return None,
        Step::Put(of, name, variant) => object(*of, *name, *variant),
        Step::Gone(of, name) => gone(object(*of, *name, 0)),
        Step::Absent(of) => match *of {
            Of::Policy => Sight::Policy(Observed::Absent),
            Of::Model => Sight::Model(Observed::Absent),
            Of::Objective(group) => Sight::Objective(group, Observed::Absent),
            Of::Rewrite(group) => Sight::Rewrite(group, Observed::Absent),
            of => panic!("{of:?} is never absent"),
        },
        Step::All { of, objects, unreadable } => {
            let sights: Vec<_> = objects.iter().map(|(name, variant)| object(*of, *name, *variant)).collect();
            let unread = unreadable
                .difference(&objects.keys().copied().collect())
                .map(|name| ObjectKey::new(NAMESPACE, NAMES[*name]))
                .collect();
            match *of {
                Of::Pod => list!(sights, unread, Pod),
                Of::Slice => list!(sights, unread, Slice),
                Of::Pool => list!(sights, unread, Pool(STABLE)),
                Of::OldPool => list!(sights, unread, Pool(EXPERIMENTAL)),
                Of::Policy => list!(sights, unread, Policy),
                Of::Model => list!(sights, unread, Model),
                Of::Objective(group) => list!(sights, unread, Objective(group)),
                Of::Rewrite(group) => list!(sights, unread, Rewrite(group)),
            }
        }
    })
}

/// The verdicts, without what a refused policy says of the version that stays in force; and the pools for which one is
/// refused, which may be scheduled as a version says that is no longer there.
fn comparable(verdicts: &Verdicts) -> (Verdicts, BTreeSet<ObjectKey>) {
    let (mut verdicts, mut refused) = (verdicts.clone(), BTreeSet::new());
    for verdict in verdicts.values_mut() {
        let Says::Ancestors(pools) = &mut Arc::make_mut(verdict).says else { continue };
        for (pool, judgements) in pools {
            for judgement in judgements.iter_mut().filter(|judgement| judgement.reason == Reason::Invalid) {
                refused.insert(pool.key.clone());
                judgement.message.truncate(judgement.message.rfind("; ").unwrap());
            }
        }
    }
    (verdicts, refused)
}

fn tuning() -> impl Strategy<Value = Of> {
    let group = prop_oneof![Just(ModelGroup::LlmD), Just(ModelGroup::Experimental)];
    prop_oneof![
        3 => Just(Of::Policy),
        1 => Just(Of::Model),
        1 => group.clone().prop_map(Of::Objective),
        1 => group.prop_map(Of::Rewrite),
    ]
}

fn of() -> impl Strategy<Value = Of> {
    prop_oneof![
        4 => Just(Of::Pod),
        3 => Just(Of::Slice),
        2 => Just(Of::Pool),
        1 => Just(Of::OldPool),
        6 => tuning(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    let objects = prop::collection::btree_map(name.clone(), any::<Variant>(), 0..NAMES.len());
    let unreadable = prop::collection::btree_set(name.clone(), 0..2);
    prop_oneof![
        8 => (of(), name.clone(), any::<Variant>()).prop_map(|(of, name, variant)| Step::Put(of, name, variant)),
        2 => (of(), name).prop_map(|(of, name)| Step::Gone(of, name)),
        2 => (of(), objects, unreadable).prop_map(|(of, objects, unreadable)| Step::All { of, objects, unreadable }),
        1 => tuning().prop_map(Step::Absent),
        3 => Just(Step::News),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn what_was_told_is_what_the_last_state_says(steps in prop::collection::vec(step(), 1..60)) {
        let (mut world, mut model) = (World::new(), Model::default());
        for step in &steps {
            model.take(step);
            match sight(step) {
                Some(sight) => world.index.see(sight),
                None => _ = world.settle(),
            }
        }
        world.settle();
        let fresh = model.world();
        let ((said, refused), (expected, _)) = (comparable(&world.verdicts), comparable(&fresh.verdicts));
        prop_assert_eq!(said, expected);
        prop_assert!(world.pools.keys().eq(fresh.pools.keys()), "{:?} {:?}", world.pools, fresh.pools);
        for (key, told) in &world.pools {
            let expected = &fresh.pools[key];
            prop_assert_eq!(&told.picker, &expected.picker);
            prop_assert_eq!(&told.members, &expected.members);
            if !refused.contains(key) {
                prop_assert_eq!(&told.tuned, &expected.tuned);
            }
        }
    }
}
