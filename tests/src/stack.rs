//! A whole stack on loopback addresses of its own: simulated model servers, the real picker, the real Envoy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use pointsman_envoy::bootstrap::{BootstrapOptions, Peer, PeerTls, Pem, PoolWiring, bootstrap, to_yaml};
use pointsman_sim::{EngineConfig, SimConfig, SimHandle, SimServer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::client::{Answer, Client};
use crate::process::{Program, built, envoy};

/// How long a stack may take until it answers. About five times what was seen on two busy cores.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is tried meanwhile.
const READY_LOOK: Duration = Duration::from_millis(50);
/// The port of simulated servers; each has an address of its own.
const SIM_PORT: u16 = 8000;
/// The port of the first pool's listener; the next pools have the next ports.
///
/// Not 8080 or 8081: an Envoy Gateway that runs beside takes those on every address.
pub const LISTEN_PORT: u16 = 8100;

/// Another loopback /24 for each stack of a test process, so that fixed ports do not clash: two processes at once share
/// one only when their ids are alike modulo 100.
fn own_network() -> [u8; 3] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = (std::process::id() % 100) as u8;
    [127, 100 + process, NEXT.fetch_add(1, Ordering::Relaxed)]
}

/// One pool of a stack: its servers, and how Envoy is wired for it.
pub struct PoolPlan {
    /// `namespace/name`.
    pub name: String,
    /// Its servers; names are given by the stack.
    pub servers: Vec<SimConfig>,
    /// `scheduling`, as YAML's flow style.
    pub scheduling: String,
    /// Changes the wiring.
    pub wire: fn(&mut PoolWiring),
}

impl PoolPlan {
    /// A pool of `servers` fast servers, wired as by default.
    pub fn new(name: &str, servers: usize) -> Self {
        Self { name: name.to_owned(), servers: vec![fast(); servers], scheduling: "{}".to_owned(), wire: |_| {} }
    }
}

/// A server that answers at once, however long the prompt: tests of the protocol do not wait for a model.
pub fn fast() -> SimConfig {
    let engine = EngineConfig {
        speed: 50.0,
        max_running: 1024,
        kv_tokens: 16 << 20,
        prefill_tokens_per_second: 1e7,
        max_batched_tokens: 1 << 20,
        ..EngineConfig::default()
    };
    SimConfig { models: Vec::new(), engine, ..SimConfig::default() }
}

/// What a stack is made of.
pub struct Plan {
    /// Its pools, each with a listener of its own.
    pub pools: Vec<PoolPlan>,
    /// The file's `server` section, as YAML's flow style.
    pub server: String,
    /// Further flags of the picker.
    pub picker_flags: Vec<String>,
    /// The picker's program: package and name.
    pub picker: (&'static str, &'static str),
    /// Whether Envoy and picker speak TLS, verified.
    pub tls: bool,
    /// Changes the bootstrap.
    pub options: fn(&mut BootstrapOptions),
}

impl Plan {
    /// One pool of `servers` fast servers.
    pub fn new(servers: usize) -> Self {
        Self::of(vec![PoolPlan::new("default/pool", servers)])
    }

    /// Several pools.
    pub fn of(pools: Vec<PoolPlan>) -> Self {
        Self {
            pools,
            server: "{}".to_owned(),
            picker_flags: Vec::new(),
            picker: ("pointsman", "pointsman"),
            tls: false,
            options: |_| {},
        }
    }
}

/// A running stack. Dropping it ends everything.
pub struct Stack {
    /// The servers, pool by pool.
    pub servers: Vec<Vec<SimHandle>>,
    /// The picker.
    pub picker: Program,
    /// Envoy.
    pub envoy: Program,
    /// Talks to Envoy as clients do.
    pub client: Client,
    folder: TempDir,
    ip: IpAddr,
    plan: Plan,
}

