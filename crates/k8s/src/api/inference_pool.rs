//! `InferencePool` of `inference.networking.k8s.io/v1`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::pool_spec::port;
use super::{AppProtocol, FailureMode, ParentReference, PickerRef, Pool, PoolGroup, PoolSpec, resource};

/// Pods that serve the same models, behind one picker.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferencePool {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: InferencePoolSpec,
    /// What the gateways' controllers say; the picker never writes it, the extension server does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<InferencePoolStatus>,
}

/// What a pool's owner wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferencePoolSpec {
    /// Which pods are members.
    pub selector: PoolSelector,
    /// The ports that each member serves on.
    pub target_ports: Vec<Port>,
    /// `http` or `kubernetes.io/h2c`; `http` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// Where the gateway finds the picker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_picker_ref: Option<EndpointPickerRef>,
}

/// Which pods are members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSelector {
    /// The labels that a member has, all of them.
    pub match_labels: BTreeMap<String, String>,
}

/// A port by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Port {
    /// 1 to 65535.
    pub number: i64,
}

/// Where the gateway finds the picker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPickerRef {
    /// The referent's group; the core group when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The referent's kind; `Service` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The referent's name.
    pub name: String,
    /// The Service's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// `FailOpen` or `FailClose`; `FailClose` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_mode: Option<String>,
}

/// What the gateways' controllers say of a pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferencePoolStatus {
    /// One entry a gateway.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
}

/// What one gateway's controller says of a pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentStatus {
    /// The gateway.
    pub parent_ref: ParentReference,
    /// Who wrote the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller_name: Option<String>,
    /// Accepted, ResolvedRefs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

resource!(InferencePool, PoolGroup::Stable.as_str(), "v1", "InferencePool", "inferencepools");

impl Pool for InferencePool {
    const GROUP: PoolGroup = PoolGroup::Stable;

    fn resolved(&self) -> PoolSpec {
        let spec = &self.spec;
        PoolSpec {
            selector: spec.selector.match_labels.clone(),
            target_ports: spec.target_ports.iter().filter_map(|target| port(target.number)).collect(),
            app_protocol: AppProtocol::parse(spec.app_protocol.as_deref()),
            picker: spec.endpoint_picker_ref.as_ref().map(|picker| PickerRef {
                group: picker.group.clone().unwrap_or_default(),
                kind: picker.kind.clone().unwrap_or_else(|| "Service".into()),
                name: picker.name.clone(),
                port: picker.port.and_then(|picker| port(picker.number)),
                failure_mode: FailureMode::parse(picker.failure_mode.as_deref()),
            }),
        }
    }
}
