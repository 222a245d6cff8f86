//! What has to be sent so that one object's status says what is wanted.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use crate::api::{CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME, ParentReference, PoolGroup};
use crate::index::Scope;
use crate::key::ObjectKey;
use crate::verdict::{ANCESTORS_MAX, Judgement, MESSAGE_MAX, PARENTS_MAX, PoolId, Says, Verdict};

/// A request to be made.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// None: the object is not the one that was judged, or has changed since; a new verdict is on its way.
    Moot,
    /// By server-side apply.
    Apply(Value),
    /// By merge patch.
    Merge(Value),
}

/// What makes the status of the object `found` say what `verdict` says; `None` when it does.
pub(super) fn change(
    resource: &ApiResource,
    scope: &Scope,
    verdict: &Verdict,
    found: &DynamicObject,
    now: Timestamp,
) -> Option<Change> {
    let metadata = &found.metadata;
    // An object of a later generation may bear a status that a former leader, whose watch was ahead, wrote on it.
    if metadata.uid.as_deref() != Some(&*verdict.uid) || metadata.generation > Some(verdict.generation) {
        return Some(Change::Moot);
    }
    let status = &found.data["status"];
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let merge = |field: &str, entries: Vec<Value>| {
        Change::Merge(json!({
            "metadata": {"resourceVersion": metadata.resource_version},
            "status": {field: entries},
        }))
    };
    match &verdict.says {
        Says::Conditions(judgements) => {
            let conditions = conditions(judgements, &status["conditions"], verdict.generation, now)?;
            Some(Change::Apply(json!({
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "metadata": {"name": metadata.name, "namespace": metadata.namespace, "resourceVersion": metadata.resource_version},
                "status": {"conditions": conditions},
            })))
        }
        Says::Ancestors(wanted) => {
            let about = |entry: &Value| {
                pool_of(entry, namespace).filter(|pool| is_within(scope, pool) || wanted.contains_key(pool))
            };
            let entries = Entries { field: "ancestors", max: ANCESTORS_MAX, wanted, about: &about, make: &ancestor };
            Some(merge("ancestors", entries.written(&status["ancestors"], verdict.generation, now)?))
        }
        Says::Parents { wanted, others } => {
            let about = |entry: &Value| gateway_of(entry, namespace).filter(|gateway| !others.contains(gateway));
            let entries = Entries { field: "parents", max: PARENTS_MAX, wanted, about: &about, make: &parent };
            Some(merge("parents", entries.written(&status["parents"], verdict.generation, now)?))
        }
    }
}

/// The conditions as they should be written; `None` when those in `found` say the same.
fn conditions(judgements: &[Judgement], found: &Value, generation: i64, now: Timestamp) -> Option<Vec<Value>> {
    let mut is_news = false;
    let conditions = judgements
        .iter()
        .map(|judgement| {
            let kind = judgement.condition.as_str();
            let before = elements(found).iter().find(|condition| condition["type"] == kind);
            let mut condition = json!({
                "type": kind,
                "status": judgement.status.as_str(),
                "reason": judgement.reason.as_str(),
                "message": &judgement.message[..judgement.message.floor_char_boundary(MESSAGE_MAX)],
                "observedGeneration": generation,
            });
            let since = before.filter(|before| before["status"] == condition["status"]);
            let since = since.map_or_else(|| json!(Time(now)), |before| before["lastTransitionTime"].clone());
            condition["lastTransitionTime"] = since;
            is_news |= before != Some(&condition);
            condition
        })
        .collect();
    is_news.then_some(conditions)
}

/// A list in a status with an entry for each of several things, written by several controllers.
struct Entries<'a, K> {
    /// The list's name.
    field: &'static str,
    /// How many the list may have.
    max: usize,
    /// What is to be said.
    wanted: &'a BTreeMap<K, Vec<Judgement>>,
    /// What an entry is about; `None` for one that is not ours to change.
    about: &'a dyn Fn(&Value) -> Option<K>,
    /// Makes an entry of its conditions.
    make: &'a dyn Fn(&K, Vec<Value>) -> Value,
}

impl<K: Clone + Ord> Entries<'_, K> {
    /// The whole list as it should be written; `None` when `found` says the same. What others wrote stays as it is and
    /// where it is.
    fn written(&self, found: &Value, generation: i64, now: Timestamp) -> Option<Vec<Value>> {
        let mut wanted: BTreeMap<&K, &Vec<Judgement>> = self.wanted.iter().collect();
        let mut is_news = false;
        let mut entries: Vec<Value> = Vec::with_capacity(elements(found).len());
        for entry in elements(found) {
            let Some(about) = (self.about)(entry) else {
                entries.push(entry.clone());
                continue;
            };
            // An entry that nobody wants any more is left out, and so is the second of two about the same.
            let Some(judgements) = wanted.remove(&about) else {
                is_news = true;
                continue;
            };
            match conditions(judgements, &entry["conditions"], generation, now) {
                None => entries.push(entry.clone()),
                Some(conditions) => {
                    is_news = true;
                    entries.push((self.make)(&about, conditions));
                }
            }
        }
        let room = self.max.saturating_sub(entries.len());
        if wanted.len() > room {
            tracing::warn!(field = self.field, left_out = wanted.len() - room, "a status has no room for more entries");
        }
        for (about, judgements) in wanted.into_iter().take(room) {
            let conditions = conditions(judgements, &Value::Null, generation, now).unwrap_or_default();
            entries.push((self.make)(about, conditions));
            is_news = true;
        }
        is_news.then_some(entries)
    }
}

fn ancestor(pool: &PoolId, conditions: Vec<Value>) -> Value {
    json!({"ancestorRef": pool.to_ancestor(), "controllerName": CONTROLLER_NAME, "conditions": conditions})
}

fn parent(gateway: &ObjectKey, conditions: Vec<Value>) -> Value {
    let reference = ParentReference::to_gateway(gateway);
    json!({"parentRef": reference, "controllerName": GATEWAY_CONTROLLER_NAME, "conditions": conditions})
}

/// Whether this process serves that pool. Two Deployments in a namespace, a pool each, sign with the same controller
/// name: each leaves the entries about the other's pool alone.
fn is_within(scope: &Scope, pool: &PoolId) -> bool {
    match scope {
        Scope::Pool(key) => pool.key == *key,
        Scope::Namespace(namespace) => pool.key.namespace == *namespace,
        Scope::Cluster => true,
    }
}

/// The pool that an entry of ours is about; `None` for an entry that is not ours.
fn pool_of(entry: &Value, namespace: &str) -> Option<PoolId> {
    if entry["controllerName"] != CONTROLLER_NAME {
        return None;
    }
    let reference: ParentReference = serde_json::from_value(entry["ancestorRef"].clone()).ok()?;
    let group = PoolGroup::parse(reference.group.as_deref()?)?;
    Some(PoolId { group, key: ObjectKey::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name) })
}

/// The Gateway that an entry of ours is about; `None` for an entry that is not ours.
fn gateway_of(entry: &Value, namespace: &str) -> Option<ObjectKey> {
    if entry["controllerName"] != GATEWAY_CONTROLLER_NAME {
        return None;
    }
    // What we sign and did not write so is about nothing, and goes.
    let reference: ParentReference = serde_json::from_value(entry["parentRef"].clone()).unwrap_or_default();
    Some(reference.gateway(namespace).unwrap_or_else(|| ObjectKey::new("", "")))
}

fn elements(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}
