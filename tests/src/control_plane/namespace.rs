//! A test's own namespace, and the pods in it that no kubelet runs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{self, Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::ControlPlane;
use crate::netns::Network;

/// How long a token of [`Namespace::token`] is good for: longer than any test.
const TOKEN_SECONDS: i64 = 3600;

/// A namespace of the cluster and a /24 for the pods in it. It stays when it is dropped: namespaces here do not finalize.
pub struct Namespace<'plane> {
    /// Its name.
    pub name: String,
    /// The addresses of its pods.
    pub network: Network,
    /// The administrator's client, of the runtime that made the namespace.
    pub client: Client,
    plane: &'plane ControlPlane,
}

/// A pod to create, and what a kubelet would say of it.
#[derive(Clone, Debug)]
pub struct PodPlan {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its address; none yet when absent.
    pub ip: Option<IpAddr>,
    /// The node that it is bound to. There need not be one of that name.
    pub node: String,
    /// Whether it is Ready.
    pub ready: bool,
}

impl PodPlan {
    /// A ready pod at `ip`, with the label `app`.
    pub fn new(name: &str, app: &str, ip: IpAddr) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            annotations: BTreeMap::new(),
            ip: Some(ip),
            node: "node-a".to_owned(),
            ready: true,
        }
    }

    /// The same under another name.
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// The same with one more label.
    pub fn labelled(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What a kubelet would write into its status.
    fn status(&self) -> Value {
        let condition = |name: &str, is: bool| json!({"type": name, "status": if is { "True" } else { "False" }});
        json!({
            "phase": "Running",
            "podIP": self.ip,
            "podIPs": self.ip.map(|ip| vec![json!({"ip": ip})]),
            "conditions": [
                condition("PodScheduled", true),
                condition("Initialized", true),
                condition("ContainersReady", self.ready),
                condition("Ready", self.ready),
            ],
        })
    }
}

impl ControlPlane {
    /// Makes a namespace whose name begins with `prefix`, with the `default` ServiceAccount that pods need.
    pub async fn namespace(&self, prefix: &str) -> Result<Namespace<'_>> {
        let client = self.client().await?;
        let generate_name = Some(format!("{prefix}-"));
        let wanted = v1::Namespace {
            metadata: ObjectMeta { generate_name, ..ObjectMeta::default() },
            ..v1::Namespace::default()
        };
        let made = Api::all(client.clone()).create(&PostParams::default(), &wanted).await.context("a namespace")?;
        let namespace = Namespace { name: made.name_any(), network: Network::take()?, client, plane: self };
        namespace.service_account("default").await?;
        Ok(namespace)
    }
}

impl Namespace<'_> {
    /// The cluster that it is a namespace of.
    pub fn plane(&self) -> &ControlPlane {
        self.plane
    }

    /// The kinds of this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// `kubectl apply` of manifests into this namespace; what it said.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.plane.kubectl(&["-n", &self.name, "apply", "-f", "-"], manifests).await
    }

    /// `kubectl delete` of what manifests name in this namespace.
    pub async fn delete(&self, manifests: &str) -> Result<String> {
        self.plane.kubectl(&["-n", &self.name, "delete", "-f", "-"], manifests).await
    }

    /// Creates a pod as planned, status included.
    pub async fn pod(&self, plan: &PodPlan) -> Result<Pod> {
        let wanted: Pod = serde_json::from_value(json!({
            "metadata": {"name": plan.name, "labels": plan.labels, "annotations": plan.annotations},
            "spec": {"nodeName": plan.node, "containers": [{"name": "server", "image": "none"}]},
        }))?;
        self.api().create(&PostParams::default(), &wanted).await.with_context(|| format!("pod {}", plan.name))?;
        self.patch_status(&plan.name, Patch::Strategic(json!({"status": plan.status()}))).await
    }

    /// Says that a pod is ready, or not.
    pub async fn set_ready(&self, pod: &str, ready: bool) -> Result<Pod> {
        let status = if ready { "True" } else { "False" };
        let conditions = ["ContainersReady", "Ready"].map(|name| json!({"type": name, "status": status}));
        self.patch_status(pod, Patch::Strategic(json!({"status": {"conditions": conditions}}))).await
    }

    /// Gives a pod another address, or takes it away.
    pub async fn set_ip(&self, pod: &str, ip: Option<IpAddr>) -> Result<Pod> {
        let all = ip.map(|ip| vec![json!({"ip": ip})]);
        self.patch_status(pod, Patch::Merge(json!({"status": {"podIP": ip, "podIPs": all}}))).await
    }

    /// Deletes a pod as users do: it is terminating from now on, and stays, there being no kubelet to end it.
    pub async fn terminate_pod(&self, pod: &str) -> Result<()> {
        self.delete_pod(pod, &DeleteParams::default()).await
    }

    /// Deletes a pod at once.
    pub async fn remove_pod(&self, pod: &str) -> Result<()> {
        self.delete_pod(pod, &DeleteParams::default().grace_period(0)).await
    }

    /// Makes a ServiceAccount.
    pub async fn service_account(&self, name: &str) -> Result<()> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let wanted = ServiceAccount { metadata, ..ServiceAccount::default() };
        let made = self.api().create(&PostParams::default(), &wanted).await;
        made.map(|_| ()).with_context(|| format!("ServiceAccount {name}"))
    }

    /// A token of a ServiceAccount.
    pub async fn token(&self, service_account: &str) -> Result<String> {
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let wanted = TokenRequest { spec, ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = self.api();
        let made = accounts.create_token_request(service_account, &PostParams::default(), &wanted).await;
        let status = made.with_context(|| format!("a token of {service_account}"))?.status;
        Ok(status.context("the API server minted no token")?.token)
    }

    async fn patch_status(&self, pod: &str, patch: Patch<Value>) -> Result<Pod> {
        let patched = self.api().patch_status(pod, &PatchParams::default(), &patch).await;
        patched.with_context(|| format!("the status of pod {pod}"))
    }

    async fn delete_pod(&self, pod: &str, how: &DeleteParams) -> Result<()> {
        let pods: Api<Pod> = self.api();
        pods.delete(pod, how).await.map(|_| ()).with_context(|| format!("deleting pod {pod}"))
    }
}
