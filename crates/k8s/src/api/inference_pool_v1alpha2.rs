//! `InferencePool` of `inference.networking.x-k8s.io/v1alpha2`, as it was before v1.

use std::collections::BTreeMap;

use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::pool_spec::port;
use super::{AppProtocol, FailureMode, ParentStatus, PickerRef, Pool, PoolGroup, PoolSpec, resource};

/// The port of a picker's Service where `extensionRef` names none.
const DEFAULT_PICKER_PORT: i64 = 9002;

/// Pods that serve the same models, behind one picker.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferencePoolV1Alpha2 {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: InferencePoolV1Alpha2Spec,
    /// What the gateways' controllers say; the picker never writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<InferencePoolV1Alpha2Status>,
}

/// What a pool's owner wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferencePoolV1Alpha2Spec {
    /// The labels that a member has, all of them.
    pub selector: BTreeMap<String, String>,
    /// The port that each member serves on.
    pub target_port_number: i64,
    /// Where the gateway finds the picker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_ref: Option<ExtensionRef>,
}

/// Where the gateway finds the picker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionRef {
    /// The referent's group; the core group when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The referent's kind; `Service` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The referent's name.
    pub name: String,
    /// The Service's port; 9002 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_number: Option<i64>,
    /// `FailOpen` or `FailClose`; `FailClose` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_mode: Option<String>,
}

/// What the gateways' controllers say of a pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferencePoolV1Alpha2Status {
    /// One entry a gateway; an entry of kind `Status` stands for none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent: Vec<ParentStatus>,
}

resource!(InferencePoolV1Alpha2, PoolGroup::Experimental.as_str(), "v1alpha2", "InferencePool", "inferencepools");

impl Pool for InferencePoolV1Alpha2 {
    const GROUP: PoolGroup = PoolGroup::Experimental;

    fn resolved(&self) -> PoolSpec {
        let spec = &self.spec;
        PoolSpec {
            selector: spec.selector.clone(),
            target_ports: port(spec.target_port_number).into_iter().collect(),
            app_protocol: AppProtocol::Http,
            picker: spec.extension_ref.as_ref().map(|picker| {
                let kind = picker.kind.clone().unwrap_or_else(|| "Service".into());
                let default_port = (kind == "Service").then_some(DEFAULT_PICKER_PORT);
                PickerRef {
                    group: picker.group.clone().unwrap_or_default(),
                    port: picker.port_number.or(default_port).and_then(port),
                    kind,
                    name: picker.name.clone(),
                    failure_mode: FailureMode::parse(picker.failure_mode.as_deref()),
                }
            }),
        }
    }
}
