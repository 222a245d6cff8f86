//! What is thought of the objects that are read: the whole wanted status, as the index publishes it for the picker, and
//! the extension server for its Gateways.
//!
//! A verdict says what should stand in an object's status, never how it gets there ([`crate::status`]). The picker never
//! speaks of an InferencePool: that status belongs to the gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kube::Resource;
use kube::api::ApiResource;

use crate::api::{
    InferenceModel, InferenceModelRewrite, InferenceObjective, InferencePool, ModelGroup, ParentReference, PoolGroup,
    SchedulingPolicy,
};
use crate::facts::Identity;
use crate::key::ObjectKey;

/// Every object that has a verdict. Written by one task of the process, as a whole; where an unchanged verdict keeps its
/// `Arc`, as the index does, thousands of them compare by their addresses.
pub type Verdicts = BTreeMap<Subject, Arc<Verdict>>;

/// An object whose status is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// What it is.
    pub kind: SubjectKind,
    /// Where it stands.
    pub key: ObjectKey,
}

/// The kinds whose status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SubjectKind {
    /// Ours; status per ancestor.
    SchedulingPolicy,
    /// `inference.networking.x-k8s.io`.
    InferenceModel,
    /// In either group.
    InferenceObjective(ModelGroup),
    /// In either group.
    InferenceModelRewrite(ModelGroup),
    /// `inference.networking.k8s.io`; status per Gateway.
    InferencePool,
}

/// What is thought of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which object is meant: one that was made anew under the same name is another one.
    pub uid: Arc<str>,
    /// The `metadata.generation` that was judged.
    pub generation: i64,
    /// What it says.
    pub says: Says,
}

/// The shape of a verdict: that of the kind's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// `status.conditions`. All verdicts on a kind hold the same condition types, and an object that is not in force keeps
    /// one that says why, so that nothing that was said of it goes stale.
    Conditions(Vec<Judgement>),
    /// `status.ancestors`, one entry a pool; at most [`ANCESTORS_MAX`] of them count. A policy that no longer targets
    /// any pool of this process keeps a verdict without entries, which takes ours out of its status.
    Ancestors(BTreeMap<PoolId, Vec<Judgement>>),
    /// `status.parents`, one entry a Gateway; at most [`PARENTS_MAX`] of them count. A pool that no Gateway of ours sends
    /// requests to any more keeps a verdict without entries, which takes ours out of its status.
    Parents {
        /// What is said, by Gateway.
        wanted: BTreeMap<ObjectKey, Vec<Judgement>>,
        /// Gateways of other controllers that send requests to the pool too: what stands there in our name was said by
        /// the extension server of that controller.
        others: BTreeSet<ObjectKey>,
    },
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What it is about.
    pub condition: ConditionType,
    /// Whether it is so.
    pub status: Truth,
    /// Why, for machines.
    pub reason: Reason,
    /// Why, for people; names the field. What is longer than [`MESSAGE_MAX`] bytes is cut when it is written.
    pub message: String,
}

/// A pool as the cluster knows it: those of the two groups are different pools, even under one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId {
    /// Its group.
    pub group: PoolGroup,
    /// Where it stands.
    pub key: ObjectKey,
}

/// The types of the conditions that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionType {
    /// The object is in force.
    Accepted,
    /// What the object refers to is there.
    ResolvedRefs,
}

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It is so.
    True,
    /// It is not.
    False,
}

/// A condition's reason: those of GEP-713, of the Gateway API Inference Extension, and ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// In force.
    Accepted,
    /// An older policy has the same target.
    Conflicted,
    /// The object says what cannot be.
    Invalid,
    /// What it targets is not there.
    TargetNotFound,
    /// An older InferenceModel has the same model name.
    ModelNameInUse,
    /// In force, but for fields that this version of the picker does not know.
    UnknownFields,
    /// The object is of a kind, or names one, that this picker does not read.
    Unsupported,
    /// A pool is used in a way that its Gateway knows nothing of.
    NotSupportedByParent,
    /// The Gateway refuses the HTTPRoutes that name a pool.
    HttpRouteNotAccepted,
    /// A pool names no picker.
    EndpointPickerRefMissing,
    /// What the object refers to is there.
    ResolvedRefs,
    /// A pool's picker is nowhere, or cannot be verified.
    InvalidExtensionRef,
}

