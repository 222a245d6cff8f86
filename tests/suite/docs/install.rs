//! The page about installing: its commands, run as they stand, in their order.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman_tests::control_plane::ControlPlane;
use pointsman_tests::process::{built, repository};
use pointsman_tests::tools::tool;
use tokio::process::Command;

const PAGE: &str = "docs/install.md";
/// How long one command may take. About five times what was seen on two busy cores.
const DEADLINE: Duration = Duration::from_secs(60);
/// What cannot be run where there is no kubelet and no network.
const NOT_RUN: [(&str, &str); 3] = [
    ("ENVOY_GATEWAY_CHART", "Envoy Gateway's own chart is not to be had here"),
    ("curl ", "no kubelet runs a gateway; `inference_pools` asks one that the chart's extension server configures"),
    ("helm test", "no kubelet runs its pod; `chart::standalone` does"),
];
/// What says that something is missing, as it has to be without a kubelet.
const FAILS: &str = "kubectl pointsman check";

/// The commands of the page: lines of its `sh` blocks, each with the text that it is given.
fn commands() -> Result<Vec<String>> {
    let page = std::fs::read_to_string(repository().join(PAGE))?;
    let mut commands = Vec::new();
    for block in page.split("```sh\n").skip(1) {
        let block = block.split("```").next().context("a block without an end")?;
        let mut lines = block.lines();
        while let Some(line) = lines.next() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut command = line.to_owned();
            while command.ends_with('\\') {
                command = format!("{command}\n{}", lines.next().context("a line that goes on, and nothing after it")?);
            }
            if line.contains("<<EOF") {
                for given in lines.by_ref() {
                    command = format!("{command}\n{given}");
                    if given == "EOF" {
                        break;
                    }
                }
            }
            commands.push(command);
        }
    }
    ensure!(commands.len() >= 20, "{PAGE} has {} commands", commands.len());
    Ok(commands)
}

/// A folder with the programs that a reader has, under the names that the page uses.
async fn programs(folder: &Path) -> Result<()> {
    let pointsman = built("pointsman", "pointsman")?;
    for (name, program) in [
        ("helm", tool("helm").await?),
        ("kubectl", tool("kubectl").await?),
        ("pointsman", pointsman.clone()),
        ("kubectl-pointsman", pointsman),
    ] {
        symlink(program, folder.join(name))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_page_does_what_it_says() -> Result<()> {
    let plane = ControlPlane::start().await?;
    // What Envoy Gateway's chart brings.
    plane.install_envoy_gateway_crds().await?;
    let (bin, checkout) = (tempfile::tempdir()?, tempfile::tempdir()?);
    programs(bin.path()).await?;
    for folder in ["charts", "crds"] {
        symlink(repository().join(folder), checkout.path().join(folder))?;
    }
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH")?);
    let (mut ran, mut left_out) = (0, 0);
    for command in commands()? {
        if NOT_RUN.iter().any(|(what, _)| command.contains(what)) {
            left_out += 1;
            continue;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(checkout.path()).kill_on_drop(true);
        shell.env("PATH", &path).env("KUBECONFIG", plane.kubeconfig()).env("HOME", checkout.path());
        let output = tokio::time::timeout(DEADLINE, shell.output()).await.with_context(|| command.clone())??;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        match command.contains(FAILS) {
            true => ensure!(said.contains("permissions of the picker"), "{command}\n{said}"),
            false => ensure!(output.status.success(), "{command}\n{said}"),
        }
        if command.starts_with("helm install") || command.starts_with("helm upgrade") {
            // Definitions that came just now are not served at once.
            plane.until_crds_are_served().await?;
        }
        ran += 1;
    }
    ensure!(ran >= 3 * left_out, "only {ran} commands were run, {left_out} were left out");
    Ok(())
}
