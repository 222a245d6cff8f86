//! References between custom resources, and the groups that one kind may live in.

use serde::{Deserialize, Serialize};

use super::GATEWAY_GROUP;
use crate::key::ObjectKey;

/// An object that another is attached to, or acts on, as Gateway API spells it in `parentRefs` and in statuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ParentReference {
    /// Gateway API's group when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Gateway` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The namespace of the object that refers, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ParentReference {
    /// The reference to a Gateway.
    pub fn to_gateway(gateway: &ObjectKey) -> Self {
        Self::to(GATEWAY_GROUP, "Gateway", &gateway.namespace, &gateway.name)
    }

    /// The reference to a pool.
    pub fn to_pool(group: PoolGroup, namespace: &str, name: &str) -> Self {
        Self::to(group.as_str(), "InferencePool", namespace, name)
    }

    fn to(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let [group, kind, namespace] = [group, kind, namespace].map(|text| Some(text.to_owned()));
        Self { group, kind, namespace, name: name.to_owned() }
    }

    /// The Gateway that is meant, by an object of that namespace; `None` when it is none.
    pub fn gateway(&self, namespace: &str) -> Option<ObjectKey> {
        let is_gateway = self.group.as_deref().is_none_or(|group| group == GATEWAY_GROUP)
            && self.kind.as_deref().is_none_or(|kind| kind == "Gateway");
        is_gateway.then(|| ObjectKey::new(self.namespace.as_deref().unwrap_or(namespace), &self.name))
    }
}

/// The groups that an InferencePool lives in. An object of the one is never an object of the other, not even under the
/// same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolGroup {
    /// `inference.networking.k8s.io`, version v1.
    Stable,
    /// `inference.networking.x-k8s.io`, version v1alpha2.
    Experimental,
}

/// The groups that InferenceObjective and InferenceModelRewrite live in, both in version v1alpha2. Where a cluster has a
/// kind in both, the newer group alone counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelGroup {
    /// `llm-d.ai`, the newer one.
    #[default]
    LlmD,
    /// `inference.networking.x-k8s.io`, up to version 1.5 of the Gateway API Inference Extension.
    Experimental,
}

/// Which pool an object belongs to; the pool stands in the object's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct PoolReference {
    /// The pool's group; the API server fills it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `InferencePool`; the API server fills it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The pool's name.
    pub name: String,
}

/// Why a reference means no pool that the picker could serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedPool {
    /// It is of another kind.
    #[error("spec.poolRef.kind: {0} is not supported: name an InferencePool")]
    Kind(String),
    /// It is of a group that has no InferencePools.
    #[error("spec.poolRef.group: there are no InferencePools in {0:?}: name one of {stable} or {experimental}",
        stable = PoolGroup::Stable.as_str(), experimental = PoolGroup::Experimental.as_str())]
    Group(String),
}

/// An object that tunes one pool of its own namespace.
pub trait OfPool {
    /// The group that is meant where the object names none.
    const DEFAULT_GROUP: PoolGroup;

    /// The pool as it is written.
    fn pool_ref(&self) -> &PoolReference;

    /// The pool that is meant.
    fn pool(&self) -> Result<(PoolGroup, &str), UnsupportedPool> {
        let reference = self.pool_ref();
        Ok((reference.group(Self::DEFAULT_GROUP)?, &reference.name))
    }
}

impl PoolGroup {
    /// Both, the newer first.
    pub const ALL: [Self; 2] = [Self::Stable, Self::Experimental];

    /// The group as it is written.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Stable => "inference.networking.k8s.io",
            Self::Experimental => "inference.networking.x-k8s.io",
        }
    }

    /// The version in which the picker reads this group's pools.
    pub const fn version(&self) -> &'static str {
        match self {
            Self::Stable => "v1",
            Self::Experimental => "v1alpha2",
        }
    }

    /// Group and version, as in a manifest.
    pub const fn api_version(&self) -> &'static str {
        match self {
            Self::Stable => "inference.networking.k8s.io/v1",
            Self::Experimental => "inference.networking.x-k8s.io/v1alpha2",
        }
    }

    /// The group of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.as_str() == text)
    }
}

impl ModelGroup {
    /// Both, the one that wins first.
    pub const ALL: [Self; 2] = [Self::LlmD, Self::Experimental];
    /// The version of both.
    pub const VERSION: &str = "v1alpha2";

    /// The group as it is written.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::LlmD => "llm-d.ai",
            Self::Experimental => "inference.networking.x-k8s.io",
        }
    }
}

impl PoolReference {
    /// The group of the pool that is meant, `default` where none is written.
    pub fn group(&self, default: PoolGroup) -> Result<PoolGroup, UnsupportedPool> {
        if let Some(kind) = self.kind.as_deref().filter(|kind| *kind != "InferencePool") {
            return Err(UnsupportedPool::Kind(kind.into()));
        }
        let parse = |group: &str| PoolGroup::parse(group).ok_or_else(|| UnsupportedPool::Group(group.into()));
        self.group.as_deref().map_or(Ok(default), parse)
    }
}
