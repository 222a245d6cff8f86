//! Objects as they stand in a cluster, and an index whose news are checked as they come.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::api::{InferencePool, InferencePoolV1Alpha2};
use crate::facts::{Small, keep, keep_pool};

/// The namespace of everything.
pub(super) const NAMESPACE: &str = "default";
/// The groups, briefly.
pub(super) const STABLE: PoolGroup = PoolGroup::Stable;
pub(super) const EXPERIMENTAL: PoolGroup = PoolGroup::Experimental;

/// An index, and what its news add up to.
pub(super) struct World {
    pub(super) index: Index,
    pub(super) pools: BTreeMap<ObjectKey, Told>,
    pub(super) verdicts: Arc<Verdicts>,
}

/// What was told of a pool, all in all.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) members: Vec<Arc<Endpoint>>,
    pub(super) tuned: Tuned,
    pub(super) picker: Option<ObjectKey>,
}

/// What can be compared of a policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tuned {
    pub(super) fallbacks: usize,
    /// Each with all that it says.
    pub(super) rules: Vec<String>,
    pub(super) objectives: BTreeMap<Arc<str>, i32>,
}

/// What one telling was about.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Settled {
    pub(super) gone: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) notices: Vec<(NoticeReason, String)>,
}

impl World {
    /// All pools of the namespace.
    pub(super) fn new() -> Self {
        Self::of(Scope::Namespace(NAMESPACE.into()))
    }

    pub(super) fn of(scope: Scope) -> Self {
        Self { index: Index::new(scope, Registry::default()), pools: BTreeMap::new(), verdicts: Arc::default() }
    }

    /// One that has seen these and told of them.
    pub(super) fn with(sights: impl IntoIterator<Item = Sight>) -> Self {
        let mut world = Self::new();
        world.see(sights);
        world
    }

    /// Sees, and takes the news.
    pub(super) fn see(&mut self, sights: impl IntoIterator<Item = Sight>) -> Settled {
        sights.into_iter().for_each(|sight| self.index.see(sight));
        self.settle()
    }

    /// Takes the news. They must be whole, tell nothing that was known, and leave nothing to be told.
    pub(super) fn settle(&mut self) -> Settled {
        let mut settled = Settled::default();
        let News { pools, verdicts, notices } = self.index.news();
        for news in pools {
            match news {
                PoolNews::Gone(key) => {
                    assert!(self.pools.remove(&key).is_some(), "{key} was never told of");
                    settled.gone.push(key.name.to_string());
                }
                PoolNews::Is(picture) => settled.changed.push(self.take(*picture)),
            }
        }
        if let Some(verdicts) = verdicts {
            assert_ne!(verdicts, self.verdicts, "verdicts for nothing");
            for (subject, verdict) in &*verdicts {
                let same = self.verdicts.get(subject).filter(|known| *known == verdict);
                assert!(
                    same.is_none_or(|known| Arc::ptr_eq(known, verdict)),
                    "the same verdict on {subject} is another"
                );
            }
            self.verdicts = verdicts;
        }
        settled.notices = notices.into_iter().map(|notice| (notice.reason, notice.message)).collect();
        let rest = self.index.news();
        assert!(rest.is_empty(), "{rest:?} is told twice");
        settled
    }

    fn take(&mut self, picture: Picture) -> String {
        let Picture { object: Regarding { key, .. }, members, policy, picker } = picture;
        let tuned = policy.map(Tuned::of);
        let Some(told) = self.pools.get_mut(&key) else {
            let told = Told { members: members.expect("members"), tuned: tuned.expect("a policy"), picker };
            self.pools.insert(key.clone(), told);
            return key.name.to_string();
        };
        assert!(members.is_some() || tuned.is_some() || told.picker != picker, "a picture of {key} for nothing");
        if let Some(members) = members {
            let is_same = |(a, b): (&Arc<Endpoint>, &Arc<Endpoint>)| Arc::ptr_eq(a, b);
            let is_news = members.len() != told.members.len() || !members.iter().zip(&told.members).all(is_same);
            assert!(is_news, "members of {key} for nothing");
            for member in &members {
                let same = told.members.iter().find(|known| *known == member);
                assert!(same.is_none_or(|known| Arc::ptr_eq(known, member)), "{member:?} did not change");
            }
            told.members = members;
        }
        if let Some(tuned) = tuned {
            assert_ne!(tuned, told.tuned, "a policy of {key} for nothing");
            told.tuned = tuned;
        }
        told.picker = picker;
        key.name.to_string()
    }

