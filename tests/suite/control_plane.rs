use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams, VersionMatch, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use pointsman_tests::control_plane::{ControlPlane, PodPlan};

/// How long a watch may take until it says something. About five times what was seen on two busy cores.
const WATCH_DEADLINE: Duration = Duration::from_secs(10);

/// Whether a pod's condition of that type is true.
fn is(pod: &Pod, condition: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|found| found.type_ == condition).any(|found| found.status == "True")
}

fn ip(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref()
}

/// The code of the error that a watch from `version` begins with.
async fn watch_error(pods: &Api<Pod>, version: &str) -> Result<u16> {
    let first = async {
        let watch = match pods.watch(&WatchParams::default(), version).await {
            Ok(watch) => watch,
            Err(kube::Error::Api(status)) => return Ok(status.code),
            Err(error) => return Err(error.into()),
        };
        match std::pin::pin!(watch).next().await {
            Some(Ok(WatchEvent::Error(status))) => Ok(status.code),
            other => bail!("the watch began with {other:?}"),
        }
    };
    tokio::time::timeout(WATCH_DEADLINE, first).await.context("the watch says nothing")?
}

#[tokio::test]
async fn upstream_crds_are_established_and_served() {
    let plane = ControlPlane::shared().await.unwrap();
    let client = plane.client().await.unwrap();
    let crds = Api::<CustomResourceDefinition>::all(client).list(&ListParams::default()).await.unwrap();
    // Other tests of this process install ours beside them, and Gateway API's.
    let served: BTreeSet<_> = crds
        .iter()
        .filter(|crd| crd.spec.group.starts_with("inference.networking."))
        .flat_map(|crd| crd.spec.versions.iter().map(|version| (crd.name_any(), version.name.clone())))
        .collect();
    let expected = [
        ("inferencemodelrewrites.inference.networking.x-k8s.io", "v1alpha2"),
        ("inferencemodels.inference.networking.x-k8s.io", "v1alpha2"),
        ("inferenceobjectives.inference.networking.x-k8s.io", "v1alpha2"),
        ("inferencepoolimports.inference.networking.x-k8s.io", "v1alpha1"),
        ("inferencepools.inference.networking.k8s.io", "v1"),
        ("inferencepools.inference.networking.x-k8s.io", "v1alpha2"),
    ];
    assert_eq!(served, expected.map(|(name, version)| (name.to_owned(), version.to_owned())).into());
}

#[tokio::test]
async fn the_api_server_refuses_what_a_crd_forbids_and_names_the_field() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("refused").await.unwrap();
    let pool = |port: u32| {
        format!(
            "
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: pool}}
spec:
  selector: {{matchLabels: {{app: vllm}}}}
  targetPorts: [{{number: {port}}}]
  endpointPickerRef: {{name: picker, port: {{number: 9002}}}}
"
        )
    };
    let refused = namespace.apply(&pool(70_000)).await.unwrap_err().to_string();
    assert!(refused.contains("spec.targetPorts[0].number"), "{refused}");
    let accepted = namespace.apply(&pool(8000)).await.unwrap();
    assert!(accepted.contains("pool created"), "{accepted}");
    let deleted = namespace.delete(&pool(8000)).await.unwrap();
    assert!(deleted.contains("deleted"), "{deleted}");
}

#[tokio::test]
async fn a_pod_reads_back_as_a_kubelet_would_have_said() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("pods").await.unwrap();
    let pods: Api<Pod> = namespace.api();
    let address = namespace.network.ip(10);
    namespace.pod(&PodPlan::new("gpu-a", "vllm", address)).await.unwrap();

    let ready = pods.list(&ListParams::default().labels("app=vllm")).await.unwrap().items.remove(0);
    assert_eq!(ip(&ready), Some(address.to_string().as_str()));
    assert_eq!(ready.spec.as_ref().and_then(|spec| spec.node_name.as_deref()), Some("node-a"));
    assert!(is(&ready, "Ready") && is(&ready, "PodScheduled"), "{:?}", ready.status);

    namespace.set_ready("gpu-a", false).await.unwrap();
    let unready = pods.get("gpu-a").await.unwrap();
    assert!(!is(&unready, "Ready") && is(&unready, "PodScheduled"), "{:?}", unready.status);

    namespace.set_ip("gpu-a", None).await.unwrap();
    assert_eq!(ip(&pods.get("gpu-a").await.unwrap()), None);
    namespace.set_ip("gpu-a", Some(namespace.network.ip(11))).await.unwrap();
    assert_eq!(ip(&pods.get("gpu-a").await.unwrap()), Some(namespace.network.ip(11).to_string().as_str()));

    namespace.terminate_pod("gpu-a").await.unwrap();
    assert!(pods.get("gpu-a").await.unwrap().metadata.deletion_timestamp.is_some());
    namespace.remove_pod("gpu-a").await.unwrap();
    assert!(pods.get_opt("gpu-a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_token_stands_for_its_service_account_and_for_nothing_more() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("tokens").await.unwrap();
    namespace.service_account("picker").await.unwrap();
    let token = namespace.token("picker").await.unwrap();
    let client = plane.client_for(&token).await.unwrap();

    let review = Api::all(client.clone()).create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    let user = review.status.unwrap().user_info.unwrap().username.unwrap();
    assert_eq!(user, format!("system:serviceaccount:{}:picker", namespace.name));

    let pods: Api<Pod> = Api::namespaced(client, &namespace.name);
    match pods.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{status:?}"),
        other => panic!("RBAC lets it: {other:?}"),
    }

    let kubeconfig = plane.kubeconfig_for(&token).unwrap();
    let mut kubectl = plane.kubectl_command();
    let output = kubectl.env("KUBECONFIG", kubeconfig).args(["auth", "whoami"]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&user), "{output:?}");
}

#[tokio::test]
async fn an_outage_loses_nothing_and_a_compacted_history_ends_old_watches() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("outage").await.unwrap();
    let pods: Api<Pod> = namespace.api();
    let before = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    namespace.pod(&PodPlan::new("gpu-a", "vllm", namespace.network.ip(10))).await.unwrap();
    let seen = pods.get("gpu-a").await.unwrap();

    plane.stop_api_server().await.unwrap();
    assert!(pods.get("gpu-a").await.is_err(), "the API server still answers");
    plane.restart_api_server().await.unwrap();

    // The client from before the outage goes on, and what was there still is.
    let again = pods.get("gpu-a").await.unwrap();
    assert_eq!((ip(&again), again.uid()), (ip(&seen), seen.uid()));
    // So is the past, as long as etcd remembers it.
    let past = ListParams::default().at(&before).matching(VersionMatch::Exact);
    assert!(pods.list(&past).await.unwrap().items.is_empty());
    plane.compact_etcd().await.unwrap();
    match pods.list(&past).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 410, "{status:?}"),
        other => panic!("etcd still remembers: {other:?}"),
    }
    assert_eq!(watch_error(&pods, &before).await.unwrap(), 410);
    // The API server takes writes too.
    let maps: Api<ConfigMap> = namespace.api();
    let map = ConfigMap {
        metadata: kube::core::ObjectMeta { name: Some("after".to_owned()), ..Default::default() },
        ..Default::default()
    };
    maps.create(&PostParams::default(), &map).await.unwrap();
}
