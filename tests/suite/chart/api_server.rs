use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream};
use pointsman_tests::control_plane::ControlPlane;
use pointsman_tests::helm::template_with_tests;
use pointsman_tests::process::repository;
use pointsman_tests::tools::tool;
use serde_json::{Value, json};

use super::{AT_ONCE, NAMESPACE, RELEASE, Values, objects, title, values_files};

/// Kinds whose definitions no package brings.
const UNDEFINED: &str = "networking.gke.io/v1";

/// A control plane with every definition that the chart's objects may be of, and namespaces that pods must be restricted in.
async fn plane() -> Result<ControlPlane> {
    let plane = ControlPlane::start().await?;
    let mut folders = vec![repository().join("crds"), repository().join("crds/upstream")];
    for name in ["envoy-gateway-crds", "prometheus-operator-crds", "cert-manager-crds", "istio-crds"] {
        folders.push(tool(name).await?);
    }
    for folder in folders {
        let folder = folder.to_str().context("a path that is not UTF-8")?;
        plane.kubectl(&["apply", "--server-side", "-f", folder], "").await?;
    }
    plane.until_crds_are_served().await?;
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    for name in [NAMESPACE, "models", "envoy-gateway-system"] {
        let metadata = json!({"name": name, "labels": labels});
        plane.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}).to_string()).await?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        plane.kubectl(&["-n", name, "apply", "-f", "-"], &account.to_string()).await?;
    }
    Ok(plane)
}

/// The pod that a Deployment would have, under a ServiceAccount that is there.
fn pod_of(deployment: &Value) -> Value {
    let template = &deployment["spec"]["template"];
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    pod["metadata"]["name"] = deployment["metadata"]["name"].clone();
    pod["metadata"]["namespace"] = deployment["metadata"]["namespace"].clone();
    pod["spec"]["serviceAccountName"] = json!("default");
    pod
}

async fn dry_run(plane: &ControlPlane, all: &[Value]) -> Result<String> {
    let text: String = all.iter().map(|object| format!("---\n{object}\n")).collect();
    plane.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], &text).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_set_of_values_is_taken_and_its_pods_are_restricted() -> Result<()> {
    let plane = plane().await?;
    // The check can fail.
    let security = json!({"allowPrivilegeEscalation": true});
    let open = json!({"containers": [{"name": "a", "image": "a", "securityContext": security}]});
    let open =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "open", "namespace": NAMESPACE}, "spec": open});
    let refusal = dry_run(&plane, &[open]).await.err().context("an open pod is taken")?.to_string();
    ensure!(refusal.contains("restricted"), "{refusal}");

    let examine = async |values: Values| {
        let mut all = objects(&template_with_tests(RELEASE, NAMESPACE, &values.text).await?)?;
        let before = all.len();
        all.retain(|object| object["apiVersion"] != UNDEFINED);
        ensure!(before == all.len() || values.name == "gke", "{} has objects that nobody looks at", values.name);
        for pod in all.iter_mut().filter(|object| object["kind"] == "Pod") {
            // Its own account is made by the same release.
            pod["spec"]["serviceAccountName"] = json!("default");
        }
        let deployments = all.iter().filter(|object| object["kind"] == "Deployment");
        let pods: Vec<_> = deployments.map(pod_of).collect();
        ensure!(!pods.is_empty(), "{}: nothing runs", values.name);
        all.extend(pods);
        let titles: Vec<_> = all.iter().map(title).collect();
        let said = dry_run(&plane, &all).await.with_context(|| format!("{}: {}", values.name, titles.join(", ")))?;
        ensure!(said.lines().count() == all.len(), "{}: {said}", values.name);
        Ok(())
    };
    let examined: Vec<Result<()>> = stream::iter(values_files()?).map(examine).buffered(AT_ONCE).collect().await;
    let faults: Vec<_> = examined.into_iter().filter_map(|one| Some(format!("{:#}", one.err()?))).collect();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