    /// What was told of a pool.
    pub(super) fn pool(&self, name: &str) -> &Told {
        &self.pools[&ObjectKey::new(NAMESPACE, name)]
    }

    /// The addresses of the pool `chat`, newest pods first.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.pool("chat").members.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    /// The only member of the pool `chat`.
    pub(super) fn member(&self) -> &Arc<Endpoint> {
        match &*self.pool("chat").members {
            [member] => member,
            members => panic!("{members:?}"),
        }
    }

    /// What is thought of the object with regard to the pool `chat`: reason and message.
    pub(super) fn judged(&self, kind: SubjectKind, name: &str) -> Option<(Reason, &str)> {
        let verdict = self.verdicts.get(&Subject { kind, key: ObjectKey::new(NAMESPACE, name) })?;
        let judgement = match &verdict.says {
            Says::Conditions(judgements) => judgements.first(),
            Says::Ancestors(pools) => {
                pools.iter().find(|(pool, _)| &*pool.key.name == "chat").and_then(|(_, judgements)| judgements.first())
            }
            Says::Parents { .. } => None,
        };
        judgement.map(|judgement| (judgement.reason, &*judgement.message))
    }
}

impl Tuned {
    pub(super) fn of(policy: Policy) -> Self {
        let rules = policy.models.rules().iter().map(|rule| format!("{rule:?}")).collect();
        Self { fallbacks: policy.fallbacks, rules, objectives: policy.objectives }
    }
}

/// A time of that second.
pub(super) fn at(second: u32) -> String {
    format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60)
}

/// A running pod that the pool `chat` selects, changed by a merge patch.
pub(super) fn pod(name: &str, patch: Value) -> Sight {
    let base = json!({
        "metadata": metadata(name, json!({"app": "chat"})),
        "spec": {"containers": []},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    let (meta, pod) = object::<Pod>(base, patch, |pod| &pod.metadata);
    Sight::Pod(Observed::Put(ObjectKey::of(&meta), PodFacts::of(&meta, pod)))
}

/// A slice of the Service `chat` with the port `http` 8000, changed by a merge patch.
pub(super) fn slice(name: &str, endpoints: Value, patch: Value) -> Sight {
    let base = json!({
        "metadata": metadata(name, json!({"kubernetes.io/service-name": "chat"})),
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000}],
        "endpoints": endpoints,
    });
    let (meta, slice) = object::<EndpointSlice>(base, patch, |slice| &slice.metadata);
    Sight::Slice(Observed::Put(ObjectKey::of(&meta), SliceFacts::of(&meta, slice)))
}

/// An address of a slice, changed by a merge patch.
pub(super) fn address(ip: &str, patch: Value) -> Value {
    merged(json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}}), patch)
}

/// An address of a slice with a pod behind it, as the controller writes it.
pub(super) fn address_of(pod: &str, ip: &str, patch: Value) -> Value {
    let target = json!({"kind": "Pod", "namespace": NAMESPACE, "name": pod, "uid": format!("uid-{pod}")});
    merged(address(ip, json!({"targetRef": target})), patch)
}

/// A pool of the stable group, changed by a merge patch: pods of its own name on port 8000.
pub(super) fn pool(name: &str, patch: Value) -> Sight {
    let base = json!({
        "metadata": metadata(name, json!({})),
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        },
    });
    let (meta, pool) = object::<InferencePool>(base, patch, |pool| &pool.metadata);
    Sight::Pool(STABLE, Observed::Put(ObjectKey::of(&meta), keep_pool(&meta, pool)))
}

/// A pool of the experimental group, changed by a merge patch: pods of its own name on port 8100.
pub(super) fn old_pool(name: &str, patch: Value) -> Sight {
    let base = json!({
        "metadata": metadata(name, json!({})),
        "spec": {"selector": {"app": name}, "targetPortNumber": 8100, "extensionRef": {"name": "old-picker"}},
    });
    let (meta, pool) = object::<InferencePoolV1Alpha2>(base, patch, |pool| &pool.metadata);
    Sight::Pool(EXPERIMENTAL, Observed::Put(ObjectKey::of(&meta), keep_pool(&meta, pool)))
}

