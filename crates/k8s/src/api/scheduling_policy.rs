//! `SchedulingPolicy` of `pointsman.dev/v1alpha1`: how the pools that it targets are scheduled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{GROUP, ParentReference, PoolGroup, VERSION, resource};

/// How the pools that it targets are scheduled. Of several policies for one pool, the oldest counts.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct SchedulingPolicy {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: SchedulingPolicySpec,
    /// What the picker made of it, one entry a pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<SchedulingPolicyStatus>,
}

/// What a policy's owner wants.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SchedulingPolicySpec {
    /// The pools, in the policy's namespace.
    pub target_refs: Vec<PolicyTargetReference>,
    /// The Service whose EndpointSlices are the pools' membership, in place of their selectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceReference>,
    /// All the rest as it is written, for `pointsman_core::config::validate`.
    #[serde(flatten)]
    pub scheduling: Value,
}

/// A pool that a policy is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct PolicyTargetReference {
    /// One of the two groups that InferencePools live in.
    pub group: String,
    /// `InferencePool`.
    pub kind: String,
    /// The pool's name.
    pub name: String,
}

/// A Service whose EndpointSlices, written by hand or not, are a pool's membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ServiceReference {
    /// The Service's name, in the policy's namespace.
    pub name: String,
    /// Which of the EndpointSlices' ports serves the model, by its name or number; every port when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
}

/// What the picker made of a policy, as GEP-713 lays it out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct SchedulingPolicyStatus {
    /// One entry a pool and controller.
    pub ancestors: Vec<AncestorStatus>,
}

/// What one controller made of a policy for one pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AncestorStatus {
    /// The pool.
    pub ancestor_ref: ParentReference,
    /// Who wrote the entry.
    pub controller_name: String,
    /// Accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

resource!(SchedulingPolicy, GROUP, VERSION, "SchedulingPolicy", "schedulingpolicies");

impl SchedulingPolicySpec {
    /// Whether it is for that pool of the policy's namespace. Of all that are, the oldest counts.
    pub fn targets(&self, group: PoolGroup, name: &str) -> bool {
        self.target_refs.iter().filter_map(PolicyTargetReference::pool).any(|target| target == (group, name))
    }
}

impl PolicyTargetReference {
    /// The pool that is meant; `None` when it is of a kind or group that is not an InferencePool's.
    pub fn pool(&self) -> Option<(PoolGroup, &str)> {
        let group = PoolGroup::parse(&self.group).filter(|_| self.kind == "InferencePool")?;
        Some((group, &self.name))
    }
}
