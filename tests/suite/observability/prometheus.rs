//! A real Prometheus that scrapes the pickers of a stack each second.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman_tests::client::Client;
use pointsman_tests::control_plane::Namespace;
use pointsman_tests::process::Program;
use pointsman_tests::tools::tool;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

/// The host that it has in the network of the stack's namespace, beside Envoy, pickers and servers.
const HOST: u8 = 15;
/// How long it may take to answer, and its rules to have been evaluated. About five times what was seen.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// A running Prometheus. Dropping it ends it.
pub(super) struct Prometheus {
    program: Program,
    client: Client,
    url: String,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes these pickers, as one job of their namespace, and evaluates these rules.
    pub(super) async fn start(namespace: &Namespace<'_>, pickers: &[SocketAddr], rules: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let targets: Vec<String> = pickers.iter().map(|picker| format!("'{picker}'")).collect();
        let mut configuration = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n".to_owned();
        writeln!(configuration, "rule_files: ['{}']", rules.canonicalize()?.display())?;
        writeln!(configuration, "scrape_configs:\n- job_name: picker\n  static_configs:")?;
        writeln!(
            configuration,
            "  - {{targets: [{}], labels: {{namespace: {}}}}}",
            targets.join(", "),
            namespace.name
        )?;
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, configuration)?;
        let address = namespace.network.address(HOST, 9090);
        let mut command = Command::new(tool("prometheus").await?);
        command.arg("--config.file").arg(file).arg("--storage.tsdb.path").arg(folder.path().join("data"));
        command.args([&format!("--web.listen-address={address}"), "--log.level=warn"]);
        let program = Program::start("prometheus", command, folder.path())?;
        let url = format!("http://{address}");
        let mut started = Self { program, client: Client::new(), url, _folder: folder };
        let deadline = Instant::now() + DEADLINE;
        while !matches!(started.client.get(&format!("{}/-/ready", started.url), &[]).await, Ok(answer) if answer.status == 200)
        {
            started.must_run()?;
            ensure!(Instant::now() < deadline, "Prometheus is never ready:\n{}", started.program.log());
            tokio::time::sleep(LOOK).await;
        }
        Ok(started)
    }

    /// Fails when it has ended.
    pub(super) fn must_run(&mut self) -> Result<()> {
        self.program.must_run()
    }

    /// What a query says now: the values that are numbers.
    pub(super) async fn answers(&self, query: &str) -> Result<Vec<f64>> {
        let data = self.get(&format!("query?query={}", encoded(query))).await?;
        let samples = data["result"].as_array().with_context(|| format!("no vector: {data}"))?;
        let values = samples.iter().filter_map(|sample| sample["value"][1].as_str()?.parse::<f64>().ok());
        Ok(values.filter(|value| value.is_finite()).collect())
    }

    /// The names of all metrics that were scraped.
    pub(super) async fn metrics(&self) -> Result<BTreeSet<String>> {
        let names = self.get("label/__name__/values").await?;
        Ok(serde_json::from_value(names)?)
    }

    /// Waits until every rule was evaluated without an error, and none fires. Pending is no fault: machines have their
    /// moments, which `for` is there to outlast.
    pub(super) async fn until_rules_are_quiet(&self) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let data = self.get("rules").await?;
            let groups = data["groups"].as_array().context("no groups")?;
            let rules: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
            ensure!(!rules.is_empty(), "no rules were loaded");
            let restless: Vec<_> =
                rules.iter().filter(|rule| rule["health"] != "ok" || rule["state"] == "firing").collect();
            if restless.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "rules that fail, or fire: {restless:#?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn get(&self, what: &str) -> Result<Value> {
        let answer = self.client.get(&format!("{}/api/v1/{what}", self.url), &[]).await?;
        let said = answer.json()?;
        ensure!(said["status"] == "success", "{said}");
        Ok(said["data"].clone())
    }
}

/// A query as it may stand in a URL.
fn encoded(query: &str) -> String {
    query.bytes().fold(String::new(), |mut text, byte| {
        let plain = byte.is_ascii_alphanumeric() || byte == b'_';
        if plain {
            text.push(byte.into())
        } else {
            text.push_str(&format!("%{byte:02X}"))
        }
        text
    })
}