/// A policy for the pool `chat`, its `spec` changed by a merge patch, made at that second.
pub(super) fn policy(name: &str, second: u32, patch: Value) -> Sight {
    let (meta, kept) = kept::<SchedulingPolicy>(name, second, json!({"targetRefs": [target("chat")]}), patch);
    Sight::Policy(Observed::Put(ObjectKey::of(&meta), kept))
}

/// How a policy refers to a pool of the stable group.
pub(super) fn target(pool: &str) -> Value {
    json!({"group": STABLE.as_str(), "kind": "InferencePool", "name": pool})
}

/// An InferenceModel for the experimental pool `chat`.
pub(super) fn model(name: &str, second: u32, patch: Value) -> Sight {
    let (meta, kept) =
        kept::<InferenceModel>(name, second, json!({"modelName": name, "poolRef": {"name": "chat"}}), patch);
    Sight::Model(Observed::Put(ObjectKey::of(&meta), kept))
}

/// An InferenceObjective for the stable pool `chat`.
pub(super) fn objective(group: ModelGroup, name: &str, patch: Value) -> Sight {
    let (meta, kept) = kept::<InferenceObjective>(name, 0, json!({"poolRef": {"name": "chat"}}), patch);
    Sight::Objective(group, Observed::Put(ObjectKey::of(&meta), kept))
}

/// An InferenceModelRewrite for the stable pool `chat`.
pub(super) fn rewrite(group: ModelGroup, name: &str, second: u32, rules: Value) -> Sight {
    let spec = json!({"poolRef": {"name": "chat"}, "rules": rules});
    let (meta, kept) = kept::<InferenceModelRewrite>(name, second, spec, json!({}));
    Sight::Rewrite(group, Observed::Put(ObjectKey::of(&meta), kept))
}

fn kept<K: DeserializeOwned + Small>(name: &str, second: u32, spec: Value, patch: Value) -> (ObjectMeta, Kept<K>) {
    let mut meta = metadata(name, json!({}));
    meta["creationTimestamp"] = json!(at(second));
    let object: K = serde_json::from_value(json!({"metadata": meta.clone(), "spec": merged(spec, patch)})).unwrap();
    let meta = serde_json::from_value(meta).unwrap();
    let kept = keep(&meta, object);
    (meta, kept)
}

fn object<K: DeserializeOwned>(base: Value, patch: Value, meta: impl Fn(&K) -> &ObjectMeta) -> (ObjectMeta, K) {
    let object = serde_json::from_value(merged(base, patch)).unwrap();
    (meta(&object).clone(), object)
}

fn metadata(name: &str, labels: Value) -> Value {
    json!({
        "name": name, "namespace": NAMESPACE, "uid": format!("uid-{name}"), "generation": 1,
        "creationTimestamp": at(0), "labels": labels,
    })
}

/// The object of a sight, gone.
pub(super) fn gone(sight: Sight) -> Sight {
    fn key<T>(observed: Observed<T>) -> Observed<T> {
        match observed {
            Observed::Put(key, _) => Observed::Gone(key),
            other => other,
        }
    }
    match sight {
        Sight::Pool(group, observed) => Sight::Pool(group, key(observed)),
        Sight::Pod(observed) => Sight::Pod(key(observed)),
        Sight::Slice(observed) => Sight::Slice(key(observed)),
        Sight::Policy(observed) => Sight::Policy(key(observed)),
        Sight::Model(observed) => Sight::Model(key(observed)),
        Sight::Objective(group, observed) => Sight::Objective(group, key(observed)),
        Sight::Rewrite(group, observed) => Sight::Rewrite(group, key(observed)),
    }
}

/// A list in which there is nothing.
pub(super) fn none<T>() -> Observed<T> {
    Observed::All { objects: Vec::new(), unreadable: Vec::new() }
}

/// As RFC 7386 has it: null takes out.
pub(super) fn merged(mut into: Value, patch: Value) -> Value {
    match patch {
        Value::Object(members) if into.is_object() => {
            for (name, member) in members {
                let former = into[&name].take();
                match member {
                    Value::Null => _ = into.as_object_mut().unwrap().remove(&name),
                    member => into[&name] = merged(former, member),
                }
            }
            into
        }
        other => other,
    }
}
