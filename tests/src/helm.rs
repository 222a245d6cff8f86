//! The chart as users install it: by the real helm, on the real API server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;

use crate::control_plane::Namespace;
use crate::process::{fed, repository};
use crate::tools::tool;

/// The version that charts are rendered for where no API server says its own.
const KUBERNETES: &str = "1.34";
/// How long one helm may take. About five times what was seen of an install on two busy cores.
const DEADLINE: Duration = Duration::from_secs(120);

/// The chart's folder.
pub fn chart() -> PathBuf {
    repository().join("charts/pointsman")
}

/// `helm template` of a release, without an API server; what `helm test` would run is left out.
pub async fn template(release: &str, namespace: &str, values: &str) -> Result<String> {
    render(release, namespace, values, &["--skip-tests"]).await
}

/// The same, with what `helm test` would run.
pub async fn template_with_tests(release: &str, namespace: &str, values: &str) -> Result<String> {
    render(release, namespace, values, &[]).await
}

async fn render(release: &str, namespace: &str, values: &str, flags: &[&str]) -> Result<String> {
    let mut helm = Command::new(tool("helm").await?);
    helm.args(["template", release]).arg(chart()).args(["--namespace", namespace, "--values", "-"]).args(flags);
    helm.args(["--kube-version", KUBERNETES]);
    fed("helm", helm, values, DEADLINE).await
}

/// `helm lint --strict` with these values.
pub async fn lint(values: &str) -> Result<String> {
    let mut helm = Command::new(tool("helm").await?);
    helm.args(["lint", "--strict", "--kube-version", KUBERNETES]).arg(chart()).args(["--values", "-"]);
    fed("helm", helm, values, DEADLINE).await
}

impl Namespace<'_> {
    /// Runs helm in this namespace, as the administrator, with values on its standard input.
    pub async fn helm(&self, arguments: &[&str], values: &Value) -> Result<String> {
        fed("helm", self.helm_command(arguments).await?, &values.to_string(), DEADLINE).await
    }

    /// `helm install` of the chart, or the `helm upgrade` of a release of it.
    pub async fn install(&self, release: &str, values: &Value) -> Result<String> {
        let chart = chart();
        let chart = chart.to_str().context("the repository's path is not UTF-8")?;
        self.helm(&["upgrade", "--install", release, chart, "--values", "-"], values).await
    }

    async fn helm_command(&self, arguments: &[&str]) -> Result<Command> {
        let plane = self.plane();
        let mut helm = Command::new(tool("helm").await?);
        // What helm keeps of its own belongs to the control plane's folder.
        helm.env("KUBECONFIG", plane.kubeconfig()).env("HOME", plane.folder());
        helm.args(["--namespace", &self.name]).args(arguments);
        Ok(helm)
    }
}
