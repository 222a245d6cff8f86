//! etcd: how it is started, and its JSON interface, of which tests need two calls.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use super::ETCD_HOST;
use crate::client::Client;
use crate::netns::Network;
use crate::tools::tool;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// Where clients find it.
pub(super) fn url(network: Network) -> String {
    format!("http://{}", network.address(ETCD_HOST, CLIENT_PORT))
}

/// The command that runs one in `folder`.
pub(super) async fn command(network: Network, folder: &Path) -> Result<Command> {
    let mut command = Command::new(tool("etcd").await?);
    let (client, peer) = (url(network), format!("http://{}", network.address(ETCD_HOST, PEER_PORT)));
    command.arg("--data-dir").arg(folder.join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.arg("--initial-cluster").arg(format!("default={peer}"));
    // It survives the API server, not the machine.
    command.args(["--unsafe-no-fsync", "--log-level", "warn"]);
    Ok(command)
}

/// Whether it has elected itself and serves.
pub(super) async fn is_ready(network: Network) -> Result<()> {
    let answer = Client::new().get(&format!("{}/health", url(network)), &[]).await?;
    ensure!(answer.status == 200, "/health says {}: {}", answer.status, answer.text());
    Ok(())
}

/// Forgets the history up to now.
pub(super) async fn compact(network: Network) -> Result<()> {
    // Reading any key tells the revision of the store; this one is a zero byte, in base64.
    let read = call(network, "range", &json!({"key": "AA=="})).await?;
    let revision = &read["header"]["revision"];
    call(network, "compaction", &json!({"revision": revision, "physical": true})).await?;
    Ok(())
}

async fn call(network: Network, method: &str, body: &Value) -> Result<Value> {
    let url = format!("{}/v3/kv/{method}", url(network));
    let answer = Client::new().post(&url, &[], body.to_string()).await.with_context(|| format!("asking {url}"))?;
    ensure!(answer.status == 200, "{url} says {}: {}", answer.status, answer.text());
    answer.json()
}