/// How many ancestors a policy's status may have, those of other controllers included (GEP-713).
pub const ANCESTORS_MAX: usize = 16;
/// How many parents a pool's status may have, those of other controllers included.
pub const PARENTS_MAX: usize = 32;
/// How long a message may be, in bytes. The API server takes 32,768 characters; a quarter of that keeps a full
/// list of entries far below what etcd stores, and is more than anybody reads.
pub const MESSAGE_MAX: usize = 8192;

impl SubjectKind {
    /// Those that the picker writes.
    pub const OF_PICKER: [Self; 6] = [
        Self::SchedulingPolicy,
        Self::InferenceModel,
        Self::InferenceObjective(ModelGroup::LlmD),
        Self::InferenceObjective(ModelGroup::Experimental),
        Self::InferenceModelRewrite(ModelGroup::LlmD),
        Self::InferenceModelRewrite(ModelGroup::Experimental),
    ];

    /// Group, version, kind and plural.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::SchedulingPolicy => api_resource::<SchedulingPolicy>(&()),
            Self::InferenceModel => api_resource::<InferenceModel>(&()),
            Self::InferenceObjective(group) => api_resource::<InferenceObjective>(&group),
            Self::InferenceModelRewrite(group) => api_resource::<InferenceModelRewrite>(&group),
            Self::InferencePool => api_resource::<InferencePool>(&()),
        }
    }
}

fn api_resource<K: Resource>(dynamic: &K::DynamicType) -> ApiResource {
    ApiResource::erase::<K>(dynamic)
}

impl Verdict {
    /// What is thought of the very object that `identity` is.
    pub(crate) fn on(identity: &Identity, says: Says) -> Arc<Self> {
        Arc::new(Self { uid: Arc::clone(&identity.uid), generation: identity.generation, says })
    }

    /// Whether it refuses what the object says, with regard to any of what it is for.
    pub fn is_refusal(&self) -> bool {
        let is_invalid = |judgements: &Vec<Judgement>| judgements.iter().any(|one| one.reason == Reason::Invalid);
        match &self.says {
            Says::Conditions(judgements) => is_invalid(judgements),
            Says::Ancestors(ancestors) => ancestors.values().any(is_invalid),
            Says::Parents { wanted, .. } => wanted.values().any(is_invalid),
        }
    }
}

impl Judgement {
    /// The object is in force.
    pub(crate) fn accepted(message: String) -> Self {
        Self { condition: ConditionType::Accepted, status: Truth::True, reason: Reason::Accepted, message }
    }

    /// The object is not in force.
    pub(crate) fn refused(reason: Reason, message: String) -> Self {
        Self { condition: ConditionType::Accepted, status: Truth::False, reason, message }
    }
}

impl PoolId {
    /// How a policy's status refers to it.
    pub fn to_ancestor(&self) -> ParentReference {
        ParentReference::to_pool(self.group, &self.key.namespace, &self.key.name)
    }
}

impl ConditionType {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
        }
    }
}

impl Truth {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
        }
    }
}

impl From<bool> for Truth {
    fn from(is_so: bool) -> Self {
        if is_so { Self::True } else { Self::False }
    }
}

impl Reason {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Conflicted => "Conflicted",
            Self::Invalid => "Invalid",
            Self::TargetNotFound => "TargetNotFound",
            Self::ModelNameInUse => "ModelNameInUse",
            Self::UnknownFields => "UnknownFields",
            Self::Unsupported => "Unsupported",
            Self::NotSupportedByParent => "NotSupportedByParent",
            Self::HttpRouteNotAccepted => "HTTPRouteNotAccepted",
            Self::EndpointPickerRefMissing => "EndpointPickerRefMissing",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::InvalidExtensionRef => "InvalidExtensionRef",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = self.kind.resource();
        write!(f, "{}.{} {}", resource.plural, resource.group, self.key)
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.key, self.group.as_str())
    }
}
