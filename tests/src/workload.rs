//! What an installer put into the cluster, as a kubelet would run it: the commands, arguments, environment and
//! ServiceAccount of a Deployment or Pod, as processes here.
//!
//! What differs from a kubelet: images are the programs of this machine (ours, or the Envoy that a container's command
//! names), the token of the ServiceAccount comes in a kubeconfig, and what is mounted at a path lies in a folder of the
//! test, which takes the path's place in the arguments.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Secret, Volume};
use tokio::process::Command;

use crate::control_plane::Namespace;
use crate::process::{built, envoy};

/// The pods of a Deployment, or one pod.
pub struct Workload<'a> {
    namespace: &'a Namespace<'a>,
    /// How its pods are made.
    pub spec: PodSpec,
    /// How many are wanted.
    pub replicas: usize,
    kubeconfig: PathBuf,
}

/// One pod of a workload.
pub struct RunningPod<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub ip: IpAddr,
    /// A folder of its own, for what is mounted.
    pub folder: &'a Path,
}

impl<'a> Workload<'a> {
    /// A Deployment's, as the API server has it.
    pub async fn of(namespace: &'a Namespace<'a>, deployment: &str) -> Result<Self> {
        let found: Deployment =
            namespace.api().get(deployment).await.with_context(|| format!("Deployment {deployment}"))?;
        let spec = found.spec.context("a Deployment without a spec")?;
        let replicas = usize::try_from(spec.replicas.unwrap_or(1))?;
        Self::new(namespace, spec.template.spec.context("a template without a spec")?, replicas).await
    }

    /// One of these pods.
    pub async fn new(namespace: &'a Namespace<'a>, spec: PodSpec, replicas: usize) -> Result<Self> {
        let account = spec.service_account_name.as_deref().unwrap_or("default");
        let kubeconfig = namespace.plane().kubeconfig_for(&namespace.token(account).await?)?;
        Ok(Self { namespace, spec, replicas, kubeconfig })
    }

    /// The command of a container, or of an init container, of a pod.
    pub async fn command(&self, container: &str, pod: &RunningPod<'_>) -> Result<Command> {
        let all = self.spec.init_containers.iter().flatten().chain(&self.spec.containers);
        let container = all.into_iter().find(|one| one.name == container).context("no container of that name")?;
        let environment = self.environment(container, pod)?;
        let mounts = self.mounts(container, pod).await?;
        let local = |text: &String| {
            let text = expanded(text, &environment);
            mounts.iter().fold(text, |text, (path, folder)| text.replace(path, folder))
        };
        let words: Vec<String> =
            container.command.iter().flatten().chain(container.args.iter().flatten()).map(local).collect();
        let mut command = match &container.command {
            // An image's own entry point.
            None => Command::new(built("pointsman", "pointsman")?),
            Some(command) if command == &["envoy"] => Command::new(envoy()?),
            Some(command) => bail!("{command:?} is no program of this machine"),
        };
        command.args(&words[container.command.as_ref().map_or(0, Vec::len)..]);
        command.envs(environment).env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }

    fn environment(&self, container: &Container, pod: &RunningPod<'_>) -> Result<Vec<(String, String)>> {
        let value = |variable: &k8s_openapi::api::core::v1::EnvVar| {
            if let Some(value) = &variable.value {
                return Ok(value.clone());
            }
            let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
            Ok(match field.map(|field| &*field.field_path) {
                Some("metadata.name") => pod.name.to_owned(),
                Some("metadata.namespace") => self.namespace.name.clone(),
                Some("status.podIP") => pod.ip.to_string(),
                other => bail!("{}: nobody here knows {other:?}", variable.name),
            })
        };
        container.env.iter().flatten().map(|variable| Ok((variable.name.clone(), value(variable)?))).collect()
    }

    /// The container's mounts, as their paths and the folders that stand for them.
    async fn mounts(&self, container: &Container, pod: &RunningPod<'_>) -> Result<Vec<(String, String)>> {
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = self.spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
            let volume = volume.context("a mount without its volume")?;
            if volume.projected.is_some() {
                // The API server's own addition: the ServiceAccount's token.
                continue;
            }
            let folder = pod.folder.join(&mount.name);
            std::fs::create_dir_all(&folder)?;
            for (name, content) in self.content(volume).await? {
                std::fs::write(folder.join(name), content)?;
            }
            mounts.push((mount.mount_path.clone(), folder.to_str().context("a path that is not UTF-8")?.to_owned()));
        }
        Ok(mounts)
    }

    /// The files of a volume.
    async fn content(&self, volume: &Volume) -> Result<Vec<(String, Vec<u8>)>> {
        if let Some(source) = &volume.config_map {
            let found: ConfigMap = self.namespace.api().get(&source.name).await?;
            return Ok(found.data.into_iter().flatten().map(|(name, text)| (name, text.into_bytes())).collect());
        }
        if let Some(name) = volume.secret.as_ref().and_then(|source| source.secret_name.as_ref()) {
            let found: Secret = self.namespace.api().get(name).await?;
            return Ok(found.data.into_iter().flatten().map(|(name, ByteString(bytes))| (name, bytes)).collect());
        }
        ensure!(volume.empty_dir.is_some(), "volume {}: nobody here knows its kind", volume.name);
        Ok(Vec::new())
    }
}

/// The text with `$(NAME)` as Kubernetes fills it in.
fn expanded(text: &str, environment: &[(String, String)]) -> String {
    environment.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}
