//! Custom resources as types: ours, and those of the Gateway API Inference Extension and of llm-d.
//!
//! They are read from watches, so they take whatever the API server of another version may send: unknown fields are
//! passed over and absent ones have a default. What the API server refuses stands in [`crate::crds`]; what a value means
//! to the picker stands in the methods here and in [`PoolSpec`].

mod backend_tls_policy;
mod gateway;
mod gateway_sync;
mod http_route;
mod inference_model;
mod inference_model_rewrite;
mod inference_objective;
mod inference_pool;
mod inference_pool_v1alpha2;
mod pool_spec;
mod reference_grant;
mod references;
mod scheduling_policy;
#[cfg(test)]
mod tests;

pub use backend_tls_policy::{
    BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsValidation, CaCertificateRef, DatedTlsPolicy, SubjectAltName,
    TlsPolicyTarget,
};
pub use gateway::{Gateway, GatewayClass, GatewayClassSpec, GatewaySpec};
pub use gateway_sync::{GatewaySync, GatewaySyncSpec, GatewayTarget};
pub use http_route::{
    BackendRef, HttpRoute, HttpRouteRule, HttpRouteSpec, HttpRouteStatus, RequestMirror, RouteFilter, RouteParentStatus,
};
pub use inference_model::{Criticality, InferenceModel, InferenceModelSpec, InferenceModelStatus, TargetModel};
pub use inference_model_rewrite::{
    InferenceModelRewrite, InferenceModelRewriteSpec, InferenceModelRewriteStatus, ModelMatch, RewriteMatch,
    RewriteRule, RewriteTarget,
};
pub use inference_objective::{InferenceObjective, InferenceObjectiveSpec, InferenceObjectiveStatus};
pub use inference_pool::{
    EndpointPickerRef, InferencePool, InferencePoolSpec, InferencePoolStatus, ParentStatus, PoolSelector, Port,
};
pub use inference_pool_v1alpha2::{
    ExtensionRef, InferencePoolV1Alpha2, InferencePoolV1Alpha2Spec, InferencePoolV1Alpha2Status,
};
pub use pool_spec::{AppProtocol, FailureMode, PickerRef, Pool, PoolSpec};
pub use reference_grant::{GrantFrom, GrantTo, ReferenceGrant, ReferenceGrantSpec};
pub use references::{ModelGroup, OfPool, ParentReference, PoolGroup, PoolReference, UnsupportedPool};
pub use scheduling_policy::{
    AncestorStatus, PolicyTargetReference, SchedulingPolicy, SchedulingPolicySpec, SchedulingPolicyStatus,
    ServiceReference,
};

/// Our API group.
pub const GROUP: &str = "pointsman.dev";
/// The version of our API group.
pub const VERSION: &str = "v1alpha1";
/// Gateway API's group.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// What the picker signs statuses with.
pub const CONTROLLER_NAME: &str = "pointsman.dev/picker";
/// What the extension server signs statuses with, on behalf of the Gateways that it serves.
pub const GATEWAY_CONTROLLER_NAME: &str = "pointsman.dev/gateway";

/// Implements [`kube::Resource`] for a namespaced kind: `resource!(Type, group, version, "Kind", "plural")`, or with
/// `in Groups` instead of a group for one that lives in several and is told which at run time, which kube knows as a
/// dynamic scope. A kind without namespaces is `resource!(cluster Type, ...)`.
macro_rules! resource {
    (cluster $type:ty, $group:expr, $version:expr, $kind:literal, $plural:literal) => {
        resource!(@ $type, (), kube::core::ClusterResourceScope, |_| $group, $version, $kind, $plural);
    };
    ($type:ty, $group:expr, $version:expr, $kind:literal, $plural:literal) => {
        resource!(@ $type, (), kube::core::NamespaceResourceScope, |_| $group, $version, $kind, $plural);
    };
    ($type:ty, in $groups:ty, $version:expr, $kind:literal, $plural:literal) => {
        resource!(@ $type, $groups, kube::core::DynamicResourceScope, <$groups>::as_str, $version, $kind, $plural);
    };
    (@ $type:ty, $dynamic:ty, $scope:ty, $group:expr, $version:expr, $kind:literal, $plural:literal) => {
        impl kube::Resource for $type {
            type DynamicType = $dynamic;
            type Scope = $scope;

            fn kind(_: &$dynamic) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group(dynamic: &$dynamic) -> std::borrow::Cow<'_, str> {
                let group: fn(&$dynamic) -> &'static str = $group;
                group(dynamic).into()
            }

            fn version(_: &$dynamic) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &$dynamic) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &kube::api::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut kube::api::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
use resource;