impl Stack {
    /// Starts everything and waits until each pool answers through Envoy.
    pub async fn start(plan: Plan) -> Result<Self> {
        let network = own_network();
        let address = |host: u8| IpAddr::V4(Ipv4Addr::new(network[0], network[1], network[2], host));
        let folder = tempfile::tempdir()?;
        let mut servers = Vec::new();
        let mut hosts = 10..250;
        for pool in &plan.pools {
            let mut started = Vec::new();
            for server in &pool.servers {
                let host = hosts.next().context("too many servers")?;
                let config = SimConfig { name: format!("server-{host}"), ..server.clone() };
                started.push(SimServer::start(config, SocketAddr::new(address(host), SIM_PORT)).await?);
            }
            servers.push(started);
        }
        let ip = address(1);
        let config = folder.path().join("picker.yaml");
        std::fs::write(&config, configuration(&plan, &servers))?;
        let picker = start_picker(&plan, ip, &folder)?;
        let bootstrap_file = folder.path().join("envoy.yaml");
        if plan.tls {
            wait_for_file(&folder.path().join("tls/ca.crt")).await?;
        }
        std::fs::write(&bootstrap_file, to_yaml(&bootstrap(&options(&plan, ip, &folder))?))?;
        let mut command = Command::new(envoy()?);
        command.arg("-c").arg(&bootstrap_file);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"]);
        let envoy = Program::start("envoy", command, folder.path())?;
        let mut stack = Self { servers, picker, envoy, client: Client::new(), folder, ip, plan };
        stack.wait_until_ready().await?;
        Ok(stack)
    }

    /// The base URL of a pool, by its place in the plan.
    pub fn url(&self, pool: usize) -> String {
        format!("http://{}:{}", self.ip, usize::from(LISTEN_PORT) + pool)
    }

    /// Posts a body to the first pool.
    pub async fn post(&self, path: &str, body: impl Into<bytes::Bytes>) -> Result<Answer> {
        self.client.post(&format!("{}{path}", self.url(0)), &[], body).await
    }

    /// Gets a page of the picker's admin listener.
    pub async fn admin(&self, page: &str) -> Result<Value> {
        let answer = self.client.get(&format!("http://{}:9091{page}", self.ip), &[]).await?;
        serde_json::from_slice(&answer.body).with_context(|| format!("{page}: {}", answer.text()))
    }

    /// Changes what the picker logs; what is in force then.
    pub async fn set_log_level(&self, filter: &'static str) -> Result<String> {
        let page = format!("http://{}:9091/debug/log-level", self.ip);
        self.client.put(&page, filter).await?;
        Ok(self.client.get(&page, &[]).await?.text())
    }

    /// The picker's metrics, as text.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.client.get(&format!("http://{}:9090/metrics", self.ip), &[]).await?.text())
    }

    /// The sum of a metric's series whose line holds all of `with`.
    pub async fn metric(&self, name: &str, with: &[&str]) -> Result<f64> {
        let text = self.metrics().await?;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && with.iter().all(|part| line.contains(part))
        });
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Waits until `condition` holds of the picker's pools page; the page.
    pub async fn until_pools(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = tokio::time::Instant::now() + READY_DEADLINE;
        loop {
            let page = self.admin("/debug/pools").await?;
            if condition(&page) {
                return Ok(page);
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "never {what}: {page:#}");
            tokio::time::sleep(READY_LOOK).await;
        }
    }

    /// Waits until nothing is counted in flight to any endpoint.
    pub async fn until_idle(&self) -> Result<()> {
        let is_idle = |page: &Value| {
            let endpoints = page.as_array().into_iter().flatten().filter_map(|pool| pool["endpoints"].as_array());
            endpoints.flatten().all(|endpoint| {
                endpoint["inFlight"] == 0 && endpoint["inFlightTokens"] == 0 && endpoint["openResponses"] == 0
            })
        };
        self.until_pools("idle", is_idle).await.map(|_| ())
    }

    /// Writes another configuration over the picker's file.
    pub fn rewrite_configuration(&self, text: &str) -> Result<()> {
        let part = self.folder.path().join("picker.yaml.part");
        std::fs::write(&part, text)?;
        Ok(std::fs::rename(part, self.folder.path().join("picker.yaml"))?)
    }

    /// The picker's configuration as it was written at the start.
    pub fn configuration(&self) -> String {
        configuration(&self.plan, &self.servers)
    }

    /// Starts the picker again after it ended, and waits until it is asked again.
    pub async fn restart_picker(&mut self) -> Result<()> {
        self.picker = start_picker(&self.plan, self.ip, &self.folder)?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + READY_DEADLINE;
        let pools = (0..self.plan.pools.len()).filter(|pool| !self.plan.pools[*pool].servers.is_empty());
        for pool in pools.collect::<Vec<_>>() {
            loop {
                self.picker.must_run()?;
                self.envoy.must_run()?;
                let answer = self.client.get(&format!("{}/v1/models", self.url(pool)), &[]).await;
                match answer {
                    Ok(answer) if answer.status == 200 => break,
                    other => anyhow::ensure!(
                        tokio::time::Instant::now() < deadline,
                        "pool {pool} does not answer: {other:?}\npicker:\n{}\nenvoy:\n{}",
                        self.picker.log(),
                        self.envoy.log()
                    ),
                }
                tokio::time::sleep(READY_LOOK).await;
            }
        }
        Ok(())
    }
}

