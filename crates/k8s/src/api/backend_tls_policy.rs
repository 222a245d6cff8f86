//! `BackendTLSPolicy` of Gateway API, as far as it says how the certificate of a Service is verified.

use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{GATEWAY_GROUP, resource};

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct BackendTlsPolicy {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: BackendTlsPolicySpec,
}

/// What a policy's owner wants, and since when: of several policies for one Service the oldest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatedTlsPolicy {
    /// When the policy was made; absent in one that no API server made.
    pub created: Option<Timestamp>,
    /// What its owner wants.
    pub spec: BackendTlsPolicySpec,
}

/// What a policy's owner wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicySpec {
    /// Whom it is about.
    pub target_refs: Vec<TlsPolicyTarget>,
    /// How they are verified.
    pub validation: BackendTlsValidation,
}

/// Whom a policy is about: an object of the policy's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsPolicyTarget {
    /// Its group; empty for the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The name of one of its ports; all of them when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// How a certificate is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsValidation {
    /// The objects that hold the CAs.
    #[serde(rename = "caCertificateRefs")]
    pub ca_certificate_refs: Vec<CaCertificateRef>,
    /// Well-known CAs instead of those, such as `System`; absent or empty when there are refs.
    #[serde(rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    pub well_known_ca_certificates: Option<String>,
    /// The name that is asked for by SNI, and that the certificate must be for.
    pub hostname: String,
    /// The names one of which the certificate must be for instead of `hostname`.
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// An object of the policy's namespace that holds CAs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct CaCertificateRef {
    /// Its group; empty for the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A name in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name, of the kind `Hostname`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

resource!(BackendTlsPolicy, GATEWAY_GROUP, "v1", "BackendTLSPolicy", "backendtlspolicies");

impl DatedTlsPolicy {
    /// What is kept of a policy.
    pub(crate) fn of(metadata: &ObjectMeta, policy: BackendTlsPolicy) -> Self {
        Self { created: metadata.creation_timestamp.as_ref().map(|time| time.0), spec: policy.spec }
    }
}

impl TlsPolicyTarget {
    /// Whether it is that Service, whatever the port.
    pub fn is_service(&self, name: &str) -> bool {
        self.group.is_empty() && self.kind == "Service" && self.name == name
    }
}
