//! `Gateway` and `GatewayClass` of Gateway API, as far as they say which controller a Gateway is served by.

use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{GATEWAY_GROUP, resource};

/// A Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Gateway {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: GatewaySpec,
}

/// What a Gateway's owner wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// The name of its GatewayClass.
    pub gateway_class_name: String,
}

/// A class of Gateways; it has no namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct GatewayClass {
    /// Name, labels and the rest.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: GatewayClassSpec,
}

/// What the owner of a class wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    /// The controller that serves the Gateways of the class.
    pub controller_name: String,
}

resource!(Gateway, GATEWAY_GROUP, "v1", "Gateway", "gateways");
resource!(cluster GatewayClass, GATEWAY_GROUP, "v1", "GatewayClass", "gatewayclasses");