async fn wait_for_file(file: &std::path::Path) -> Result<()> {
    let deadline = tokio::time::Instant::now() + READY_DEADLINE;
    while !file.is_file() {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{} never came", file.display());
        tokio::time::sleep(READY_LOOK).await;
    }
    Ok(())
}

fn start_picker(plan: &Plan, ip: IpAddr, folder: &TempDir) -> Result<Program> {
    let mut command = Command::new(built(plan.picker.0, plan.picker.1)?);
    command.arg("serve").arg("--config").arg(folder.path().join("picker.yaml"));
    command.arg("--bind-address").arg(ip.to_string());
    command.arg("--admin-address").arg(format!("{ip}:9091"));
    command.arg("--eds-address").arg(format!("{ip}:9005"));
    if plan.tls {
        command.arg("--tls-dir").arg(folder.path().join("tls"));
    } else {
        command.arg("--secure-serving=false");
    }
    command.args(&plan.picker_flags);
    Program::start("picker", command, folder.path())
}

fn configuration(plan: &Plan, servers: &[Vec<SimHandle>]) -> String {
    let mut text = format!("server: {}\npools:\n", plan.server);
    for (pool, servers) in plan.pools.iter().zip(servers) {
        text.push_str(&format!("- name: {}\n  scheduling: {}\n  endpoints:", pool.name, pool.scheduling));
        text.push_str(if servers.is_empty() { " []\n" } else { "\n" });
        for server in servers {
            let (name, address) = (server.name(), server.addr());
            text.push_str(&format!("  - {{name: {name}, address: {}, port: {}}}\n", address.ip(), address.port()));
        }
    }
    text
}

fn options(plan: &Plan, ip: IpAddr, folder: &TempDir) -> BootstrapOptions {
    let picker = [SocketAddr::new(ip, 9002)];
    let ca = Pem::File(folder.path().join("tls/ca.crt").display().to_string());
    let tls = PeerTls { ca, server_name: "localhost".to_owned(), client: None };
    let picker = if plan.tls { Peer::verified(picker, tls) } else { Peer::plaintext(picker) };
    let wirings = plan.pools.iter().zip(LISTEN_PORT..).map(|(pool, port)| {
        let mut wiring = PoolWiring::new(&pool.name, SocketAddr::new(ip, port));
        (pool.wire)(&mut wiring);
        wiring
    });
    let mut options = BootstrapOptions::new(picker, Peer::plaintext([SocketAddr::new(ip, 9005)]), wirings.collect());
    options.admin = Some(SocketAddr::new(ip, 9901));
    (plan.options)(&mut options);
    options
}
