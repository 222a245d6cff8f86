//! The tools that `make tools` brought, found by who brought them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::process::cargo;

/// Where a tool of `xtask tools` lies: a program, or a folder of files. It is not fetched: a test that compiles
/// Kubernetes meanwhile would tell nobody what it waits for.
pub async fn tool(name: &str) -> Result<PathBuf> {
    let mut xtask = Command::new(xtask().await?);
    let output = xtask.args(["tools", "--no-fetch", "--print-path", name]).output().await?;
    if !output.status.success() {
        bail!("no {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

/// The program xtask, built once a test run.
async fn xtask() -> Result<&'static Path> {
    static XTASK: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || {
        let mut cargo = Command::from(cargo());
        cargo.args(["build", "--quiet", "-p", "xtask", "--message-format=json-render-diagnostics"]);
        let output = cargo.output().await.context("cargo cannot be started")?;
        if !output.status.success() {
            bail!("cargo build of xtask: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let mut messages =
            output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let built = messages.find_map(|message: Value| Some(PathBuf::from(message["executable"].as_str()?)));
        built.context("cargo names no program of xtask")
    };
    XTASK.get_or_try_init(build).await.map(PathBuf::as_path)
}
