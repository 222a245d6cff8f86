//! What became of the SchedulingPolicies of a pool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pointsman_k8s::api::{AncestorStatus, CONTROLLER_NAME, SchedulingPolicy};

use super::report::Report;
use crate::kubectl::cluster::PoolObject;

/// The condition that a picker wrote on the policy for this pool.
fn accepted<'a>(policy: &'a SchedulingPolicy, pool: &PoolObject) -> Option<&'a Condition> {
    let is_ours = |ancestor: &&AncestorStatus| {
        let to = &ancestor.ancestor_ref;
        ancestor.controller_name == CONTROLLER_NAME
            && *to.name == *pool.key.name
            && to.group.as_deref() == Some(pool.group.as_str())
    };
    let ancestor = policy.status.as_ref()?.ancestors.iter().find(is_ours)?;
    ancestor.conditions.iter().find(|condition| condition.type_ == "Accepted")
}

/// Looks at every policy that targets the pool.
pub(super) fn check(pool: &PoolObject, policies: &[SchedulingPolicy], report: &mut Report) {
    let targets = |policy: &&SchedulingPolicy| policy.spec.targets(pool.group, &pool.key.name);
    for policy in policies.iter().filter(targets) {
        let name = policy.metadata.name.as_deref().unwrap_or_default();
        let Some(condition) = accepted(policy, pool) else {
            report.warn(
                format!("SchedulingPolicy {name} was not judged by any picker yet"),
                "is a picker running that serves the pool, and may it write statuses? See the other sections",
            );
            continue;
        };
        let (reason, message) = (&condition.reason, &condition.message);
        let is_old = condition.observed_generation < policy.metadata.generation;
        match &*condition.status {
            _ if is_old => report.warn(
                format!("SchedulingPolicy {name} was judged in an older version"),
                "the picker that holds the Lease writes statuses: is one running?",
            ),
            "True" if reason == "Accepted" => report.ok(format!("SchedulingPolicy {name} is in force")),
            "True" => report
                .warn(format!("SchedulingPolicy {name} is in force, but {reason}: {message}"), "correct the policy"),
            "False" => report.fail(
                format!("SchedulingPolicy {name} is not in force, {reason}: {message}"),
                "correct the policy, or delete it",
            ),
            _ => report.warn(format!("SchedulingPolicy {name} waits, {reason}: {message}"), "try again in a moment"),
        }
    }
}

#[cfg(test)]
mod tests {
    use pointsman_k8s::api::PoolGroup;
    use pointsman_k8s::key::ObjectKey;
    use serde_json::{Value, json};

    use super::*;

    fn policy(controller: &str, status: &str, reason: &str, observed: i64) -> SchedulingPolicy {
        let target = json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "chat"});
        let condition = json!({
            "type": "Accepted", "status": status, "reason": reason, "message": "spec.profile: no", "observedGeneration": observed,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let ancestor = json!({"ancestorRef": target, "controllerName": controller, "conditions": [condition]});
        let object: Value = json!({
            "metadata": {"name": "tuning", "generation": 2}, "spec": {"targetRefs": [target]}, "status": {"ancestors": [ancestor]},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn each_policy_of_the_pool_says_what_became_of_it() {
        let key = ObjectKey::new("prod", "chat");
        let pool = PoolObject { group: PoolGroup::Stable, key, spec: Default::default(), parents: Vec::new() };
        let table = [
            (policy(CONTROLLER_NAME, "True", "Accepted", 2), "√ SchedulingPolicy tuning is in force"),
            (
                policy(CONTROLLER_NAME, "True", "UnknownFields", 2),
                "‼ SchedulingPolicy tuning is in force, but UnknownFields",
            ),
            (
                policy(CONTROLLER_NAME, "False", "Invalid", 2),
                "× SchedulingPolicy tuning is not in force, Invalid: spec.profile",
            ),
            (
                policy(CONTROLLER_NAME, "True", "Accepted", 1),
                "‼ SchedulingPolicy tuning was judged in an older version",
            ),
            (policy("other.dev/controller", "True", "Accepted", 2), "‼ SchedulingPolicy tuning was not judged"),
        ];
        for (policy, expected) in table {
            let mut report = Report::default();
            check(&pool, std::slice::from_ref(&policy), &mut report);
            assert!(report.to_string().contains(expected), "{report}");
        }
    }
}
