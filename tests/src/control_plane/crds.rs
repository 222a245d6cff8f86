//! Custom resource definitions: upstream's own, and the wait until any is served.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use super::{ControlPlane, READY_DEADLINE, READY_LOOK};
use crate::process::repository;
use crate::tools::tool;

/// The folder of upstream's CRDs of a version of gateway-api-inference-extension that `xtask tools` fetches.
/// - `1.6.0`: InferencePool v1; InferencePoolImport v1alpha1.
/// - `1.5.0`: the same two; InferenceObjective and InferenceModelRewrite v1alpha2.
/// - `0.5.1`: InferencePool v1alpha2 (of the experimental group); InferenceModel v1alpha2.
pub async fn upstream_crds(version: &str) -> Result<PathBuf> {
    tool(&format!("inference-extension-crds-{version}")).await
}

impl ControlPlane {
    /// Installs all of upstream's CRDs of a version (see [`upstream_crds`]) and waits until they are served.
    pub async fn install_upstream_crds(&self, version: &str) -> Result<()> {
        let folder = upstream_crds(version).await?;
        let folder = folder.to_str().context("the cache's path is not UTF-8")?;
        // Not plain `apply`, which keeps a copy of the manifest in an annotation that large CRDs do not fit into.
        self.kubectl(&["apply", "--server-side", "-f", folder], "").await?;
        self.until_crds_are_served().await
    }

    /// Installs our own CRDs, as they stand in `crds/`, and waits until they are served.
    pub async fn install_our_crds(&self) -> Result<()> {
        let folder = repository().join("crds");
        let folder = folder.to_str().context("the repository's path is not UTF-8")?;
        self.kubectl(&["apply", "--server-side", "-f", folder], "").await?;
        self.until_crds_are_served().await
    }

    /// Installs Gateway API's CRDs and Envoy Gateway's own, of the Envoy Gateway that `xtask tools` builds, and waits until
    /// they are served.
    pub async fn install_envoy_gateway_crds(&self) -> Result<()> {
        let folder = tool("envoy-gateway-crds").await?;
        let folder = folder.to_str().context("the cache's path is not UTF-8")?;
        self.kubectl(&["apply", "--server-side", "-f", folder], "").await?;
        self.until_crds_are_served().await
    }

    /// Waits until every CRD of the cluster is established, and found by those who look for its kind.
    pub async fn until_crds_are_served(&self) -> Result<()> {
        let client = self.client().await?;
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            let missing = not_served(&client).await?;
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "CRDs that are not served: {}", missing.join(", "));
            tokio::time::sleep(READY_LOOK).await;
        }
    }
}

/// The CRDs that are not established, or have a version that discovery does not list: the two do not come at once.
async fn not_served(client: &Client) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for crd in Api::<CustomResourceDefinition>::all(client.clone()).list(&ListParams::default()).await? {
        let conditions = crd.status.as_ref().and_then(|status| status.conditions.as_ref());
        let is_established = conditions.is_some_and(|all| {
            all.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
        });
        let mut is_served = is_established;
        for version in crd.spec.versions.iter().filter(|version| version.served && is_established) {
            let group_version = format!("{}/{}", crd.spec.group, version.name);
            let listed = client.list_api_group_resources(&group_version).await;
            is_served &=
                listed.is_ok_and(|list| list.resources.iter().any(|found| found.name == crd.spec.names.plural));
        }
        if !is_served {
            missing.push(crd.name_any());
        }
    }
    Ok(missing)
}
